"""Files of rows, opened by what they hold: JSON Lines or a JSON array, plain or gzip.

Rows are streamed: no more than one row, at most `MAX_ROW_BYTES`, is in memory at a time.
"""

import codecs
import difflib
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from llamaforge.data.json_array import ArrayScanner
from llamaforge.data.json_row import CutOffError, parse_object
from llamaforge.data.records import Rejection, RowError, source_name
from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError
from llamaforge.safe_text import safe_line

MAX_ROW_BYTES: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_HEAD_BYTES: Final = 4096

Container = Literal["jsonl", "json", "jsonl.gz", "json.gz"]

_GZIP: Final = b"\x1f\x8b"
_OTHER_FILES: Final = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"GGUF": "a GGUF model",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xfd7zXZ": "an XZ archive",
    b"BZh": "a bzip2 archive",
    _GZIP: "a gzip archive within a gzip archive",
    codecs.BOM_UTF32_LE: "UTF-32 text",
    codecs.BOM_UTF32_BE: "UTF-32 text",
}
_UTF8_HINT: Final = "Convert it to JSON Lines in UTF-8: one object a line."


@dataclass(frozen=True, slots=True)
class Row:
    """One row that is a JSON object: its 1-based line or position, and its fields."""

    row: int
    fields: dict[str, Any]


def require_file(path: Path) -> None:
    """Check that `path` is a file that can be opened for reading.

    Raises:
        NotFoundError: there is nothing at `path`.
        RefusedError: it is a folder or a device, or it may not be read.
    """
    shown = safe_line(source_name(path))
    with reading(path):
        if path.is_dir():
            raise RefusedError(
                f"{shown} is a folder, not a data file.",
                "Name the files in it, one --data each.",
                code="source_is_folder",
            )
        if not path.exists():
            raise NotFoundError(f"There is no file {shown}.", _near(path), code="no_source")
        if not path.is_file():
            raise RefusedError(
                f"{shown} is not a regular file.",
                "Save the rows to a file first: they are read more than once.",
                code="source_not_a_file",
            )
        with path.open("rb"):
            pass


def _near(path: Path) -> str:
    """Return a hint that names the file that was probably meant."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except OSError:
        return "Check the path."
    near = difflib.get_close_matches(path.name, names, n=1)
    if not near:
        return "Check the path."
    return f"Did you mean {safe_line(source_name(path.parent / near[0]))}?"


def container_of(path: Path) -> Container:
    """Return what kind of file `path` is, by its content.

    Raises:
        NotFoundError, RefusedError: as `require_file`.
        InvalidFileError: it is neither JSON text nor gzip of it.
    """
    require_file(path)
    with reading(path), _opened(path) as (_, container):
        return container


def rows(path: Path) -> Iterator[Row | Rejection]:
    """Yield every row of `path` in order: an object, or why it is none. Blank lines are no rows.

    Raises:
        NotFoundError, RefusedError: as `require_file`, also where reading fails half way.
        InvalidFileError: it is neither JSON text nor gzip of it, the gzip stream is damaged, or
            there is text after the end of a JSON array.
    """
    require_file(path)
    name = source_name(path)
    with reading(path), _opened(path) as (stream, container):
        if container.startswith("jsonl"):
            yield from _line_rows(stream, name)
        else:
            yield from _array_rows(stream, name)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says about `path` within this block into errors for people.

    Raises:
        InvalidFileError: its gzip stream is damaged.
        RefusedError: it cannot be read.
    """
    shown = safe_line(source_name(path))
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidFileError(
            f"{shown} is damaged: its gzip stream cannot be unpacked to the end.",
            "Copy or download the file again; test it with: gzip -t",
            code="damaged_gzip",
        ) from error
    except OSError as error:
        raise RefusedError(
            f"{shown} cannot be read: {error.strerror or 'the system refused'}.",
            "Check the file's permissions.",
            code="unreadable_source",
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Container]]:
    """Open `path` as a stream of UTF-8 bytes without a byte order mark, and say what it is."""
    with ExitStack() as stack:
        stream: BinaryIO = stack.enter_context(path.open("rb"))
        packed = _peek(stream).startswith(_GZIP)
        if packed:
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=stream))
            stream = io.BufferedReader(cast(io.RawIOBase, unpacked), _CHUNK_BYTES)
        head = _peek(stream)
        _refuse_other_files(head, path)
        encoding, mark = _encoding(head)
        stream.read(len(mark))
        if encoding != "utf-8":
            stream = io.BufferedReader(_Transcoded(stream, encoding), _CHUNK_BYTES)
        text = _peek(stream)
        if b"\0" in text and text.lstrip()[:1] not in {b"{", b"["}:
            raise _not_text(path, "a binary file")
        kind = "json" if text.lstrip().startswith(b"[") else "jsonl"
        yield stream, cast(Container, f"{kind}.gz" if packed else kind)


def _peek(stream: BinaryIO) -> bytes:
    return cast(io.BufferedReader, stream).peek(_HEAD_BYTES)[:_HEAD_BYTES]


def _refuse_other_files(head: bytes, path: Path) -> None:
    for magic, description in _OTHER_FILES.items():
        if head.startswith(magic):
            raise _not_text(path, description)


def _not_text(path: Path, description: str) -> InvalidFileError:
    return InvalidFileError(
        f"{safe_line(source_name(path))} is {description}, not rows of JSON.",
        _UTF8_HINT,
        code="binary_source",
    )


def _encoding(head: bytes) -> tuple[str, bytes]:
    """Return the encoding of JSON text that begins with `head`, and its byte order mark.

    Without a mark UTF-16 shows in that JSON begins with an ASCII character (RFC 4627, section 3).
    """
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8", codecs.BOM_UTF8
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le", codecs.BOM_UTF16_LE
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be", codecs.BOM_UTF16_BE
    if len(head) >= 2:
        if head[0] in b"{[ \t\r\n" and head[1] == 0:
            return "utf-16-le", b""
        if head[0] == 0 and head[1] in b"{[ \t\r\n":
            return "utf-16-be", b""
    return "utf-8", b""


class _Transcoded(io.RawIOBase):
    """UTF-16 as a stream of UTF-8.

    What is not valid UTF-16 becomes bytes that are not valid UTF-8, so that it rejects its own
    row later and no other.
    """

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
        self._pending = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._ended:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, final=self._ended)
                self._pending = text.encode("utf-8", "surrogatepass")
            except UnicodeDecodeError:  # half a code unit at the end of the file
                self._pending = b"\xff"
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def _line_rows(stream: BinaryIO, name: str) -> Iterator[Row | Rejection]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        whole = line.endswith(b"\n")
        if not whole and len(line) > MAX_ROW_BYTES:
            _skip_line(stream)
            yield Rejection(name, number, _TOO_LONG)
            continue
        line = line.rstrip(b"\r\n")
        if not line.strip():
            continue
        try:
            yield Row(number, parse_object(line))
        except CutOffError as error:
            reason = "a row must be on one line" if whole else "the last line is cut off"
            yield Rejection(name, number, f"{error} ({reason})")
        except RowError as error:
            yield Rejection(name, number, str(error))


_TOO_LONG: Final = f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB"


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(_CHUNK_BYTES)) and not part.endswith(b"\n"):
        pass


def _array_rows(stream: BinaryIO, name: str) -> Iterator[Row | Rejection]:
    number = 0
    for item in ArrayScanner(stream, name, MAX_ROW_BYTES).items():
        number += 1
        if item.oversized:
            yield Rejection(name, number, _TOO_LONG)
        elif not item.data.strip():
            yield Rejection(
                name, number, _NOT_CLOSED if item.at_end_of_file else "there is no item"
            )
        else:
            try:
                yield Row(number, parse_object(item.data.strip()))
            except RowError as error:
                reason = f"{error} ({_NOT_CLOSED})" if item.at_end_of_file else str(error)
                yield Rejection(name, number, reason)
                continue
            if item.at_end_of_file:
                yield Rejection(name, number + 1, _NOT_CLOSED)


_NOT_CLOSED: Final = "the file is cut off: its JSON array is not closed"
