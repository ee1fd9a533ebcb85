"""The geometry of a curve drawn in braille: ticks, dots and cells, without any widget."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from llamaforge.tui.loss_history import LossPoint

# The bits of the eight dots of a braille cell (U+2800 ff.), by column and row from the top.
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_FLAT: Final = 1e-9
"""A range smaller than this part of its values is one value; labels could not tell it apart."""
_PARTS: Final = (10.0, 5.0, 2.5, 2.0, 1.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values with round ticks in it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def place(self, value: float, dots: int) -> int:
        """Return which of `dots` places `value` is nearest to; 0 is the low end."""
        part = (value - self.low) / (self.high - self.low)
        return round(part * (dots - 1))


def axis_of(low: float, high: float, count: int, *, whole: bool = False) -> Axis:
    """Return the axis from `low` to `high` with about `count` round ticks inside it, at least two.

    With `whole`, ticks are whole numbers, and where there are not two of them there is one.
    """
    if high - low <= _FLAT * max(abs(low), abs(high), 1.0):
        margin = 0.5 if whole else max(abs(low) * 0.1, 0.1)
        low, high = low - margin, high + margin
    power = math.floor(math.log10(high - low))
    sizes = [part * 10.0**exponent for exponent in (power, power - 1) for part in _PARTS]
    if whole:
        sizes = [size for size in sizes if size >= 1 and size.is_integer()] or [1.0]
    best: list[float] = []
    step = sizes[0]
    for size in sizes:  # from large to small: the first that gives enough, and never too many
        first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
        found = [number * size for number in range(first, last + 1)]
        if len(best) >= 2 and len(found) > count:
            break
        best, step = found, size
    return Axis(low, high, tuple(best), tuple(_label(tick, step) for tick in best))


def _label(tick: float, step: float) -> str:
    if step >= 1 and step.is_integer():
        return f"{tick:,.0f}" if abs(tick) < 1e6 else f"{tick:.3g}"
    decimals = max(-math.floor(math.log10(step) + 1e-9), 1)
    if not math.isclose(step * 10**decimals, round(step * 10**decimals)):
        decimals += 1  # steps of 0.25
    return f"{tick:.{decimals}f}"


class Canvas:
    """A grid of cells, each of two by four dots."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._cells = [[0] * columns for _ in range(rows)]

    @property
    def size(self) -> tuple[int, int]:
        """Dots across and dots high."""
        return 2 * self.columns, 4 * self.rows

    def cell(self, column: int, row: int) -> str:
        """Return the braille character of a cell, or an empty string where it has no dot."""
        bits = self._cells[row][column]
        return chr(0x2800 + bits) if bits else ""

    def dot(self, x: int, y: int) -> None:
        """Set the dot `x` from the left and `y` from the bottom; outside the grid is no dot."""
        width, height = self.size
        if 0 <= x < width and 0 <= y < height:
            top = height - 1 - y
            self._cells[top // 4][x // 2] |= _DOTS[x % 2][top % 4]

    def curve(self, places: Sequence[tuple[int, int]]) -> None:
        """Set the dots of the lines from each place to the next."""
        for x, y in places[:1]:
            self.dot(x, y)
        for (x0, y0), (x1, y1) in itertools.pairwise(places):
            length = max(abs(x1 - x0), abs(y1 - y0))
            if length <= 1:
                self.dot(x1, y1)
                continue
            for number in range(1, length + 1):
                part = number / length
                self.dot(round(x0 + (x1 - x0) * part), round(y0 + (y1 - y0) * part))


def places(
    points: Iterable[LossPoint], across: Axis, up: Axis, size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return where `points` lie on a grid of dots, one place a column: the mean of its points."""
    low, scale = across.low, (size[0] - 1) / (across.high - across.low)
    columns: dict[int, list[float]] = {}
    # As `Axis.place`: it is done for each of a thousand points, again and again.
    for point in points:
        column = round((point.step - low) * scale)
        if (losses := columns.get(column)) is None:
            columns[column] = [point.loss]
        else:
            losses.append(point.loss)
    return [
        (column, up.place(sum(losses) / len(losses), size[1]))
        for column, losses in sorted(columns.items())
    ]


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of `values` without the outermost fiftieth at either end."""
    ordered = sorted(values)
    cut = len(ordered) // 50
    return ordered[cut], ordered[-1 - cut]
