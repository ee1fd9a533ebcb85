"""The curves of several runs over each other, each with a letter besides its colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from textual.content import Content
from textual.widget import Widget

from llamaforge.tui.loss_history import LossPoint, smoothed
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.plot import Axis, Canvas, axis_of, places

COLOURS: Final = ("$primary", "$secondary", "$success", "$warning", "$error", "$foreground")
LETTERS: Final = "ABCDEF"
_LEAST_WIDTH: Final = 24
_LEAST_HEIGHT: Final = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's losses."""

    name: str
    """Safe to print."""
    points: tuple[LossPoint, ...]
    evals: tuple[LossPoint, ...]


class Overlay(Widget):
    """Draws as many curves as there are letters."""

    DEFAULT_CSS = """
    Overlay { height: 1fr; min-height: 6; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._curves: tuple[Curve, ...] = ()

    def show(self, curves: tuple[Curve, ...]) -> None:
        """Draw these from now on."""
        if curves != self._curves:
            self._curves = curves
            self.refresh()

    def render(self) -> Content:
        """Return the drawing."""
        size = self.content_size
        return Content("\n").join(overlay_lines(self._curves, size.width, size.height))


def style_of(number: int) -> str:
    """Return the colour of a curve."""
    return f"bold {COLOURS[number % len(COLOURS)]}"


def overlay_lines(curves: Sequence[Curve], width: int, height: int) -> list[Content]:
    """Return `height` lines of `width` cells: smoothed losses with axes; held-out ones as ◆."""
    smooth = [smoothed(curve.points) for curve in curves]
    drawn = [*smooth, *(curve.evals for curve in curves)]
    everything = [point for points in drawn for point in points]
    if not everything:
        return [Content.styled("None of these runs has taken a step yet.", MUTED)]
    if width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
        return [Content.styled("There is no room here for the curves.", MUTED)]
    rows = height - 3
    losses = [point.loss for point in everything]
    up = axis_of(min(losses), max(losses), max(rows // 3 + 1, 2))
    gutter = max(map(len, up.labels))
    columns = width - gutter - 2
    steps = [point.step for point in everything]
    across = axis_of(min(steps), max(steps), max(columns // 14, 2), whole=True)
    cells = _cells(curves, smooth, (across, up), (columns, rows))
    labels = {
        rows - 1 - up.place(tick, 4 * rows) // 4: label
        for tick, label in zip(up.ticks, up.labels, strict=True)
    }
    title = Content.assemble(
        ("Loss, nats per token", "bold"), ("   smoothed; ◆ held-out rows", MUTED)
    )
    lines = [title.truncate(width, ellipsis=True)]
    for row in range(rows):
        label = labels.get(row, "")
        parts = [(f"{label:>{gutter}} {'┤' if label else '│'}", MUTED)]
        parts += [cells.get((column, row), (" ", "")) for column in range(columns)]
        lines.append(Content.assemble(*parts))
    numbers = [" "] * columns
    for tick, label in zip(across.ticks, across.labels, strict=True):
        start = min(max(across.place(tick, columns) - len(label) // 2, 0), columns - len(label))
        if all(cell == " " for cell in numbers[max(start - 1, 0) : start + len(label) + 1]):
            numbers[start : start + len(label)] = label
    lines.append(Content.styled(f"{'':<{gutter}} └{'─' * columns}", MUTED))
    lines.append(Content.styled(f"{'':<{gutter}}  {''.join(numbers)}", MUTED))
    return lines


def _cells(
    curves: Sequence[Curve],
    smooth: Sequence[tuple[LossPoint, ...]],
    axes: tuple[Axis, Axis],
    size: tuple[int, int],
) -> dict[tuple[int, int], tuple[str, str]]:
    """Return what stands in which cell; later curves lie over earlier ones, letters over all."""
    (across, up), (columns, rows) = axes, size
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    letters: dict[tuple[int, int], tuple[str, str]] = {}
    for number, (curve, points) in enumerate(zip(curves, smooth, strict=True)):
        style = style_of(number)
        canvas = Canvas(columns, rows)
        spots = places(points, across, up, canvas.size)
        canvas.curve(spots)
        for row in range(rows):
            for column in range(columns):
                if dots := canvas.cell(column, row):
                    cells[column, row] = (dots, style)
        for x, y in places(curve.evals, across, up, canvas.size):
            cells[x // 2, rows - 1 - y // 4] = ("◆", style)
        for x, y in spots[-1:]:
            place = (min(x // 2, columns - 1), rows - 1 - y // 4)
            while place in letters and place[0] > 0:  # two that end at one spot
                place = (place[0] - 1, place[1])
            letters[place] = (LETTERS[number % len(LETTERS)], f"{style} reverse")
    return cells | letters
