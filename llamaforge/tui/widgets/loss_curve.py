"""The curve of the training loss with the held-out losses as marks on it, and of other figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from textual.content import Content
from textual.widget import Widget

from llamaforge.tui.loss_history import LossHistory, LossPoint, smoothed
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.plot import Axis, Canvas, axis_of, places, usual_range

EVAL_MARK: Final = "◆"
_CURVE: Final = "$primary"
_EACH: Final = "$foreground 25%"
_EVAL: Final = "bold $secondary"
_MARGIN: Final = 0.04
"""Part of the range that is left free above and below the curve."""
_LEAST_WIDTH: Final = 24
_LEAST_HEIGHT: Final = 6
_ROWS_A_TICK: Final = 3
_COLUMNS_A_TICK: Final = 14


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn, in words."""

    title: str
    nothing: str
    """What is said where there is nothing to draw yet."""
    smooth: str = ""
    """What the smoothed curve is called; empty where every point is drawn as it is."""


LOSS_CHART: Final = Chart(
    "Loss, nats per token",
    "The loss curve begins with the first training step.",
    "smoothed",
)
RATE_CHART: Final = Chart("Learning rate", "It begins with the first training step.")
NORM_CHART: Final = Chart("Gradient norm", "It begins with the first training step.", "smoothed")
SPEED_CHART: Final = Chart("Tokens a second", "It begins with the first training step.", "smoothed")


class LossCurve(Widget):
    """Draws as much of a run's losses as there is room for."""

    DEFAULT_CSS = """
    LossCurve { height: 1fr; min-height: 6; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._losses = LossHistory()
        self._evals: tuple[LossPoint, ...] = ()
        self._chart = LOSS_CHART

    def show(
        self, losses: LossHistory, evals: tuple[LossPoint, ...] = (), chart: Chart = LOSS_CHART
    ) -> None:
        """Draw these losses, or what `chart` says that they are, from now on."""
        if (losses, evals, chart) != (self._losses, self._evals, self._chart):
            self._losses, self._evals, self._chart = losses, evals, chart
            self.refresh()

    def render(self) -> Content:
        """Return the drawing."""
        size = self.content_size
        points = self._losses.all_points()
        lines = curve_lines(points, self._evals, size.width, size.height, self._chart)
        return Content("\n").join(lines)


def curve_lines(
    points: tuple[LossPoint, ...],
    evals: tuple[LossPoint, ...],
    width: int,
    height: int,
    chart: Chart = LOSS_CHART,
) -> list[Content]:
    """Return `height` lines of `width` cells: legend, curve with axes, and step numbers."""
    if not points and not evals:
        return [Content.styled(chart.nothing, MUTED)]
    if width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
        return [Content.styled("There is no room here for the curve.", MUTED)]
    smooth = smoothed(points) if chart.smooth else points
    rows = height - 3
    up = _loss_axis(points, smooth, evals, rows)
    gutter = max(map(len, up.labels))
    columns = width - gutter - 2
    steps = [point.step for point in (*points, *evals)]
    across = axis_of(min(steps), max(steps), max(columns // _COLUMNS_A_TICK, 2), whole=True)

    each, curve = Canvas(columns, rows), Canvas(columns, rows)
    each.curve(places(points, across, up, each.size))
    curve.curve(places(smooth, across, up, curve.size))
    marks = {
        (x // 2, rows - 1 - y // 4) for x, y in places(evals, across, up, (2 * columns, 4 * rows))
    }
    labels = {
        rows - 1 - up.place(tick, 4 * rows) // 4: label
        for tick, label in zip(up.ticks, up.labels, strict=True)
    }
    lines = [_legend(width, bool(evals), chart)]
    for row in range(rows):
        label = labels.get(row, "")
        parts: list[tuple[str, str]] = [(f"{label:>{gutter}} {'┤' if label else '│'}", MUTED)]
        parts += [_cell(column, row, marks, curve, each) for column in range(columns)]
        lines.append(Content.assemble(*_joined(parts)))
    return lines + _step_lines(across, gutter, columns)


def _cell(
    column: int, row: int, marks: set[tuple[int, int]], curve: Canvas, each: Canvas
) -> tuple[str, str]:
    if (column, row) in marks:
        return EVAL_MARK, _EVAL
    if dots := curve.cell(column, row):
        return dots, _CURVE
    if dots := each.cell(column, row):
        return dots, _EACH
    return " ", ""


def _joined(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return `parts` with neighbours of one style made one."""
    joined: list[tuple[str, str]] = []
    for text, style in parts:
        if joined and joined[-1][1] == style:
            joined[-1] = (joined[-1][0] + text, style)
        else:
            joined.append((text, style))
    return joined


def _loss_axis(
    points: Sequence[LossPoint],
    smooth: Sequence[LossPoint],
    evals: Sequence[LossPoint],
    rows: int,
) -> Axis:
    """Return an axis that holds the smoothed curve, all marks, and the single losses but a few."""
    must = [point.loss for point in (*smooth, *evals)]
    low, high = min(must), max(must)
    if points:
        usual = usual_range([point.loss for point in points])
        low, high = min(low, usual[0]), max(high, usual[1])
    margin = (high - low) * _MARGIN
    return axis_of(low - margin, high + margin, max(rows // _ROWS_A_TICK + 1, 2))


def _legend(width: int, has_evals: bool, chart: Chart) -> Content:
    parts = [(chart.title, "bold")]
    if chart.smooth:
        parts += [("   ", ""), ("⠒⠒ ", _CURVE), (chart.smooth, MUTED)]
        parts += [("   ", ""), ("⠒⠂ ", _EACH), ("each step", MUTED)]
    if has_evals:
        parts += [("   ", ""), (f"{EVAL_MARK} ", _EVAL), ("held-out rows", MUTED)]
    return Content.assemble(*parts).truncate(width, ellipsis=True)


def _step_lines(across: Axis, gutter: int, columns: int) -> list[Content]:
    """Return the horizontal axis and its numbers."""
    line, numbers = ["─"] * columns, [" "] * columns
    free = 0
    for tick, label in zip(across.ticks, across.labels, strict=True):
        column = across.place(tick, columns)
        start = min(max(column - len(label) // 2, 0), columns - len(label))
        if start < free:
            continue
        line[column] = "┬"
        numbers[start : start + len(label)] = label
        free = start + len(label) + 2
    if free + 4 < columns and "".join(numbers[-5:]).isspace():
        numbers[-4:] = "step"
    blank = " " * gutter
    return [
        Content.styled(f"{blank} └{''.join(line)}", MUTED),
        Content.styled(f"{blank}  {''.join(numbers)}", MUTED),
    ]
