"""What a run's events say so far, as lines and as a display of some lines."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llamaforge.runs import events
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, loss_words, number, percent_words, size_words

if TYPE_CHECKING:
    from rich.console import RenderableType

STAGES: Final = ("prepare", "train", "export", "verify", "evaluate")
"""What every run does; publishing is shown where a run does it."""
_LINE_STEPS: Final = 10
_LINE_SECONDS: Final = 5.0
_LEAST_LINE_SECONDS: Final = 1.0
"""However fast the steps are, a log gets no more than one line of them in this time."""
_BAR_COLUMNS: Final = 24
_BRIEF_CHARACTERS: Final = 60


@dataclass
class Picture:
    """What the events so far say, for the display."""

    stages: dict[str, str] = field(default_factory=dict)
    """Each stage that was begun or skipped, with its state."""
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    step: events.Step | None = None
    eval_loss: float | None = None
    failed: events.Failed | None = None
    finished: events.Finished | None = None
    _said: tuple[str, int, float] = ("", 0, 0.0)
    """The last plain line of progress: its stage, its count and its time."""

    def take(self, event: events.Event) -> str | None:
        """Take in an event; return the line to print for it, if it deserves one."""
        match event:
            case events.Started():
                self.stages, self.failed, self.finished = {}, None, None
            case events.Stage():
                self._take_stage(event)
            case events.Progress():
                self.done, self.total, self.unit = event.done, event.total, event.unit
            case events.Step():
                self.step = event
                self.done, self.total, self.unit = event.step, event.total, "steps"
            case events.Eval():
                self.eval_loss = event.loss
            case events.Failed():
                self.failed = event
            case events.Finished():
                self.finished = event
            case _:
                pass
        return _expected(event) or _line(event)

    def _take_stage(self, event: events.Stage) -> None:
        self.stages[event.name] = event.state
        if event.state == "started":
            self.stage, self.done, self.total, self.unit = event.name, 0, 0, ""

    def progress_line(self, event: events.Event) -> str | None:
        """Return a plain line for a stage's begin and, now and then, for its progress."""
        if isinstance(event, events.Stage) and event.state == "started":
            return f"{event.name}: begun"
        if not isinstance(event, events.Step | events.Progress):
            return None
        stage, count, at = self._said
        waited = event.t - at
        is_due = stage == self.stage and (
            waited >= _LINE_SECONDS
            or (self.done - count >= _LINE_STEPS and waited >= _LEAST_LINE_SECONDS)
        )
        is_last = 0 < self.total <= self.done
        if not self.done or (not is_due and stage == self.stage and not is_last):
            return None
        self._said = (self.stage, self.done, event.t)
        figures = self.figures() if isinstance(event, events.Step) else ""
        return f"{self.stage} {self.count_words()}{figures and ': '}{figures}"

    def count_words(self) -> str:
        """Return how far the stage is; where it goes is not always known."""
        if not self.total:
            return f"{self.done:,} {self.unit}"
        return f"{self.done:,}/{self.total:,} {self.unit}"

    def figures(self) -> str:
        """Return the figures of the newest step."""
        if self.step is None:
            return ""
        parts = [
            f"loss {loss_words(self.step.loss)}",
            f"{self.step.tokens_per_second:,.0f} tokens/s",
            f"{size_words(self.step.memory_bytes)} memory",
        ]
        if self.step.eta_seconds is not None:
            parts.append(f"{duration_words(self.step.eta_seconds)} left")
        return ", ".join(parts)

    def render(self) -> "RenderableType":
        """Return the live display: stages, a bar, figures."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        marks = {"started": "[>]", "finished": "[x]", "skipped": "[x]"}
        further = {name: state for name, state in self.stages.items() if name not in STAGES}
        begun = [*STAGES, *(name for name, state in further.items() if state != "skipped")]
        stages = (
            f"{marks.get(self.stages.get(name, ''), '[ ]')} {safe_line(name)}" for name in begun
        )
        lines: list[RenderableType] = [Text("  ".join(stages))]
        if self.total:
            row = Table.grid(padding=(0, 1))
            bar = ProgressBar(
                total=self.total, completed=min(self.done, self.total), width=_BAR_COLUMNS
            )
            row.add_row(Text(safe_line(self.stage)), bar, Text(safe_line(self.count_words())))
            lines.append(row)
        if events.is_training(self.stage) and self.step is not None:
            lines.append(Text(self.figures()))
            if self.eval_loss is not None:
                lines.append(Text(f"loss on the validation rows {loss_words(self.eval_loss)}"))
        return Group(*lines)


def _brief(text: str) -> str:
    return f'"{safe_line(text, limit=_BRIEF_CHARACTERS)}"'


def _preference_words(event: events.Eval) -> str:
    """Return what training on pairs or labels has reached; nothing for other training."""
    margin, accuracy = (event.metrics.get(f"rewards/{key}") for key in ("margins", "accuracies"))
    if margin is None:
        return ""
    if accuracy is None:  # answers with labels of their own make no pairs
        return f", good answers rewarded by {margin:.3g} more than bad ones"
    return f", better answers rewarded in {percent_words(accuracy)} of pairs, by {margin:.3g}"


def _line(event: events.Event) -> str | None:
    """Return the line that an event deserves wherever a run is watched."""
    line = None
    match event:
        case events.Started(resumed=True):
            line = "resumed"
        case events.Stage(name="publish", state="skipped"):
            pass  # nobody asked for it
        case events.Stage(state="skipped"):
            line = f"{event.name}: nothing to do"
        case events.Stage(state="finished"):
            took = "" if event.seconds is None else f" in {duration_words(event.seconds)}"
            line = f"{event.name}: done{took}"
        case events.Eval():
            line = f"step {event.step:,}: loss on the validation rows {loss_words(event.loss)}"
            line += _preference_words(event)
        case events.Paused():
            line = event.message
        case events.Resumed():
            line = f"goes on after a pause of {duration_words(event.seconds)}"
        case events.Sample(step=int()):
            line = (
                f"step {event.step:,}: asked {_brief(event.prompt)} answers {_brief(event.tuned)}"
            )
        case events.Checkpoint():
            line = f"step {event.step:,}: checkpoint saved"
        case events.Warn():
            line = f"warning: {event.message}"
        case events.Artifact():
            line = f"made: {event.kind}, {event.path}"
        case _:
            pass
    return line


def _expected(event: events.Event) -> str | None:
    """Return what training is expected to take; None where the event does not say it."""
    if not isinstance(event, events.Report) or event.kind != "predicted":
        return None
    figures = event.figures
    seconds = number(figures.get("seconds"))
    memory = figures.get("memory_bytes")
    total = number(memory.get("total")) if isinstance(memory, dict) else None
    if seconds is None or total is None:
        return None
    return f"train: about {duration_words(seconds)} and {size_words(total)} of memory are expected"
