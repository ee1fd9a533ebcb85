"""A table that is printed row by row, for lists that are shown while they are still read."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llamaforge.safe_text import safe_line

_GAP: Final = "  "
_NOTHING: Final = "–"


@dataclass(frozen=True)
class Column:
    """A column of a fixed width, in terminal cells."""

    title: str
    width: int
    right: bool = False


class RowPrinter:
    """Prints rows to standard output; a cell that is too long goes on in the next line."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)

    def head(self) -> None:
        """Print the titles."""
        self._print([column.title for column in self._columns])

    def row(self, cells: Sequence[str]) -> None:
        """Print one row; the cells may hold anything, and an empty one shows a dash."""
        self._print([safe_line(cell) or _NOTHING for cell in cells])

    def _print(self, cells: Sequence[str]) -> None:
        from rich.cells import cell_len, chop_cells

        folded = [
            [cell] if cell_len(cell) <= column.width else chop_cells(cell, column.width)
            for cell, column in zip(cells, self._columns, strict=True)
        ]
        for number in range(max(map(len, folded))):
            parts = [
                _padded(lines[number] if number < len(lines) else "", column)
                for lines, column in zip(folded, self._columns, strict=True)
            ]
            sys.stdout.write(_GAP.join(parts).rstrip() + "\n")


def _padded(text: str, column: Column) -> str:
    from rich.cells import cell_len

    space = " " * (column.width - cell_len(text))
    return space + text if column.right else text + space
