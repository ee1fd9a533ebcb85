"""A small process that answers for a worker that ended without a word.

Where it was ended for memory while it trained, it is started again, with less. Where that happened
in another stage, or a library crashed, the run's last event says so. Whatever else ends a worker is
left to a person, who may have wanted it.
"""

import contextlib
import faulthandler
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.hardware import boot_id, memory_kills
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, Status, is_process
from llamaforge.runs.lock import RunLock
from llamaforge.safe_text import safe_line
from llamaforge.worker.memory import shortage_words, unproven

_GOODBYE: Final = b"."
_CRASH: Final = b"Fatal Python error: "
"""How faulthandler begins, and then names the signal."""
_END_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01
_ABORTED: Final = re.compile(
    rb"^memory allocation of \d+ bytes failed"  # Rust: tokenizers, safetensors
    rb"|terminate called after throwing an instance of 'std::bad_alloc'"
    rb"|^ggml_aligned_malloc: insufficient memory",
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
    # Of abort() and the like in a library nobody else would learn.
    faulthandler.enable(file=writing)
    try:
        yield
    finally:
        faulthandler.disable()
        with contextlib.suppress(BrokenPipeError):  # the other process was ended before this one
            os.write(writing, _GOODBYE)
        os.close(writing)


def _watch(run: RunDirectory, command: Sequence[str], worker: int, reading: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = b""
    while chunk := os.read(reading, 65536):
        said += chunk
    if said == _GOODBYE:
        return
    # Its end of the pipe is closed before it is gone: giving back its memory takes a while.
    deadline = time.monotonic() + _END_SECONDS
    while is_process(worker, None) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    crashed = said.startswith(_CRASH)
    if crashed:
        os.write(2, said)  # the worker's log
    status = run.read_status()
    if was_killed_for_memory(run, worker):
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    elif ended_for_memory(run, status):
        _tell(run, status, worker, shortage_words("host_kill"))
    elif crashed:
        reason = said.removeprefix(_CRASH).split(b"\n")[0].decode("utf-8", "replace")
        _tell(run, status, worker, f"The worker crashed ({safe_line(reason, limit=60)})")


def _tell(run: RunDirectory, status: Status, worker: int, what: str) -> None:
    """Write the last event and the last state for `worker`, unless another has the run by now."""
    if status.state is not RunState.LOST or status.pid != worker:
        return
    error = LlamaForgeError(
        f"{what}, in the stage {status.stage}.",
        f"Close other programs, then: llamaforge runs resume {run.id} (its log: {run.log_file})",
        code="crashed",
    )
    if status.stage == "verify":
        error = unproven(run.id, what)
    with contextlib.suppress(LlamaForgeError, OSError), _locked(run):
        if run.read_status() != status:  # another worker had the run meanwhile
            return
        failed = events.Failed(
            code=error.code,
            message=error.message,
            hint=error.hint,
            exit_code=int(ExitCode.FAILED),
        )
        ended = events.Finished(
            run=run.id, state=RunState.FAILED.value, artifacts=run.artifact_list()
        )
        writer = events.EventWriter(run.events_file)
        writer.write(failed, durable=True)
        writer.write(ended, durable=True)
        writer.close()
        run.write_status(replace(status, state=RunState.FAILED, message=error.message, pid=None))


@contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    """Hold the run's lock as soon as it can be had.

    A process may look gone while its last threads still hold what was open.

    Raises:
        RefusedError: another worker holds it.
    """
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(RunLock(run.lock_file))
                break
            except RefusedError:
                if run.read_status().state is not RunState.LOST or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        yield


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
    kills = status.memory_kills if status.boot == boot_id() else None
    return memory_ended(run, kills, status.log_bytes)


def memory_ended(run: RunDirectory, kills_before: int | None, log_start: int | None) -> bool:
    """Return whether a process of the run was ended because memory ran out.

    Args:
        run: the run.
        kills_before: the system's count of such ends (`hardware.memory_kills`) before it began.
        log_start: the length of the run's log at that time.
    """
    kills = memory_kills()
    if kills_before is not None and kills is not None and kills > kills_before:
        return True
    if log_start is None:
        return False
    try:
        with run.log_file.open("rb") as log:
            log.seek(max(log_start, log_bytes(run) - _LOG_TAIL_BYTES))
            return _ABORTED.search(log.read(_LOG_TAIL_BYTES)) is not None
    except OSError:
        return False


def log_bytes(run: RunDirectory) -> int:
    """Return the length of the worker's log."""
    try:
        return run.log_file.stat().st_size
    except OSError:
        return 0
