"""The parts of the monitor above the curve: stages, what is being done, progress, figures."""

from typing import Final

from textual.content import Content

from llamaforge.runs.directory import RunState
from llamaforge.runs.events import is_training
from llamaforge.tui.run_view import Level, LogLine, RunView, StageState
from llamaforge.tui.widgets.lines import MUTED, hanging
from llamaforge.words import (
    UNKNOWN,
    clock_words,
    duration_words,
    loss_words,
    range_words,
    short_number,
)

_STAGE_MARKS: Final = {
    StageState.WAITING: ("○", MUTED),
    StageState.RUNNING: ("▸", "bold $primary"),
    StageState.DONE: ("✓", "$text-success"),
    StageState.SKIPPED: ("✓", "$text-success"),
    StageState.STOPPED: ("■", "$text-warning"),
    StageState.FAILED: ("✗", "bold $text-error"),
}
STATE_MARKS: Final = {
    RunState.CREATED: ("○", MUTED),
    RunState.RUNNING: ("▸", "$primary"),
    RunState.PAUSED: ("■", "$text-warning"),
    RunState.STOPPED: ("■", "$text-warning"),
    RunState.FAILED: ("✗", "$text-error"),
    RunState.FINISHED: ("✓", "$text-success"),
    RunState.LOST: ("✗", "$text-error"),
}
_LOG_MARKS: Final = {
    Level.NOTE: ("·", MUTED),
    Level.WARNING: ("!", "$text-warning"),
    Level.ERROR: ("✗", "$text-error"),
}
_BAR_FULL, _BAR_HALF, _BAR_REST = "━", "╸", "─"
_LONGEST_BAR: Final = 60
_FOUR_ACROSS: Final = 76
_VALUE_WIDTHS: Final = (8, 11, 7, 8)
"""Room kept for the values of each column, so that they do not move as they change."""


def state_content(state: RunState) -> Content:
    """Return a run's state as a mark and a word."""
    mark, style = STATE_MARKS[state]
    return Content.styled(f"{mark} {state.value}", style)


def stage_lines(view: RunView, width: int) -> list[Content]:
    """Return the stages in their order, each with a mark; short of room, their marks alone."""
    parts: list[Content] = []
    for stage in view.stages:
        mark, style = _STAGE_MARKS[stage.state]
        parts.append(Content.styled(f"{mark} {stage.name}", style))
    line = Content.styled(" ─ ", MUTED).join(parts)
    if line.cell_length <= width:
        return [line]
    marks = [Content.styled(*_STAGE_MARKS[stage.state]) for stage in view.stages]
    current = view.stage
    return [Content(" ").join([*marks, Content(current.name if current else "")])]


def progress_lines(view: RunView, width: int) -> list[Content]:
    """Return a bar with the running stage's progress in figures, or nothing where there is none."""
    stage = view.stage
    trains = stage is None or is_training(stage.name)
    if trains or stage is None:
        done, total, unit = view.step, view.total, "steps"
    else:
        done, total, unit = stage.done, stage.total, stage.unit
    if total <= 0:
        return [Content.styled(_BAR_REST * min(width, _LONGEST_BAR), MUTED)]
    part = min(max(done / total, 0.0), 1.0)
    words = f"  {part * 100:3.0f} %   {done:,} of {total:,} {unit}"
    room = max(min(width - len(words), _LONGEST_BAR), 4)
    halves = round(part * room * 2)
    full = _BAR_FULL * (halves // 2) + _BAR_HALF * (halves % 2)
    rest = _BAR_REST * (room - len(full))
    return [Content.assemble((full, "$primary"), (rest, MUTED), words).truncate(width)]


def figure_lines(view: RunView, elapsed_seconds: float, width: int) -> list[Content]:
    """Return the run's figures in two rows of four; short of room, in four rows of two."""
    cells = [
        ("loss", loss_words(view.loss)),
        ("held-out", loss_words(view.eval_loss)),
        ("learning rate", short_number(view.learning_rate)),
        ("tokens/s", _thousands(view.tokens_per_second)),
        ("elapsed", clock_words(elapsed_seconds)),
        ("time left", _time_left(view)),
        ("gradient", short_number(view.grad_norm)),
        ("epoch", _epoch_words(view)),
    ]
    across = 4 if width >= _FOUR_ACROSS else 2
    rows = [cells[at : at + across] for at in range(0, len(cells), across)]
    labels = [max(len(row[at][0]) for row in rows) for at in range(across)]
    values = [max(_VALUE_WIDTHS[at], *(len(row[at][1]) for row in rows)) for at in range(across)]
    spare = width - sum(labels) - sum(values) - across
    gap = max(spare // max(across - 1, 1), 1)
    lines = []
    for row in rows:
        parts = [
            Content.assemble((f"{label:<{labels[at]}} ", MUTED), (f"{value:<{values[at]}}", "bold"))
            for at, (label, value) in enumerate(row)
        ]
        lines.append(Content(" " * gap).join(parts).truncate(width))
    return lines


def _epoch_words(view: RunView) -> str:
    """Return how many times the rows were seen, of how many times they are to be."""
    if view.epoch is None:
        return UNKNOWN
    return f"{view.epoch:.1f} of {view.epochs:g}" if view.epochs else f"{view.epoch:.1f}"


def log_lines(log: tuple[LogLine, ...], width: int) -> list[Content]:
    """Return the log, the newest line last; what matters has a mark and a colour."""
    lines: list[Content] = []
    for line in log:
        mark, style = _LOG_MARKS[line.level]
        label = Content.assemble((f"{clock_words(line.t):>8} ", MUTED), (mark, style))
        text = Content(line.text) if line.level is Level.NOTE else Content.styled(line.text, style)
        lines += hanging(label, text, indent=11, width=width)
    return lines or [Content.styled("Nothing has happened yet.", MUTED)]


def _time_left(view: RunView) -> str:
    if view.is_over:
        return UNKNOWN
    stage = view.stage
    trains = stage is not None and is_training(stage.name)
    if not trains:
        return UNKNOWN
    left = view.pace.seconds_left(view.total)
    return range_words(*left) if left else duration_words(view.eta_seconds)


def _thousands(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
