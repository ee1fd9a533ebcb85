"""`python -m llamaforge.worker RUN_DIR`: carries out one run, stage by stage."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.hardware import physical_cores
from llamaforge.recipe.preflight import needs_of
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import events
from llamaforge.runs.directory import LIVE_STATES, RunDirectory, RunState, is_here
from llamaforge.runs.lock import RunLock
from llamaforge.runs.pulse import is_beating
from llamaforge.safe_text import safe_line
from llamaforge.worker.job import Job, Stopped, is_disk_full, is_file_too_large
from llamaforge.worker.keeper import kept
from llamaforge.worker.loading import undisturbed
from llamaforge.worker.log import log_error
from llamaforge.worker.memory import is_device_lost, memory_shortage, shortage_words
from llamaforge.worker.stages import Stage, stages_of

_COMMAND: Final = (sys.executable, "-m", "llamaforge.worker")
_ROOM_BYTES: Final = 8_000_000
"""Events, the log and reports."""


def main(arguments: list[str], command: Sequence[str] = _COMMAND) -> int:
    """Carry out the run in the directory that is named, and return an exit code.

    `command` with that directory starts such a worker again.
    """
    if len(arguments) != 1:
        print("usage: python -m llamaforge.worker RUN_DIR", file=sys.stderr)  # noqa: T201
        return ExitCode.USAGE
    os.umask(0o077)
    run = RunDirectory(Path(arguments[0]).absolute())
    try:
        with kept(run, [*command, str(run.path)]), RunLock(run.lock_file):
            _require_alone(run)
            return carry_out(run)
    except LlamaForgeError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code


def _require_alone(run: RunDirectory) -> None:
    """Return if no worker of another machine carries the run out; a disk may pass on no locks.

    Raises:
        RefusedError: one does.
    """
    status = run.noted_status()
    if status.state in LIVE_STATES and not is_here(status) and is_beating(run.pulse_file):
        raise RefusedError(
            f"The run {run.id} is held by another worker (process {status.pid} on "
            f"{safe_line(status.host, limit=60)}).",
            f"Watch it: llamaforge runs attach {run.id}",
            code="run_locked",
        )


def carry_out(run: RunDirectory) -> int:
    """Do every stage that is not done yet.

    Whatever happens, the last event says how it ended, and so does the run's state.
    """
    job = Job(run, RunSpec.load(run.spec_file))
    resumed = run.events_file.stat().st_size > 0
    _listen(job)
    try:
        job.begin(resumed=resumed)
        _use_all_cores()
        _do_stages(job)
    except Stopped:
        job.end(RunState.STOPPED)
        return ExitCode.INTERRUPTED
    except LlamaForgeError as error:
        return _failed(job, error)
    except Exception as error:
        log_error()
        return _failed(job, _explained(error, run))
    else:
        job.end(RunState.FINISHED)
        return ExitCode.DONE
    finally:
        job.close()


def _do_stages(job: Job) -> None:
    for stage in stages_of(job):
        job.check_stop()
        if stage.is_done(job):
            job.emit(events.Stage(name=stage.name, state="skipped"))
            continue
        job.enter(stage.name)
        started = time.monotonic()
        _do(job, stage)
        seconds = round(time.monotonic() - started, 3)
        job.emit(events.Stage(name=stage.name, state="finished", seconds=seconds))


def _do(job: Job, stage: Stage) -> None:
    """Carry out a stage; where the disk gets full, wait for room and do it again."""
    while True:
        try:
            stage.carry_out(job)
        except (OSError, RuntimeError):
            # Libraries say "disk full" in many ways, some without its number: what is free tells.
            if not job.wait_for_space(_room_for_a_stage(job)):
                raise
        else:
            return


def _room_for_a_stage(job: Job) -> int:
    """Return the bytes that any stage beside training gets along with."""
    try:
        return needs_of(job.spec, job.header).made + _ROOM_BYTES
    except LlamaForgeError:  # the sources are gone: by then the rows are frozen
        return _ROOM_BYTES


def _failed(job: Job, error: LlamaForgeError) -> int:
    job.emit(
        events.Failed(
            code=error.code,
            message=error.message,
            hint=error.hint,
            exit_code=int(error.exit_code),
        )
    )
    job.end(RunState.FAILED, error.message)
    return int(error.exit_code)


def _explained(error: Exception, run: RunDirectory) -> LlamaForgeError:
    """Return an unexpected error as a sentence; its traceback is in the log by now."""
    if kind := memory_shortage(error):
        return LlamaForgeError(
            f"{shortage_words(kind)}.",
            "Resume after closing other programs, or start again with "
            "--set per_device_train_batch_size=1 --set gradient_accumulation_steps=16, or with a "
            "smaller --set max_length.",
            code="out_of_memory",
        )
    if is_disk_full(error):
        return LlamaForgeError(
            "The disk is full.",
            f"Free some space, then: llamaforge runs resume {run.id}",
            code="disk_full",
        )
    if is_file_too_large(error):
        return LlamaForgeError(
            "A file of the run is larger than its disk, or a limit of this process, allows.",
            f"Look at ulimit -f and at the kind of the disk, then: llamaforge runs resume {run.id}",
            code="file_too_large",
        )
    if is_device_lost(error):
        return LlamaForgeError(
            "The GPU is lost: its driver reports a failure.",
            f"Look at it with nvidia-smi, then: llamaforge runs resume {run.id}",
            code="gpu_lost",
        )
    if isinstance(error, OSError) and error.strerror:
        where = f" ({safe_line(str(error.filename), limit=200)})" if error.filename else ""
        return LlamaForgeError(
            f"The worker could not go on: {error.strerror}{where}.",
            f"Its log has the details: {run.log_file}. Then: llamaforge runs resume {run.id}",
            code="system",
        )
    return LlamaForgeError(
        f"The worker met an unexpected {type(error).__name__}.",
        f"Its log has the details: {run.log_file}",
        code="internal",
    )


def _listen(job: Job) -> None:
    """Obey signals: the first asks to save and stop, the second ends the process."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal asked
        if asked:
            job.end(RunState.STOPPED, "ended at once")
            os._exit(ExitCode.INTERRUPTED)
        asked = True
        job.interrupt()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is no reason to stop


def _use_all_cores() -> None:
    with undisturbed():
        import torch

    torch.set_num_threads(physical_cores())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
