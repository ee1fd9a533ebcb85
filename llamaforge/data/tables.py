"""Rows of tables as text: CSV (RFC 4180), TSV and their kin, with names in the first row.

A cell is a text, an empty one the empty text. A cell that runs over several lines costs no row
its place: rows are counted by the line on which they begin.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from llamaforge.data.json_rows import skip_line
from llamaforge.data.privacy import masked_line
from llamaforge.data.raw_rows import (
    JSON_COLUMNS,
    MAX_ROW_BYTES,
    TOO_LONG,
    Row,
    cell_value,
    require_unicode,
)
from llamaforge.data.records import Rejection, RowError
from llamaforge.data.sniff import Dialect
from llamaforge.errors import InvalidFileError
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

_MAX_HEADER_BYTES: Final = 1024 * 1024
_STRAY_QUOTE: Final = (
    "a quoted cell goes on after its closing quote (a quote within a cell is written twice)"
)
_ODD_QUOTE: Final = "a quote has no counterpart, after a broken row above"


def table_rows(stream: BinaryIO, name: str, dialect: Dialect) -> Iterator[Row | Rejection]:
    """Yield the rows below the header of a table in UTF-8. Blank lines are no rows.

    Raises:
        InvalidFileError: the header names a column twice (`duplicate_columns`) or cannot be read
            (`invalid_header`); or a quote is opened and not closed, so that nobody knows where
            the rows below end (`unclosed_quote`).
    """
    table = _Table(stream, name, dialect)
    names = table.header()
    if names is None:
        return
    while (record := table.record()) is not None:
        if isinstance(record, Rejection):
            yield record
        elif len(record) > 1 or any(map(str.strip, record)):
            yield table.row(names, record)


class _TooLongError(Exception):
    """The record in work is longer than a row may be."""


class _Lines:
    """The lines of a table, of which the record in work is made."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0
        """Lines read so far."""
        self.first = 1
        """The line on which the record in work begins."""
        self._size = 0
        self.counts_quotes = False
        self.quotes = 0
        """Quotes in the record in work, where they are counted."""
        self.is_unicode = True
        """Whether all bytes of the record in work are UTF-8."""

    def begin(self) -> None:
        """Begin a record with the next line."""
        self.first = self.number + 1
        self._size = 0
        self.quotes = 0
        self.is_unicode = True

    @property
    def size(self) -> int:
        """Bytes of the record in work."""
        return self._size

    def __iter__(self) -> Iterator[str]:
        """Yield the lines that are left; after an error it has to be asked for anew."""
        # As a generator: a call of a method for each line takes a third of all the time.
        read = self._stream.readline
        while line := read(MAX_ROW_BYTES + 1):
            self.number += 1
            self._size += len(line)
            if self._size > MAX_ROW_BYTES:
                if not line.endswith(b"\n"):
                    skip_line(self._stream)
                raise _TooLongError
            if self.counts_quotes:
                self.quotes += line.count(b'"')
            try:
                text = line.decode()
            except UnicodeDecodeError:
                self.is_unicode = False
                text = line.decode("utf-8", "surrogateescape")
            yield text


class _Table:
    def __init__(self, stream: BinaryIO, name: str, dialect: Dialect) -> None:
        self._name = name
        self._lines = _Lines(stream)
        self._skipped_lines = dialect.skipped_lines
        self._quoted = dialect.quoted
        # The module's limit is one for the whole process; ours is `MAX_ROW_BYTES` a record.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
        self._delimiter = dialect.delimiter
        self._reader = self._new_reader()
        self._shaken = False
        """A row above was broken, so that a cell of it may be taken for a row."""

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(
            self._lines,
            delimiter=self._delimiter,
            quoting=csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE,
            strict=True,
        )

    def header(self) -> list[str] | None:
        """Return the names of the columns; none where there is nothing at all."""
        for _ in range(self._skipped_lines):
            next(iter(self._lines), None)
        cells: list[str] | Rejection | None = []
        while cells == []:
            cells = self.record()
        if cells is None:
            return None
        if isinstance(cells, Rejection):
            raise self._invalid_header(cells.reason)
        if self._lines.size > _MAX_HEADER_BYTES:
            raise self._invalid_header(f"it is longer than {_MAX_HEADER_BYTES // 2**20} MiB")
        try:
            require_unicode("".join(cells))
        except RowError as error:
            raise self._invalid_header(str(error)) from None
        # Tables written with a row index have a first column without a name.
        names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, start=1)]
        twice = [column for column, count in Counter(names).items() if count > 1]
        if twice:
            raise InvalidFileError(
                f"The header of {safe_line(self._name)} has the column"
                f" {masked_line(repr(twice[0]), limit=60)} twice.",
                "Give every column a name of its own in the first row.",
                code="duplicate_columns",
            )
        return names

    def _invalid_header(self, reason: str) -> InvalidFileError:
        return InvalidFileError(
            f"The header of {safe_line(self._name)} cannot be read: {reason}.",
            "Put the names of the columns into the first row.",
            code="invalid_header",
        )

    def record(self) -> list[str] | Rejection | None:
        """Return the cells of the next record (a blank line has none), or why there are none.

        At the end of the file it is none.
        """
        lines = self._lines
        lines.begin()
        lines.counts_quotes = self._shaken
        try:
            cells = next(self._reader)
        except StopIteration:
            return None
        except _TooLongError:
            self._reader = self._new_reader()
            if lines.number > lines.first:
                raise self._unclosed() from None
            return self._broken(TOO_LONG)
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return self._broken(_clause(error))
            if lines.number > lines.first:
                raise self._unclosed() from None
            return self._broken("a quote is opened and not closed (the last line is cut off)")
        if self._shaken and lines.quotes % 2 and self._quoted:
            return self._broken(_ODD_QUOTE)
        return cells

    def _broken(self, reason: str) -> Rejection:
        self._shaken = True
        return Rejection(self._name, self._lines.first, reason)

    def _unclosed(self) -> InvalidFileError:
        return InvalidFileError(
            f"A quote that is opened on line {self._lines.first:,} of {safe_line(self._name)} or"
            " below is never closed, so nobody knows where the rows after it end.",
            "Close it; a quote within a quoted cell is written twice.",
            code="unclosed_quote",
        )

    def row(self, names: list[str], cells: list[str]) -> Row | Rejection:
        """Return the row that `cells` are."""
        number = self._lines.first
        if len(cells) != len(names):
            return self._broken(
                f"the row has {plural(len(cells), 'cell')}, the header {len(names):,}"
            )
        self._shaken = False
        try:
            if not self._lines.is_unicode:
                for cell in cells:
                    require_unicode(cell)
            fields: dict[str, Any] = dict(zip(names, cells, strict=True))
            for name in JSON_COLUMNS.intersection(names):
                fields[name] = cell_value(name, fields[name])
        except RowError as error:
            return Rejection(self._name, number, str(error))
        return Row(number, fields)


def _clause(error: csv.Error) -> str:
    text = str(error)
    if " expected after " in text:
        return _STRAY_QUOTE
    if "new-line character" in text:
        return "a cell that is not quoted holds a carriage return"
    if "field larger" in text:
        return TOO_LONG
    return f"the row is no CSV: {safe_line(text, limit=80)}"
