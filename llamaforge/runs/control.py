"""What a person may ask of a running worker, as files in the run directory and as signals."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import psutil

from llamaforge.errors import RefusedError
from llamaforge.files import write_atomic
from llamaforge.runs.directory import RunDirectory, RunState

_POLL_SECONDS: Final = 0.1


class Request(StrEnum):
    """A wish that the worker looks for after every optimizer step."""

    STOP = "stop"
    """Save a checkpoint, then end."""
    SAVE = "save"
    """Save a checkpoint, then go on."""
    SAMPLE = "sample"
    """Answer some prompts, then go on; see `ask_samples`."""
    PAUSE = "pause"
    """Save a checkpoint, then wait, with everything kept in memory, until this is withdrawn."""


def ask(run: RunDirectory, request: Request) -> None:
    """Leave `request` for the worker.

    Raises:
        RefusedError: the run's folder cannot be written to.
    """
    _leave(run, request, "")


def ask_samples(run: RunDirectory, prompts: Sequence[str] = ()) -> None:
    """Ask the worker to answer `prompts` now; without any, those of the recipe.

    A recipe without prompts has the first questions of the validation rows answered.

    Raises:
        RefusedError: the run's folder cannot be written to.
    """
    _leave(run, Request.SAMPLE, json.dumps(list(prompts)))


def _leave(run: RunDirectory, request: Request, text: str) -> None:
    try:
        write_atomic(run.control / request.value, text)
    except OSError as error:
        raise RefusedError(
            f"Nothing can be asked of the run {run.id}: its folder cannot be written to "
            f"({error.strerror}).",
            f"Its worker obeys signals, too: kill -TERM {run.read_status().pid or 'PID'} lets it "
            "save and stop.",
            code="run_not_writable",
        ) from error


def take(run: RunDirectory, request: Request) -> bool:
    """Return whether `request` was left, and clear it."""
    try:
        (run.control / request.value).unlink()
    except FileNotFoundError:
        return False
    return True


def take_samples(run: RunDirectory) -> list[str] | None:
    """Return the prompts of a wish for answers and clear it; None where there is no such wish."""
    path = run.control / Request.SAMPLE.value
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        text = ""
    if not take(run, Request.SAMPLE):
        return None
    try:
        prompts = json.loads(text)
    except ValueError:
        return []  # the bare wish
    return [item for item in prompts if isinstance(item, str)] if isinstance(prompts, list) else []


def withdraw(run: RunDirectory, *requests: Request) -> None:
    """Clear wishes, all of them where none is named; a paused worker then goes on."""
    for request in requests or Request:
        take(run, request)


def is_asked(run: RunDirectory, request: Request) -> bool:
    """Return whether `request` was left, without clearing it."""
    return (run.control / request.value).exists()


def end_now(run: RunDirectory, *, grace_seconds: float = 5.0) -> bool:
    """End the worker at once: SIGTERM twice, then SIGKILL to its whole process group.

    Returns whether there was a worker to end.
    """
    process = run.process()
    if process is None:
        return False
    for step in (signal.SIGTERM, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, step)
        time.sleep(_POLL_SECONDS)
    try:
        process.wait(timeout=grace_seconds)
    except psutil.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=grace_seconds)
    return True


def is_over(run: RunDirectory) -> bool:
    """Return whether no worker will write to this run any more."""
    return run.read_status().state in {
        RunState.STOPPED,
        RunState.FAILED,
        RunState.FINISHED,
        RunState.LOST,
    }
