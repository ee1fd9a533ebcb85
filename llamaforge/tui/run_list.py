"""The list of runs as a screen shows it; reading it may wait for the disk."""

from dataclasses import dataclass
from pathlib import Path

from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory, RunState, Status, list_runs
from llamaforge.runs.events import is_training
from llamaforge.safe_text import safe_line
from llamaforge.words import UNKNOWN, loss_words, number, plural, whole


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run; its texts are safe to print with markup off."""

    id: str
    model: str
    created: str
    state: RunState
    progress: str
    loss: str
    held_out: str = "–"
    """The newest loss on validation rows."""
    right: str = "–"
    """Answers that are exactly right, before and after."""


class RunList:
    """All runs, newest first; what never changes of a run is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, str]] = {}

    def read(self) -> tuple[RunRow, ...]:
        """Return the runs as of now.

        Raises:
            OSError: the folder of runs cannot be listed.
        """
        return tuple(self._row(run) for run in list_runs())

    def _row(self, run: RunDirectory) -> RunRow:
        if run.path not in self._known:
            self._known[run.path] = _spec_words(run)
        model, created = self._known[run.path]
        status = run.read_status()
        return RunRow(
            id=run.id,
            model=model,
            created=created,
            state=status.state,
            progress=_progress_words(status),
            loss=loss_words(_figure(status, "loss")),
            held_out=loss_words(_figure(status, "eval_loss")),
            right=_right_words(status),
        )


def _spec_words(run: RunDirectory) -> tuple[str, str]:
    try:
        spec = RunSpec.load(run.spec_file)
    except LlamaForgeError:
        return "–", "–"
    return safe_line(spec.model.name, limit=60), f"{spec.created.astimezone():%Y-%m-%d %H:%M}"


def _figure(status: Status, name: str) -> float | None:
    metrics: object = status.metrics  # a file's content, whatever its type says
    return number(metrics.get(name)) if isinstance(metrics, dict) else None


def _right_words(status: Status) -> str:
    for kind in ("exact_match", "preference_accuracy"):
        base, tuned = _figure(status, f"{kind}_base"), _figure(status, f"{kind}_tuned")
        if base is not None and tuned is not None:
            return f"{base * 100:.0f} → {tuned * 100:.0f} %"
    return UNKNOWN


def _progress_words(status: Status) -> str:
    step, total = whole(status.step) or 0, whole(status.total) or 0
    steps = f"{step:,} of {plural(total, 'step')}" if total else "–"
    if status.state is RunState.FINISHED:
        return steps
    stage = safe_line(str(status.stage), limit=12)
    if is_training(stage) or not stage:
        return steps
    return stage
