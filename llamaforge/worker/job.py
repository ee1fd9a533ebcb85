"""One run while it is carried out: its spec, its events, its state, and what was asked of it."""

import errno
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.encoding import EncodedSplits, encode_splits
from llamaforge.data.snapshot import read_snapshot
from llamaforge.data.templates import choose_template
from llamaforge.errors import LlamaForgeError
from llamaforge.files import sha256_of
from llamaforge.gguf.header import Header
from llamaforge.gguf.llama_files import llama_files, remove_leftovers
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.hardware import boot_id, free_disk_bytes, memory_kills, process_start
from llamaforge.recipe.resolve import DEFAULT_MAX_LENGTH
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState, Status
from llamaforge.runs.pulse import Heart
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words
from llamaforge.worker.keeper import ended_for_memory, log_bytes
from llamaforge.worker.limits import TemplateLimits
from llamaforge.worker.log import log

_STATE_SECONDS: Final = 1.0
"""How often `state.json` follows the steps; what is written between is in the events."""
_PROGRESS_SECONDS: Final = 0.2
_PAUSE_POLL_SECONDS: Final = 0.1
_RESERVE: Final = ".reserve"
_RESERVE_BYTES: Final = 64 * 1024
"""What is kept back, so that a worker can still say that the disk is full."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_disk_full(error: BaseException) -> bool:
    """Return whether `error` says that a disk, or this user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_file_too_large(error: BaseException) -> bool:
    """Return whether `error` says that a file may not grow: a limit, or the disk's kind."""
    # What is written in Rust says it in words alone.
    words = os.strerror(errno.EFBIG)
    return (isinstance(error, OSError) and error.errno == errno.EFBIG) or words in str(error)


class Stopped(Exception):  # noqa: N818 - it is no error
    """A person asked the run to stop, and what it had is saved."""


@dataclass(frozen=True)
class Conversations:
    """The run's rows as tokens, and what made them."""

    tokenizer: GgufTokenizer
    renderer: ChatRenderer
    rows: EncodedSplits


def max_length_of(spec: RunSpec) -> int:
    """Return how many tokens a row of the run may have."""
    return spec.data.max_length or DEFAULT_MAX_LENGTH


def conversations_of(run: RunDirectory, spec: RunSpec, header: Header) -> Conversations:
    """Return the rows of a run's snapshot as tokens of the model with `header`.

    Raises:
        InvalidFileError: the snapshot was changed.
        RefusedError: the model's tokenizer is not known.
    """
    _, splits = read_snapshot(run.data)
    tokenizer = GgufTokenizer(header)
    renderer = renderer_of(spec, tokenizer)
    rows = encode_splits(
        splits,
        renderer,
        max_length_of(spec),
        train_on=spec.data.train_on,
        preference=spec.data.preference,
    )
    return Conversations(tokenizer, renderer, rows)


def renderer_of(spec: RunSpec, tokenizer: GgufTokenizer) -> ChatRenderer:
    """Return what renders conversations as the run's rows are rendered.

    Raises:
        RefusedError: the model has no template that can be used.
    """
    template = choose_template(
        spec.model.chat_template,
        spec.model.own_template(tokenizer.chat_template),
        tokenizer.special_ids,
    )
    return ChatRenderer(tokenizer, template, spec.created, TemplateLimits())


def counted_on(event: events.Event, steps: int) -> events.Event:
    """Return an event of a later phase with `steps` more on its count of optimizer steps."""
    match event:
        case events.Step():
            return replace(event, step=event.step + steps, total=event.total + steps)
        case events.Eval() | events.Checkpoint() | events.Sampled():
            return replace(event, step=event.step + steps)
        case events.Sample(step=int(step)):
            return replace(event, step=step + steps)
        case _:
            return event


class Job:
    """Everything that a stage needs; the only writer of the run's events and state."""

    def __init__(
        self, run: RunDirectory, spec: RunSpec, *, events_file: Path | None = None
    ) -> None:
        """Open the run's events, or another file for them."""
        self.run = run
        self.spec = spec
        self._whole = (run, spec)
        self.phase = 1
        """The phase of training that stages see as the run."""
        self._steps_before = 0
        self._writer = events.EventWriter(events_file or run.events_file)
        self._status = Status()
        self._written = 0.0
        self._told = 0.0
        self._interrupted = False
        self._heart = Heart(run.pulse_file)
        self._beats = ExitStack()
        self.was_killed_for_memory = False
        """Whether the system ended the worker before this one because memory was used up."""
        self._conversations: Conversations | None = None
        self._header: Header | None = None

    def turn_to(self, phase: int, steps_before: int) -> None:
        """Let this phase of training be what stages see as the run, from now on.

        Args:
            phase: its number, from 1 on.
            steps_before: optimizer steps of all phases before it; events count on from there.
        """
        self.run = self._whole[0].of_phase(phase)
        self.spec = self._whole[1].of_phase(phase)
        self.phase = phase
        self._steps_before = steps_before
        self._conversations = None
        for folder in (self.run.data, self.run.checkpoints):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def phases(self) -> int:
        """How many phases of training the run has."""
        return len(self._whole[1].phases)

    @property
    def header(self) -> Header:
        """The model as the server reads it."""
        if self._header is None:
            self._header = read_model(self.spec.model.blob, self.spec.model.files)
        return self._header

    @contextmanager
    def llama_files(
        self, header: Header | None = None, *, vocabulary_only: bool = False
    ) -> Iterator[tuple[Path, ...]]:
        """Give the files that llama.cpp loads for a model, all parts in order.

        Args:
            header: the model; None is the one that is trained.
            vocabulary_only: leave out the weights.

        Raises:
            LlamaForgeError: there is no room for a copy that llama.cpp takes (`no_copy`).
        """
        files = llama_files(
            self.header if header is None else header,
            self.run.data,
            vocabulary_only=vocabulary_only,
            check_stop=self.check_stop,
        )
        with ExitStack() as stack:
            try:
                found = stack.enter_context(files)
            except OSError as error:
                raise LlamaForgeError(
                    "The model cannot be copied into the form that llama.cpp takes: "
                    f"{error.strerror or type(error).__name__}.",
                    "Free some space on the disk of the runs, then resume the run.",
                    code="no_copy",
                ) from error
            yield found

    @property
    def max_length(self) -> int:
        """Tokens a row may have."""
        return max_length_of(self.spec)

    def conversations(self) -> Conversations:
        """Return the rows of the run's snapshot as tokens.

        Raises:
            InvalidFileError: the snapshot was changed.
            RefusedError: the model's tokenizer is not known.
        """
        if self._conversations is None:
            self._conversations = conversations_of(self.run, self.spec, self.header)
        return self._conversations

    def begin(self, *, resumed: bool) -> None:
        """Take the run: from here on its state names this process."""
        control.withdraw(self.run)  # wishes for an earlier worker
        remove_leftovers(self.run.data)
        before = self.run.read_status()
        self.was_killed_for_memory = ended_for_memory(self.run, before)
        self._beats.enter_context(self._heart)
        self._keep_reserve()
        self._status = Status(
            state=RunState.RUNNING,
            stage=before.stage,
            step=before.step,
            total=before.total,
            pid=os.getpid(),
            pid_started=process_start(os.getpid()),
            boot=boot_id(),
            memory_kills=memory_kills(),
            log_bytes=log_bytes(self.run),
            spec_sha256=sha256_of(self.run.spec_file),
            host=socket.gethostname(),
            metrics=before.metrics,
        )
        self._write_status()
        self.emit(
            events.Started(
                run=self.run.id,
                pid=os.getpid(),
                resumed=resumed,
                model=self.spec.model.name,
                program=self.spec.program.get("llamaforge", ""),
            )
        )
        if before.spec_sha256 not in {"", self._status.spec_sha256}:
            self.warn(
                "changed_spec",
                f"{self.run.spec_file.name} was changed since the run began: from here on the run "
                "follows it as it is now.",
            )

    def enter(self, stage: str) -> None:
        """Say that a stage begins."""
        self._status = replace(self._status, stage=stage)
        self._write_status()
        self.emit(events.Stage(name=stage, state="started"))

    def emit(self, event: events.Event) -> events.Event:
        """Write an event, and take what it says into the run's state; return it as written."""
        event = counted_on(event, self._steps_before)
        self._heart.work()
        durable = not isinstance(event, events.Step | events.Progress)
        self._on_disk(lambda: self._writer.write(event, durable=durable))
        match event:
            case events.Step():
                metrics: dict[str, Any] = {
                    "loss": event.loss,
                    "learning_rate": event.learning_rate,
                    "tokens_per_second": event.tokens_per_second,
                    "memory_bytes": event.memory_bytes,
                    "eta_seconds": event.eta_seconds,
                }
                self._status = replace(
                    self._status,
                    step=event.step,
                    total=event.total,
                    metrics=self._status.metrics | metrics | event.metrics,
                )
                if time.monotonic() - self._written >= _STATE_SECONDS:
                    self._write_status()
            case events.Eval():
                self.note(eval_loss=event.loss)
            case events.Warn():
                log(f"warning: {event.message}")
            case _:
                pass
        return event

    def relay(self, event: events.Event) -> events.Event:
        """Write an event that another process of the run tells, and what it says of the state."""
        match event:
            case events.Paused():
                self._status = replace(self._status, state=RunState.PAUSED, message=event.message)
                self._write_status()
            case events.Resumed():
                self._status = replace(self._status, state=RunState.RUNNING, message="")
                self._write_status()
            case _:
                pass
        return self.emit(event)

    def reach(self, step: int) -> None:
        """Let the run's state say that training came to `step`: no event may have told the last."""
        reached = self._steps_before + step
        self._status = replace(self._status, step=reached, total=max(self._status.total, reached))
        self._write_status()

    def rest(self) -> None:
        """Note that a pause lasts, in which another process of the run has nothing to tell."""
        if self._status.state is RunState.PAUSED:
            self._heart.work()

    def note(self, **metrics: Any) -> None:
        """Add figures to the run's state."""
        self._status = replace(self._status, metrics=self._status.metrics | metrics)
        self._write_status()

    def warn(self, code: str, message: str) -> None:
        """Tell a person something that does not stop the run."""
        self.emit(events.Warn(code=code, message=message))

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Say how far a stage has come; often enough to watch, not every time."""
        now = time.monotonic()
        if done < total and now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        self.emit(events.Progress(stage=stage, done=done, total=total, unit=unit))

    def interrupt(self) -> None:
        """Note that a signal asked the run to stop."""
        self._interrupted = True

    def stop_asked(self) -> bool:
        """Return whether the run shall save and stop."""
        return self._interrupted or control.is_asked(self.run, control.Request.STOP)

    def save_asked(self) -> bool:
        """Return whether a checkpoint was asked for; a wish is answered once."""
        return control.take(self.run, control.Request.SAVE)

    def samples_asked(self) -> list[str] | None:
        """Return the prompts that a person wants answered now; a wish is answered once.

        None means that nobody asked; no prompts, that any will do.
        """
        return control.take_samples(self.run)

    def check_stop(self) -> None:
        """Wait for as long as a person wants a pause; raise `Stopped` where one asked to stop."""
        self.wait_while_paused()
        if self.stop_asked():
            raise Stopped

    def wait_while_paused(
        self,
        before: Callable[[], None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for as long as a person wants the run paused; a wish to stop ends the wait too.

        Args:
            before: called first, if there is a pause at all.
            meanwhile: called again and again while it lasts.
        """
        if not self._is_pause_asked():
            return
        before()
        message = f"Paused as asked. Go on with: llamaforge runs resume {self.run.id}"
        with self._paused("asked", message):
            while self._is_pause_asked():
                self._heart.work()
                meanwhile()
                time.sleep(_PAUSE_POLL_SECONDS)

    def wait_for_space(self, needed_bytes: int) -> bool:
        """Wait until `needed_bytes` are free on the run's disk; return whether there was a wait.

        Raises:
            Stopped: a person asked to stop meanwhile.
        """
        free = free_disk_bytes(self.run.path)
        if free >= needed_bytes:
            return False
        (self.run.path / _RESERVE).unlink(missing_ok=True)
        message = (
            f"The disk is full: {size_words(needed_bytes)} must be free at "
            f"{safe_line(str(self.run.path), limit=200)}, and {size_words(free)} are. The run "
            "waits, and goes on by itself once there is room."
        )
        with self._paused("disk_full", message, needed_bytes):
            while free_disk_bytes(self.run.path) < needed_bytes and not self.stop_asked():
                self._heart.work()
                time.sleep(_PAUSE_POLL_SECONDS)
        if self.stop_asked():
            raise Stopped
        self._keep_reserve()
        return True

    def _keep_reserve(self) -> None:
        """Take room on the disk that is given up once the disk is full."""
        path = self.run.path / _RESERVE
        with suppress(OSError):
            if not path.exists():
                path.write_bytes(secrets.token_bytes(_RESERVE_BYTES))  # nothing that compresses

    def _on_disk(self, action: Callable[[], object]) -> None:
        """Do something that writes; where the disk is full, again and again until it is not.

        Raises:
            OSError: the disk is full, and a person asked to stop.
        """
        while True:
            try:
                action()
            except OSError as error:
                if not is_disk_full(error):
                    raise
                reserve = self.run.path / _RESERVE
                if reserve.exists():
                    reserve.unlink()
                elif self.stop_asked():
                    raise
                else:
                    self._heart.work()
                    time.sleep(_PAUSE_POLL_SECONDS)
            else:
                return

    def _is_pause_asked(self) -> bool:
        return control.is_asked(self.run, control.Request.PAUSE) and not self.stop_asked()

    @contextmanager
    def _paused(self, reason: str, message: str, needed_bytes: int | None = None) -> Iterator[None]:
        """Let the run's state say that it waits, for the length of a `with` block."""
        started = time.monotonic()
        self._status = replace(self._status, state=RunState.PAUSED, message=message)
        self._write_status()
        self.emit(
            events.Paused(
                reason=reason, message=message, step=self._status.step, needed_bytes=needed_bytes
            )
        )
        yield
        self._status = replace(self._status, state=RunState.RUNNING, message="")
        self._write_status()
        seconds = round(time.monotonic() - started, 3)
        self.emit(events.Resumed(step=self._status.step, seconds=seconds))

    def end(self, state: RunState, message: str = "") -> None:
        """Write the last event and the last state of this worker."""
        control.withdraw(self.run)
        listed = self.run.artifact_list()
        finished = events.Finished(run=self.run.id, state=state.value, artifacts=listed)
        self._on_disk(lambda: self._writer.write(finished, durable=True))
        # Only now: who sees the state is over has the last event before them.
        self._status = replace(self._status, state=state, message=message, pid=None)
        self._write_status()

    def close(self) -> None:
        """Close the event file, and leave no more signs of life."""
        self._writer.close()
        self._beats.close()
        (self.run.path / _RESERVE).unlink(missing_ok=True)

    def _write_status(self) -> None:
        self._on_disk(lambda: self.run.write_status(self._status))
        self._written = time.monotonic()
