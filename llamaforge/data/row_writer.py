"""A file of rows that is written line by line, and whole or absent all the same."""

import gzip
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from llamaforge.data.containers import MAX_ROW_BYTES
from llamaforge.data.records import RowError, canonical_json, source_name
from llamaforge.errors import InvalidFileError, LlamaForgeError, NotFoundError
from llamaforge.files import commit, sha256_of
from llamaforge.safe_text import safe_line

_BUFFER_BYTES: Final = 256 * 1024


def require_free(path: Path, *, force: bool) -> None:
    """Check that a file of rows may be written to `path`.

    Raises:
        NotFoundError: there is no such folder (`no_folder`).
        InvalidFileError: `path` is a folder or a device; or it is there already, and `force` does
            not say to replace it (`exists`).
    """
    shown = safe_line(source_name(path))
    if not path.parent.is_dir():
        raise NotFoundError(
            f"There is no folder {safe_line(source_name(path.parent))}.",
            "Make it first, or name another place.",
            code="no_folder",
        )
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise InvalidFileError(
            f"{shown} is no file that could be replaced.", "Name a file.", code="not_a_file"
        )
    if path.exists() and not force:
        raise InvalidFileError(
            f"{shown} is there already.",
            "Name another file, or say --force to replace it.",
            code="exists",
        )


class RowWriter:
    """A context manager that writes JSON Lines beside `path` and puts them there on `commit`.

    Leaving its block without `commit` leaves `path` as it was. A name that ends in `.gz` is packed.

    Raises:
        LlamaForgeError: the system does not let it be written (`cannot_write`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self.rows = 0

    def __enter__(self) -> Self:
        try:
            handle, name = tempfile.mkstemp(
                dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"
            )
        except OSError as error:
            raise self._failed(error) from error
        self._temporary = Path(name)
        self._file = self._stack.enter_context(os.fdopen(handle, "wb", _BUFFER_BYTES))
        self._stream: BinaryIO = self._file
        if self._path.suffix == ".gz":
            # Without name and time inside, equal rows make equal files.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, mtime=0)
            self._stream = cast(BinaryIO, packed)
        return self

    def write(self, fields: Mapping[str, Any]) -> None:
        """Append one row.

        Raises:
            RowError: it would be longer than the `MAX_ROW_BYTES` that can be read back, or holds
                half a character.
        """
        try:
            # Keys stay in their order: messages come first, as people expect to see them.
            line = row_line(fields)
        except UnicodeEncodeError:
            raise RowError("a text holds half a character (a lone surrogate)") from None
        if len(line) > MAX_ROW_BYTES:
            raise RowError(f"the row would be longer than {MAX_ROW_BYTES // 2**20} MiB")
        try:
            self._stream.write(line)
        except OSError as error:
            raise self._failed(error) from error
        self.rows += 1

    def finish(self) -> str:
        """Bring all rows to the disk, and return the sha256 of the file that they make.

        No row can be written after that.
        """
        if self._temporary is None:
            raise ValueError("the writer is not open")
        try:
            if self._stream is not self._file:
                self._stream.close()
            if not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._stack.close()
        except OSError as error:
            raise self._failed(error) from error
        return sha256_of(self._temporary)

    def commit(self) -> None:
        """Put the rows in their place, durably."""
        if self._temporary is None:
            raise ValueError("the writer is not open")
        if not self._file.closed:
            self.finish()
        try:
            commit(self._temporary, self._path)
        except OSError as error:
            raise self._failed(error) from error
        self._temporary = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None
        try:
            self._stack.close()
        except OSError:
            if kind is None:
                raise

    def _failed(self, error: OSError) -> LlamaForgeError:
        return LlamaForgeError(
            f"{safe_line(source_name(self._path))} cannot be written:"
            f" {error.strerror or 'the system refused'}.",
            "Free some space or name another place, and start again.",
            code="cannot_write",
        )


def row_line(fields: Mapping[str, Any]) -> bytes:
    """Return one row as a line of JSON in UTF-8, its keys in their order.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
        ValueError: a number is NaN or infinite.
    """
    parts = [canonical_json(key) + b":" + canonical_json(value) for key, value in fields.items()]
    return b"{" + b",".join(parts) + b"}\n"
