"""Files as streams of UTF-8, whatever they are packed and encoded in, and what they hold."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from llamaforge.data import sniff
from llamaforge.data.records import source_name
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.safe_text import safe_line

Container = Literal[
    "jsonl", "json", "csv", "tsv", "txt",
    "jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "txt.gz",
    "jsonl.zst", "json.zst", "csv.zst", "tsv.zst", "txt.zst",
    "parquet", "arrow",
]  # fmt: skip

_CHUNK_BYTES: Final = 256 * 1024
_HEAD_BYTES: Final = 4096
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"
_ARROW_FILE: Final = b"ARROW1"
_ARROW_STREAM: Final = b"\xff\xff\xff\xff"
_OTHER_FILES: Final = {
    b"PARE": "an encrypted Parquet file",
    b"FEA1": "a Feather file of version 1",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a document or spreadsheet of an old Microsoft Office",
    b"GGUF": "a GGUF model",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"\xfd7zXZ": "an XZ archive",
    b"BZh": "a bzip2 archive",
    codecs.BOM_UTF32_LE: "UTF-32 text",
    codecs.BOM_UTF32_BE: "UTF-32 text",
}
_WITHIN: Final = {
    _PARQUET: "a Parquet file",
    _ARROW_FILE: "an Arrow file",
    _ARROW_STREAM: "an Arrow stream",
    _GZIP: "a gzip archive",
    _ZSTD: "a Zstandard archive",
}
_ARCHIVES: Final = {".gz": "a gzip archive", ".zst": "a Zstandard archive"}
_UTF8_HINT: Final = "Convert it to JSON Lines in UTF-8: one object a line."


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file is and how it is written, told from its beginning."""

    container: Container
    encoding: str = "utf-8"
    """Of a text: `utf-8`, `utf-16-le`, `utf-16-be` or `cp1252`."""
    dialect: sniff.Dialect | None = None
    """Of a table."""


class DamagedZstdError(Exception):
    """A Zstandard stream cannot be unpacked to its end."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says about `path` within this block into errors for people.

    Raises:
        InvalidFileError: its gzip or Zstandard stream is damaged.
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
    except DamagedZstdError as error:
        raise InvalidFileError(
            f"{shown} is damaged: its Zstandard stream cannot be unpacked to the end.",
            "Copy or download the file again; test it with: zstd -t",
            code="damaged_zstd",
        ) from error
    except OSError as error:
        raise RefusedError(
            f"{shown} cannot be read: {error.strerror or 'the system refused'}.",
            "Check the file's permissions.",
            code="unreadable_source",
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Layout]]:
    """Open `path` and say what it is. A text is a stream of UTF-8 without a byte order mark.

    Raises:
        InvalidFileError: it is neither rows nor text (`binary_source`), or text in an encoding
            that cannot be told (`unknown_encoding`).
    """
    with ExitStack() as stack:
        stream: BinaryIO = stack.enter_context(path.open("rb", buffering=_CHUNK_BYTES))
        head = _peek(stream)
        if head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)):
            yield stream, Layout("parquet" if head.startswith(_PARQUET) else "arrow")
            return
        packing = ""
        if head.startswith(_GZIP):
            packing = ".gz"
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=stream))
            stream = io.BufferedReader(cast(io.RawIOBase, unpacked), _CHUNK_BYTES)
        elif head.startswith(_ZSTD):
            packing = ".zst"
            stream = io.BufferedReader(_Unpacked(stream), _CHUNK_BYTES)
        yield _as_text(stream, path, packing)


def _as_text(stream: BinaryIO, path: Path, packing: str) -> tuple[BinaryIO, Layout]:
    head = _peek(stream)
    _refuse_other_files(head, path, packing)
    encoding, mark = _encoding(head)
    stream.read(len(mark))
    if encoding != "utf-8":
        stream = _decoded(stream, encoding, "surrogatepass")
    head = _peek(stream, sniff.HEAD_BYTES)
    if b"\0" in head[:_HEAD_BYTES] and head.lstrip()[:1] not in {b"{", b"["}:
        raise _not_text(path, "a binary file")
    kind, dialect = sniff.text_kind(head.decode("utf-8", "replace"), _suffix(path))
    if kind in {"csv", "tsv", "txt"}:
        if not sniff.is_mostly_utf8(head):
            _require_western(head, path)
            encoding = "cp1252"
            stream = _decoded(stream, encoding, "surrogateescape")
        if b"\r" in head.rstrip(b"\r") and b"\n" not in head:
            stream = io.BufferedReader(_LineEnds(stream), _CHUNK_BYTES)
    return stream, Layout(cast(Container, f"{kind}{packing}"), encoding, dialect)


def _peek(stream: BinaryIO, size: int = _HEAD_BYTES) -> bytes:
    return cast(io.BufferedReader, stream).peek(size)[:size]


def _suffix(path: Path) -> str:
    """Return the end of the file's name that tells what is in it: `.csv` of `rows.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in {".gz", ".zst", ".zstd"}:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _refuse_other_files(head: bytes, path: Path, packing: str) -> None:
    for magic, description in _OTHER_FILES.items():
        if head.startswith(magic):
            raise _not_text(path, description)
    for magic, description in _WITHIN.items():
        if head.startswith(magic):
            raise _not_text(path, f"{description} within {_ARCHIVES[packing]}")


def _not_text(path: Path, description: str) -> InvalidFileError:
    hint = _UTF8_HINT
    if " within " in description:
        hint = "Unpack it first."
    elif "spreadsheet" in description:
        hint = "Save a spreadsheet as CSV in UTF-8; unpack an archive."
    return InvalidFileError(
        f"{safe_line(source_name(path))} is {description}, not rows of JSON.",
        hint,
        code="binary_source",
    )


def _require_western(head: bytes, path: Path) -> None:
    if not sniff.is_western(head):
        raise InvalidFileError(
            f"{safe_line(source_name(path))} is text in an encoding that cannot be told: it is"
            " neither UTF-8 nor UTF-16 nor Windows-1252.",
            "Save it as UTF-8, or convert it with: iconv -f ITS-ENCODING -t UTF-8",
            code="unknown_encoding",
        )


def _encoding(head: bytes) -> tuple[str, bytes]:
    """Return the encoding of text that begins with `head`, and its byte order mark.

    Without a mark UTF-16 shows in that JSON begins with an ASCII character (RFC 4627, section 3),
    and in the zeros of any other text that has ASCII in it.
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
    return sniff.unmarked_utf16(head) or "utf-8", b""


def _decoded(stream: BinaryIO, encoding: str, errors: str) -> BinaryIO:
    return io.BufferedReader(_Transcoded(stream, encoding, errors), _CHUNK_BYTES)


class _Refilled(io.RawIOBase):
    """A stream made of another one, a piece at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._pending = memoryview(b"")

    def _more(self) -> bytes:
        """Return the next piece; empty at the end only."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._pending:
            self._pending = memoryview(self._more())
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


class _Transcoded(_Refilled):
    """Another encoding as a stream of UTF-8.

    What is not valid in it becomes bytes that are not valid UTF-8, so that it rejects its own row
    later and no other.
    """

    def __init__(self, stream: BinaryIO, encoding: str, errors: str) -> None:
        super().__init__(stream)
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=errors)
        self._ended = False

    def _more(self) -> bytes:
        piece = b""
        while not piece and not self._ended:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, final=self._ended)
                piece = text.encode("utf-8", "surrogatepass")
            except UnicodeDecodeError:  # half a code unit at the end of the file
                piece = b"\xff"
        return piece


class _LineEnds(_Refilled):
    """A text whose lines end in CR alone, as on the oldest Macs, with LF in its place."""

    def _more(self) -> bytes:
        return self._stream.read(_CHUNK_BYTES).replace(b"\r", b"\n")


class _Unpacked(_Refilled):
    """What a Zstandard archive holds."""

    def __init__(self, stream: BinaryIO) -> None:
        import pyarrow  # noqa: PLC0415

        super().__init__(stream)
        self._unpacker = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")

    def _more(self) -> bytes:
        try:
            return cast(bytes, self._unpacker.read(_CHUNK_BYTES))
        except OSError as error:
            if error.errno is not None:  # the system's, not the unpacker's
                raise
            raise DamagedZstdError from error
