"""The events of a run: one JSON object a line, append-only, numbered, on monotonic time."""

import dataclasses
import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

EVENTS_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event carries; `seq` and `t` are set when it is written."""

    type: ClassVar[str] = "unknown"
    seq: int = 0
    t: float = 0.0
    """Seconds of monotonic time since the run's first worker started; never runs backwards."""
    wall: float = 0.0
    """Seconds since the epoch by the machine's clock; for display only."""

    def to_json(self) -> str:
        """Return the event as one line of JSON, without the line's end."""
        body = {"v": EVENTS_VERSION, "seq": self.seq, "t": round(self.t, 3), "type": self.type}
        rest = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in {"seq", "t"}
        }
        return json.dumps(body | rest, ensure_ascii=False, allow_nan=False, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """A worker took the run."""

    type: ClassVar[str] = "started"
    run: str
    pid: int
    resumed: bool = False
    model: str = ""
    program: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Event):
    """A stage began, ended or was found done already."""

    type: ClassVar[str] = "stage"
    name: str
    state: str
    """`started`, `finished` or `skipped`."""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """How far a stage other than training has come."""

    type: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """One optimizer step."""

    type: ClassVar[str] = "step"
    step: int
    total: int
    loss: float | None
    """What training minimises, None where it was not finite: the mean cross entropy per trained
    token in nats, or of pairs the loss of the method."""
    learning_rate: float
    tokens_per_second: float
    """Tokens read, padding not counted, over the last steps' time."""
    memory_bytes: int
    """Resident memory of the worker now; on a GPU its allocated memory."""
    epoch: float
    grad_norm: float | None = None
    eta_seconds: float | None = None
    seconds: float | None = None
    """What this step took, without losses on validation rows and checkpoints."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Of training on pairs, further figures by their names in TRL, such as `rewards/margins`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval(Event):
    """The loss on the validation rows."""

    type: ClassVar[str] = "eval"
    step: int
    loss: float
    rows: int = 0
    best: bool = False
    """Whether it is the least up to now."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """As in `Step`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Event):
    """One conversation answered by base and tuned model."""

    type: ClassVar[str] = "sample"
    prompt: str
    expected: str
    """What the row answers; empty for a prompt that is no row."""
    base: str
    tuned: str
    step: int | None = None
    """The optimizer step after which it was answered; None for the evaluation at the end."""
    cut: bool = False
    """Whether an answer was ended because it took too many tokens or too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Event):
    """The answers that a person asked for during training are all given."""

    type: ClassVar[str] = "sampled"
    step: int
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """The worker waits, with everything kept in memory."""

    type: ClassVar[str] = "paused"
    reason: str
    """`asked` by a person, or `disk_full`."""
    message: str
    step: int = 0
    needed_bytes: int | None = None
    """Bytes that must be free before it goes on by itself; None where a person decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """The worker goes on after a pause."""

    type: ClassVar[str] = "resumed"
    step: int = 0
    seconds: float = 0.0
    """How long it waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint was committed."""

    type: ClassVar[str] = "checkpoint"
    step: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn(Event):
    """Something that a person should know and that does not stop the run."""

    type: ClassVar[str] = "warning"
    code: str
    message: str
    kind: str | None = None
    """Which memory ran out, for `out_of_memory`: `cuda`, `allocation` or `host_kill`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Event):
    """Figures that a stage measured: data counts, fidelity, evaluation."""

    type: ClassVar[str] = "report"
    kind: str
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact(Event):
    """A file was made and verified."""

    type: ClassVar[str] = "artifact"
    kind: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The run cannot go on: what is wrong, and what to do."""

    type: ClassVar[str] = "failed"
    code: str
    message: str
    hint: str
    exit_code: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The worker's last event, whatever the outcome."""

    type: ClassVar[str] = "finished"
    run: str
    state: str
    artifacts: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Event):
    """An event of a type that this version does not know."""

    type: ClassVar[str] = "other"
    name: str
    body: dict[str, Any]


def is_training(stage: str) -> bool:
    """Return whether a stage of this name trains; a later phase has its number behind it."""
    return stage.split(" ", maxsplit=1)[0] == "train"


KNOWN: Final[dict[str, type[Event]]] = {
    kind.type: kind
    for kind in (
        Started,
        Stage,
        Progress,
        Step,
        Eval,
        Sample,
        Sampled,
        Paused,
        Resumed,
        Checkpoint,
        Warn,
        Report,
        Artifact,
        Failed,
        Finished,
    )
}
_FIELDS: Final = {
    kind: frozenset(item.name for item in dataclasses.fields(kind)) for kind in KNOWN.values()
}


def parse_event(line: str | bytes) -> Event | None:
    """Return the event on one line, or None where the line is not a whole event.

    Unknown keys are passed over and unknown types become `Other`, so that a newer program's
    runs can still be read.
    """
    try:
        body = json.loads(line)
        kind = KNOWN.get(body["type"])
        if kind is None:
            return Other(
                seq=body["seq"],
                t=body["t"],
                wall=body.get("wall", 0.0),
                name=body["type"],
                body=body,
            )
        names = _FIELDS[kind]
        return kind(**{key: value for key, value in body.items() if key in names})
    except (ValueError, KeyError, TypeError):
        return None


class EventWriter:
    """The only writer of a run's event file.

    Numbers go on where an earlier worker of the run stopped; a line that it could not finish
    is cut off first.
    """

    def __init__(self, path: Path) -> None:
        last = _repair(path)
        self._seq = last.seq if last else 0
        self._offset = (last.t if last else 0.0) - time.monotonic()
        self._file = path.open("ab", buffering=0)

    def write(self, event: Event, *, durable: bool = False) -> Event:
        """Number, time and append `event`; with `durable`, wait until the disk has it.

        Raises:
            OSError: the disk did not take it; nothing of it is in the file then.
        """
        self._seq += 1
        event = dataclasses.replace(
            event, seq=self._seq, t=self._offset + time.monotonic(), wall=round(time.time(), 3)
        )
        line = event.to_json().encode("utf-8", "replace") + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):  # the disk took a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(end)
            self._seq -= 1
            raise
        if durable:
            os.fsync(self._file.fileno())
        return event

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()


def _repair(path: Path) -> Event | None:
    """Cut an unfinished last line off `path`; return the last whole event."""
    if not path.exists():
        return None
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        window = min(size, 1 << 20)  # far more than one event's line
        file.seek(size - window)
        tail = file.read(window)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            file.truncate(size - window + whole)
    for line in reversed(tail[:whole].splitlines()):
        event = parse_event(line)
        if event is not None:
            return event
    return None
