"""What a person may ask of a running worker, as files in the run directory and as signals."""

import contextlib
import os
import signal
import time
from enum import StrEnum
from typing import Final

import psutil

from llamaforge.files import write_atomic
from llamaforge.runs.directory import RunDirectory, RunState

_POLL_SECONDS: Final = 0.1


class Request(StrEnum):
    """A wish that the worker looks for after every optimizer step."""

    STOP = "stop"
    """Save a checkpoint, then end."""
    SAVE = "save"
    """Save a checkpoint, then go on."""


def ask(run: RunDirectory, request: Request) -> None:
    """Leave `request` for the worker."""
    write_atomic(run.control / request.value, "")


def take(run: RunDirectory, request: Request) -> bool:
    """Return whether `request` was left, and clear it."""
    try:
        (run.control / request.value).unlink()
    except FileNotFoundError:
        return False
    return True


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
