"""A small process that starts the worker again where the system ended it for memory.

Such an end comes without a word: the worker cannot answer it itself. Whatever else ends a worker is
left to a person, who may have wanted it.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from llamaforge.hardware import boot_id, memory_kills
from llamaforge.runs.directory import RunDirectory, RunState, Status, is_process

_GOODBYE: Final = b"."
_END_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_ABORTED: Final = re.compile(
    rb"^memory allocation of \d+ bytes failed"  # Rust: tokenizers, safetensors
    rb"|terminate called after throwing an instance of 'std::bad_alloc'",
    re.MULTILINE,
)
"""The last words of libraries that end the process where they get no memory."""
_LOG_TAIL_BYTES: Final = 64 * 1024


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
    """Return whether the run's last worker was `worker`, and memory ended it while it trained."""
    status = run.read_status()
    # Only training can do with less: whatever else was ended would be ended again, without end.
    return (
        status.pid == worker
        and status.stage.split()[:1] == ["train"]
        and ended_for_memory(run, status)
    )


def ended_for_memory(run: RunDirectory, status: Status) -> bool:
    """Return whether the worker of `status` came to its end because memory ran out.

    Either the system ended it, or a library did, with its words in the log.
    """
    if status.state is not RunState.LOST:
        return False
    kills = memory_kills()
    if (
        status.boot == boot_id()
        and status.memory_kills is not None
        and kills is not None
        and kills > status.memory_kills
    ):
        return True
    if status.log_bytes is None:
        return False
    try:
        with run.log_file.open("rb") as log:
            log.seek(max(status.log_bytes, log_bytes(run) - _LOG_TAIL_BYTES))
            return _ABORTED.search(log.read(_LOG_TAIL_BYTES)) is not None
    except OSError:
        return False


def log_bytes(run: RunDirectory) -> int:
    """Return the length of the worker's log."""
    try:
        return run.log_file.stat().st_size
    except OSError:
        return 0
