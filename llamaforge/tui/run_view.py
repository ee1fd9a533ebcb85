"""A run as a screen shows it: one frozen value."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from llamaforge.runs.control import Request
from llamaforge.runs.directory import RunState
from llamaforge.runs.events import is_training
from llamaforge.safe_text import safe_line
from llamaforge.tui.loss_history import LossHistory, LossPoint
from llamaforge.tui.pace import Pace
from llamaforge.tui.reports import DataReport, FidelityReport, SetReport

STAGES: Final = ("prepare", "train", "export", "verify", "evaluate", "publish")
_LIVE: Final = frozenset({RunState.RUNNING, RunState.PAUSED})
_OVER: Final = frozenset({RunState.STOPPED, RunState.FAILED, RunState.FINISHED, RunState.LOST})


class StageState(StrEnum):
    """How far a stage is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    """Its result was there and whole already."""
    STOPPED = "stopped"
    FAILED = "failed"


class Level(StrEnum):
    """How much a line of the log matters."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of the run."""

    name: str
    state: StageState = StageState.WAITING
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of what happened; its text is safe to print with markup off."""

    t: float
    """Seconds since the run's first worker started."""
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class SampleView:
    """One held-out prompt with its answers; texts are safe to print with markup off."""

    prompt: str
    expected: str
    base: str
    tuned: str
    step: int | None = None
    """The optimizer step after which it was answered; None for the evaluation at the end."""
    cut: bool = False
    """Whether an answer was ended before its end."""


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """A file that the run made."""

    kind: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the run could not go on, and what to do."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that the monitor shows. What is not known is None or empty."""

    run: str
    model: str = ""
    publish: str = ""
    """The name under which the result goes to Ollama; empty where it does not."""
    epochs: float | None = None
    questions: tuple[str, ...] = ()
    """The recipe's prompts that are answered on the way, as they are: not safe to print."""
    knows_before: bool = True
    """Whether the model can still answer as it was before training: an adapter can be taken off."""
    state: RunState = RunState.CREATED
    over: RunState | None = None
    """How the newest worker said that it ended."""
    asked: frozenset[Request] = frozenset()
    """Wishes that the worker has not answered yet, or that still hold, as a pause does."""
    waits: str = ""
    """Why the worker is paused."""
    pause_reason: str = ""
    """`asked` by a person, or `disk_full`; empty where it is not paused."""
    trouble: str = ""
    """What is wrong with a worker that lives: it hangs, or tells nothing for long."""
    stages: tuple[StageView, ...] = tuple(map(StageView, STAGES[:-1]))
    t: float = 0.0
    """Seconds of monotonic time from the first worker's start to the last event."""
    seq: int = 0
    step: int = 0
    total: int = 0
    epoch: float | None = None
    loss: float | None = None
    """Of the last step, in nats per trained token."""
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: float | None = None
    grad_norm: float | None = None
    eta_seconds: float | None = None
    pace: Pace = field(default_factory=Pace)
    rates: LossHistory = field(default_factory=LossHistory)
    """The learning rate at each step."""
    norms: LossHistory = field(default_factory=LossHistory)
    """The norm of the gradient at each step."""
    speeds: LossHistory = field(default_factory=LossHistory)
    """Tokens a second at each step."""
    losses: LossHistory = field(default_factory=LossHistory)
    evals: tuple[LossPoint, ...] = ()
    checkpoint_step: int | None = None
    log: tuple[LogLine, ...] = ()
    data: DataReport | None = None
    fidelity: FidelityReport | None = None
    sets: tuple[SetReport, ...] = ()
    samples: tuple[SampleView, ...] = ()
    probes: tuple[SampleView, ...] = ()
    """Answers given while it trains: of each prompt the newest."""
    sampled_step: int | None = None
    """The step after which answers that a person asked for were last given."""
    artifacts: tuple[ArtifactView, ...] = ()
    published: str = ""
    failure: Failure | None = None

    @property
    def stop_asked(self) -> bool:
        """Return whether the worker was asked to save and end, and has not done so yet."""
        return Request.STOP in self.asked

    @property
    def is_live(self) -> bool:
        """Return whether a worker has the run, be it at work or waiting."""
        return self.state in _LIVE

    @property
    def is_training(self) -> bool:
        """Return whether a worker takes steps now: only then it can save or answer."""
        stage = self.stage
        return self.state is RunState.RUNNING and stage is not None and is_training(stage.name)

    @property
    def is_over(self) -> bool:
        """Return whether no worker carries the run any more."""
        return self.state in _OVER

    @property
    def stage(self) -> StageView | None:
        """Return the stage that is being carried out, or at which the run ended."""
        ended = {StageState.RUNNING, StageState.STOPPED, StageState.FAILED}
        return next((stage for stage in self.stages if stage.state in ended), None)

    def artifact(self, kind: str) -> ArtifactView | None:
        """Return the artifact of a kind, if the run made it."""
        return next((item for item in self.artifacts if item.kind == kind), None)


def begin_view(
    run: str,
    *,
    model: str = "",
    publish: str = "",
    epochs: float | None = None,
    questions: tuple[str, ...] = (),
    knows_before: bool = True,
) -> RunView:
    """Return the view of a run of which no event is known yet."""
    names = STAGES if publish else STAGES[:-1]
    return RunView(
        run=safe_line(run, limit=80),
        model=safe_line(model, limit=120),
        publish=safe_line(publish, limit=120),
        epochs=epochs,
        questions=questions,
        knows_before=knows_before,
        stages=tuple(map(StageView, names)),
    )
