"""Watching a run: its events as JSON lines, as a live display, or as plain lines."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

from llamaforge.cli.output import error_console, narrate, narrate_error, print_json_line
from llamaforge.cli.picture import Picture
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState, is_here
from llamaforge.runs.lock import is_held
from llamaforge.runs.tail import POLL_SECONDS, follow
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from rich.console import Console

_STOPPING: Final = "Saving a checkpoint and stopping; press Ctrl-C again to end at once."
_REFRESH_SECONDS: Final = 0.125
_LOOK_SECONDS: Final = 5.0
_END_SECONDS: Final = 15.0
"""How long a worker may take from its last event to its end."""


def watch(run: RunDirectory, *, as_json: bool, after_seq: int = 0) -> ExitCode:
    """Show a run's events until its worker is done or gone, and return what came of it.

    The first Ctrl-C asks the worker to save and stop, the second ends it. Where this process
    ends in another way the worker goes on.

    Args:
        run: a run that a worker has or had.
        as_json: print each event as a line of JSON to standard output, and nothing else there.
        after_seq: leave out the events up to this number.
    """
    picture = Picture()
    with _interrupts() as interrupts:
        viewer = _json_viewer if as_json else _terminal_viewer
        viewer(run, picture, interrupts, after_seq)
        wait_for_end(run)
    return _outcome(run, picture, interrupted=interrupts.count > 0, as_json=as_json)


class SignsOfLife:
    """Looks now and then whether the worker of a run hangs, and says so once."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._looked = time.monotonic()
        self._said = False

    def look(self) -> str | None:
        """Return what to say now, if anything."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return None
        self._looked = now
        status = self._run.read_status()
        pulse = self._run.pulse(status)
        is_live = status.state in {RunState.RUNNING, RunState.PAUSED}
        words = pulse.words(self._run.id) if pulse is not None and is_live else ""
        if bool(words) == self._said:
            return None
        self._said = bool(words)
        return words or "The worker gives signs of life again."


def wait_for_end(run: RunDirectory) -> None:
    """Wait until the worker whose last event was seen has written its state and let go of the run.

    Between the two a script would still be told that it is running, and could not resume it. A
    worker that hangs there is not waited for without end.
    """
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        if control.is_over(run) and not is_held(run.lock_file):
            return
        time.sleep(POLL_SECONDS)


def end_worker(run: RunDirectory) -> bool:
    """End the run's worker at once; return whether there was one.

    Raises:
        RefusedError: it is on another machine.
    """
    status = run.read_status()
    if not is_here(status):
        host = safe_line(status.host, limit=60)
        raise RefusedError(
            f"The worker of {run.id} is on {host}, not on this machine.",
            f"Let it save and stop: llamaforge runs stop {run.id}",
            code="other_host",
        )
    return control.end_now(run)


@dataclass
class _Interrupts:
    """How often Ctrl-C was pressed, and how often that was acted upon."""

    count: int = 0
    answered: int = 0

    def answer(self, run: RunDirectory) -> str | None:
        """Do what a new Ctrl-C asks for; return what to say."""
        if self.count == self.answered:
            return None
        self.answered += 1
        if self.answered == 1:
            control.ask(run, control.Request.STOP)
            return _STOPPING
        end_worker(run)
        return "The worker was ended."


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Count Ctrl-C instead of ending; the third ends this process, as it always would."""
    pressed = _Interrupts()

    def on_signal(number: int, frame: FrameType | None) -> None:
        pressed.count += 1
        if pressed.count > 2:
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _json_viewer(
    run: RunDirectory, picture: Picture, interrupts: _Interrupts, after_seq: int
) -> None:
    life = SignsOfLife(run)
    for event in follow(run, after_seq=after_seq):
        if said := interrupts.answer(run) or life.look():
            narrate(said)
        if event is not None:
            picture.take(event)
            if isinstance(event, events.Other):  # of a newer program: passed on as it stands
                print_json_line(json.dumps(event.body))
            else:
                print_json_line(event.to_json())


def _terminal_viewer(
    run: RunDirectory, picture: Picture, interrupts: _Interrupts, after_seq: int
) -> None:
    out = error_console()
    if out.is_terminal and not out.is_dumb_terminal:
        _live_viewer(out, run, picture, interrupts, after_seq)
        return
    life = SignsOfLife(run)
    for event in follow(run, after_seq=after_seq):
        if said := interrupts.answer(run) or life.look():
            narrate(said)
        if event is not None:
            line = picture.take(event) or picture.progress_line(event)
            if line is not None:
                narrate(safe_line(line))


def _live_viewer(
    out: "Console", run: RunDirectory, picture: Picture, interrupts: _Interrupts, after_seq: int
) -> None:
    from rich.live import Live
    from rich.text import Text

    drawn, is_stale = 0.0, True
    life = SignsOfLife(run)
    # Refreshed below: a thread of Rich's own would draw while the picture changes.
    with Live(console=out, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        for event in follow(run, after_seq=after_seq):
            said = interrupts.answer(run) or life.look()
            line = None if event is None else picture.take(event)
            for text in (said, line):
                if text:
                    out.print(Text(safe_line(text)))
            is_stale = is_stale or event is not None
            if is_stale and time.monotonic() - drawn >= _REFRESH_SECONDS:
                live.update(picture.render(), refresh=True)
                drawn, is_stale = time.monotonic(), False


def _outcome(run: RunDirectory, picture: Picture, *, interrupted: bool, as_json: bool) -> ExitCode:
    if picture.failed is not None:
        return tell_failure(picture.failed)
    state = RunState(picture.finished.state) if picture.finished else run.read_status().state
    if state is RunState.FINISHED:
        if not as_json:
            from llamaforge.cli.report import print_report

            print_report(run)
        return ExitCode.DONE
    if state is RunState.STOPPED or interrupted:
        narrate(f"The run {run.id} has stopped. Go on with: llamaforge runs resume {run.id}")
        return ExitCode.INTERRUPTED
    narrate_error(
        LlamaForgeError(
            f"The worker of {run.id} is gone without a word.",
            f"Go on from its last checkpoint: llamaforge runs resume {run.id} (its log: "
            f"{run.log_file})",
            code="lost",
        )
    )
    return ExitCode.FAILED


def tell_failure(failed: events.Failed) -> ExitCode:
    """Say why a run failed, and return its exit code."""
    narrate_error(LlamaForgeError(failed.message, failed.hint, code=failed.code))
    try:
        return ExitCode(failed.exit_code)
    except ValueError:
        return ExitCode.FAILED
