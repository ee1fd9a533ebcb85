"""A small process that starts the worker again where the system ended it for memory.

Such an end comes without a word: the worker cannot answer it itself. Whatever else ends a worker is
left to a person, who may have wanted it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from llamaforge.hardware import memory_kills
from llamaforge.runs.directory import RunDirectory, RunState, is_process

_GOODBYE: Final = b"."
_END_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05


@contextmanager
def kept(run: RunDirectory, command: Sequence[str]) -> Iterator[None]:
    """Let what runs inside be started again by `command` if the system ends it for memory.

    To be entered before the process holds locks or starts threads, since it forks.
    """
    reading, writing = os.pipe()
    worker = os.getpid()
    if os.fork() == 0:
        os.close(writing)
        try:
            _watch(run, command, worker, reading)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.write(writing, _GOODBYE)
        os.close(writing)


def _watch(run: RunDirectory, command: Sequence[str], worker: int, reading: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.read(reading, 1) == _GOODBYE:
        return
    # Its end of the pipe is closed before it is gone: giving back its memory takes a while.
    deadline = time.monotonic() + _END_SECONDS
    while is_process(worker, None) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not was_killed_for_memory(run, worker):
        return
    subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def was_killed_for_memory(run: RunDirectory, worker: int) -> bool:
    """Return whether the run's last worker was `worker`, and the system ended it for memory."""
    status = run.read_status()
    kills = memory_kills()
    return (
        status.state is RunState.LOST
        and status.pid == worker
        and status.memory_kills is not None
        and kills is not None
        and kills > status.memory_kills
    )
