"""Rows from all over a file, to judge what it holds without reading it whole.

A plain JSON Lines file is looked at in places spread evenly over its bytes, and at its end. Any
other container can only be read from its beginning, so its first rows stand for the rest.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

from llamaforge.data.containers import MAX_ROW_BYTES, container_of, reading, rows
from llamaforge.data.json_row import parse_object
from llamaforge.data.records import Rejection, RowError

SAMPLE_ROWS: Final = 1000
"""Rows that are looked at, at most."""
PLACES: Final = 20
"""Places of a file that can be entered anywhere."""

_PLACE_BYTES: Final = 1024 * 1024  # a place ends here, after one row at least
_TAIL_BYTES: Final = 64 * 1024  # the last place, at most
_SMALL_FILE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sampled:
    """One row that was looked at."""

    fields: dict[str, Any] | None
    """The row's object; none where it is not valid."""
    weight: float
    """How many rows of the file it stands for, relative to the others."""


def sample(path: Path) -> Iterator[Sampled]:
    """Yield at most `SAMPLE_ROWS` rows of `path`: all of them, or rows from all over it.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    spread = _can_be_entered(path)
    if not spread or path.stat().st_size <= _SMALL_FILE_BYTES:
        head = list(islice(rows(path), SAMPLE_ROWS + 1))
        if len(head) <= SAMPLE_ROWS or not spread:
            for row in head[:SAMPLE_ROWS]:
                yield Sampled(None if isinstance(row, Rejection) else row.fields, 1.0)
            return
    with reading(path):
        size = path.stat().st_size
        with path.open("rb") as stream:
            # What was appended last may be of another kind and too short for a place by chance.
            tail = min(_TAIL_BYTES, size // PLACES)
            bounds = [(size - tail) * place // (PLACES - 1) for place in range(PLACES)]
            for start, stop in pairwise([*bounds, size]):
                yield from _place(stream, start, stop)


def _can_be_entered(path: Path) -> bool:
    """Return whether lines can be found from anywhere: plain JSON Lines in UTF-8."""
    if container_of(path) != "jsonl" or not path.is_file():
        return False
    with reading(path), path.open("rb") as stream:
        return b"\0" not in stream.read(4096)  # UTF-16


def _place(stream: BinaryIO, start: int, stop: int) -> Iterator[Sampled]:
    """Yield rows that begin between two places of a file, the first of them."""
    stream.seek(max(start - 1, 0))
    if start:
        _skip_line(stream)  # to the first line that begins here
    begin = stream.tell()
    found: list[dict[str, Any] | None] = []
    while len(found) < SAMPLE_ROWS // PLACES and stream.tell() < min(stop, begin + _PLACE_BYTES):
        line = stream.readline(MAX_ROW_BYTES + 1)
        if len(line) > MAX_ROW_BYTES:
            _skip_line(stream)
        if line.strip():
            found.append(_parsed(line))
    # Every place stands for as many bytes; where rows are short it stands for more of them.
    weight = (stop - start) / max(stream.tell() - begin, 1)
    for fields in found:
        yield Sampled(fields, weight)


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(MAX_ROW_BYTES)) and not part.endswith(b"\n"):
        pass


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_object(line.removeprefix(codecs.BOM_UTF8).strip())
    except RowError:
        return None
