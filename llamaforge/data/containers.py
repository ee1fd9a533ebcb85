"""Files of rows, opened by what they hold.

JSON Lines, a JSON array, CSV, TSV and plain text, each of them plain or packed by gzip or
Zstandard; and Parquet and Arrow. Rows are streamed: no more than one row, at most
`MAX_ROW_BYTES`, is in memory at a time; of Parquet and Arrow a batch of some megabytes.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from llamaforge.data.columns import column_rows
from llamaforge.data.json_rows import array_rows, line_rows
from llamaforge.data.plain_text import passages
from llamaforge.data.raw_rows import MAX_ROW_BYTES, Row
from llamaforge.data.records import Rejection, source_name
from llamaforge.data.streams import Container, Layout, opened, reading
from llamaforge.data.tables import table_rows
from llamaforge.errors import NotFoundError, RefusedError
from llamaforge.safe_text import safe_line

__all__ = [
    "MAX_ROW_BYTES",
    "Container",
    "Layout",
    "Row",
    "container_of",
    "layout_of",
    "place_word",
    "reading",
    "require_file",
    "rows",
]


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
                "Name the files in it.",
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
        as `layout_of`.
    """
    return layout_of(path).container


def layout_of(path: Path) -> Layout:
    """Return what kind of file `path` is, by its content, its encoding and its delimiter.

    The name decides only between what the content leaves open: prose, and tables and JSON that
    are broken from the first line on.

    Raises:
        NotFoundError, RefusedError: as `require_file`.
        InvalidFileError: it is of another kind (`binary_source`), is text in an encoding that
            cannot be told (`unknown_encoding`), or is packed and damaged.
    """
    require_file(path)
    with reading(path), opened(path) as (_, layout):
        return layout


def rows(path: Path) -> Iterator[Row | Rejection]:
    """Yield every row of `path` in order: an object, or why it is none. Blank lines are no rows.

    Raises:
        NotFoundError, RefusedError: as `require_file`, also where reading fails half way.
        InvalidFileError: as `layout_of`, at any place of the file; there is text after the end of
            a JSON array; or as `table_rows` and `column_rows`.
    """
    require_file(path)
    name = source_name(path)
    with reading(path), opened(path) as (stream, layout):
        if layout.container in {"parquet", "arrow"}:
            yield from column_rows(path, layout.container)
        else:
            yield from _text_rows(stream, name, layout)


def _text_rows(stream: BinaryIO, name: str, layout: Layout) -> Iterator[Row | Rejection]:
    if layout.dialect is not None:
        return table_rows(stream, name, layout.dialect)
    reader = {"jsonl": line_rows, "json": array_rows, "txt": passages}
    return reader[layout.container.partition(".")[0]](stream, name)


_PLACES: Final = {"json": "item", "parquet": "row", "arrow": "row"}


def place_word(container: Container) -> str:
    """Return what the number of a row counts in such a file: `line`, `item` or `row`."""
    return _PLACES.get(container.partition(".")[0], "line")
