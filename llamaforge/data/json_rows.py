"""Rows of JSON text: one object a line, or the items of one array."""

from collections.abc import Iterator
from typing import BinaryIO, Final

from llamaforge.data.json_array import ArrayScanner
from llamaforge.data.json_row import CutOffError, parse_object
from llamaforge.data.raw_rows import MAX_ROW_BYTES, TOO_LONG, Row
from llamaforge.data.records import Rejection, RowError

_CHUNK_BYTES: Final = 256 * 1024
_NOT_CLOSED: Final = "the file is cut off: its JSON array is not closed"


def line_rows(stream: BinaryIO, name: str) -> Iterator[Row | Rejection]:
    """Yield the rows of JSON Lines in UTF-8. Blank lines are no rows."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        whole = line.endswith(b"\n")
        if not whole and len(line) > MAX_ROW_BYTES:
            skip_line(stream)
            yield Rejection(name, number, TOO_LONG)
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


def skip_line(stream: BinaryIO) -> None:
    """Read to the end of the line, a piece at a time."""
    while (part := stream.readline(_CHUNK_BYTES)) and not part.endswith(b"\n"):
        pass


def array_rows(stream: BinaryIO, name: str) -> Iterator[Row | Rejection]:
    """Yield the items of a JSON array in UTF-8.

    Raises:
        InvalidFileError: there is text after the end of the array.
    """
    number = 0
    for item in ArrayScanner(stream, name, MAX_ROW_BYTES).items():
        number += 1
        if item.oversized:
            yield Rejection(name, number, TOO_LONG)
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
