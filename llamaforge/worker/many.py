"""Training in several processes: what starts them, and one monitor over all of them.

The worker stays what it is, the only writer of the run. For the training alone it starts torchrun,
which starts the ranks (`worker/rank.py`), and starts all of them again where one has ended. Rank 0
tells what happens in a file of its own; the worker passes it on as the run's events.
"""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.files import write_json
from llamaforge.hardware import memory_kills
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import control, events
from llamaforge.runs.directory import LIVE_STATES, RunDirectory, RunState
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, plural
from llamaforge.worker.job import Job, Stopped
from llamaforge.worker.keeper import log_bytes, memory_ended
from llamaforge.worker.together import STARTED_BY, kill_all

_POLL_SECONDS: Final = 0.1
_END_SECONDS: Final = 20.0
"""How long torchrun may take from being asked to end; it gives halted ranks 30 seconds itself."""
_DEAF_SECONDS: Final = 2.0
"""How long no rank must be there for a wish to stop to be granted without them."""
_PATIENCE_SECONDS: Final = 900.0
"""How long another machine waits for the first one to go on with a run that is over."""


@dataclass(frozen=True)
class RankFiles:
    """What the ranks of a run leave in its directory."""

    folder: Path

    @classmethod
    def of(cls, run: RunDirectory) -> "RankFiles":
        """Return the files of a run."""
        return cls(run.path / "ranks")

    @property
    def events(self) -> Path:
        """What rank 0 tells."""
        return self.folder / "events.jsonl"

    @property
    def outcome(self) -> Path:
        """How training ended, or what it failed of; absent while it goes on."""
        return self.folder / "outcome.json"

    @property
    def launch(self) -> Path:
        """How the ranks of each machine are started."""
        return self.folder / "launch.json"


def launch_command(
    run: RunDirectory, launch: LaunchSettings, *, is_first: bool, phase: int = 1
) -> list[str]:
    """Return the command that starts one machine's ranks, the first's or another's, for a phase."""
    rank = ["-m", "llamaforge.worker.rank", str(run.path), str(phase)]
    if launch.launcher == "accelerate":
        return [
            sys.executable,
            "-m",
            "llamaforge.worker.together",
            "accelerate.commands.launch",
            "--multi_gpu",  # its word for several processes, on CPUs too
            f"--num_processes={launch.processes}",
            "--num_machines=1",
            "--main_process_port=0",  # any that is free
            f"--max_restarts={launch.max_restarts}",
            "--monitor_interval=0.1",  # seconds, as torchrun's own
            *rank,
        ]
    endpoint = launch.rendezvous or "127.0.0.1:0"  # any port that is free
    # torchrun guesses both from the machine's name, which need not be one that others know.
    among_others = [
        f"--rdzv-conf=is_host={int(is_first)}",
        f"--local-addr={_address_towards(endpoint)}",
    ]
    return [
        sys.executable,
        "-m",
        "llamaforge.worker.together",
        "torch.distributed.run",
        f"--nnodes={launch.machines}",
        f"--nproc-per-node={launch.processes}",
        f"--max-restarts={launch.max_restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={run.id}-{phase}",
        *(among_others if launch.machines > 1 else []),
        *rank,
    ]


def _address_towards(endpoint: str) -> str:
    """Return this machine's own address on the way to `HOST:PORT`.

    Raises:
        RefusedError: there is no such machine, or no way to it (`no_rendezvous`).
    """
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((host, int(port)))  # nothing is sent
            return str(way.getsockname()[0])
    except (OSError, OverflowError) as error:
        raise RefusedError(
            f"There is no way to the first machine, {endpoint}: {error}.",
            "Check launch.rendezvous: HOST:PORT of the first machine.",
            code="no_rendezvous",
        ) from error


def rank_environment(launch: LaunchSettings) -> dict[str, str]:
    """Return the environment of the ranks' launcher, which ends with this process."""
    chosen = os.environ | {STARTED_BY: str(os.getpid())}
    if launch.interface:
        chosen |= {"GLOO_SOCKET_IFNAME": launch.interface, "NCCL_SOCKET_IFNAME": launch.interface}
    # A meeting place of its own for every start: in one that is kept, ranks that are started again
    # find the addresses of those that are gone.
    chosen["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    chosen.setdefault("OMP_NUM_THREADS", "1")  # each rank sets its share of the cores itself
    return chosen


def train_ranks(job: Job) -> dict[str, Any]:
    """Let the ranks train, pass on what they tell, and return how it ended.

    The result has `step`, `stopped`, and `shortage` where memory ran out.

    Raises:
        LlamaForgeError: a rank failed for a reason that starting again does not mend, or more
            often than `max_restarts`.
    """
    launch = job.spec.launch
    files = RankFiles.of(job.run)
    files.folder.mkdir(mode=0o700, exist_ok=True)
    for path in (files.events, files.outcome):
        path.unlink(missing_ok=True)
    files.events.touch(mode=0o600)
    command = launch_command(job.run, launch, is_first=True, phase=job.phase)
    noted = {"v": 1, "command": command, "machines": launch.machines, "phase": job.phase}
    write_json(files.launch, noted)
    job.emit(
        events.Report(
            kind="launch",
            figures={
                "command": shlex.join(command),
                "processes": launch.processes,
                "machines": launch.machines,
                "max_restarts": launch.max_restarts,
            },
        )
    )
    if launch.machines > 1:
        others = plural(launch.machines - 1, "other machine")
        job.warn(
            "joining",
            f"Training waits for {others} to join; there: python -m llamaforge.worker.many "
            f"{shlex.quote(str(job.run.path))}",
        )
    before = memory_kills(), log_bytes(job.run)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=rank_environment(launch), start_new_session=True
    )
    try:
        _watch(job, process, files)
    finally:
        _end(process)
        with contextlib.suppress(FileNotFoundError):
            files.launch.unlink()
    outcome = _outcome(files)
    if outcome is not None:
        return outcome
    if memory_ended(job.run, *before):
        return {"shortage": "host_kill"}  # started again they would be ended again
    raise LlamaForgeError(
        _failure(process.returncode, launch.max_restarts),
        f"The log says why: {job.run.log_file}. Then go on from the last checkpoint: "
        f"llamaforge runs resume {job.run.id}",
        code="ranks_failed",
    )


def _failure(returncode: int, max_restarts: int) -> str:
    """Return what happened to processes that ended without a word."""
    if returncode < 0:
        return f"What starts the processes that train was ended by signal {-returncode}."
    if not max_restarts:
        return "A process that trained has failed, and max_restarts is 0."
    return (
        "The processes that train failed, and starting them again did not help "
        f"({plural(max_restarts, 'time')})."
    )


def _watch(job: Job, process: "subprocess.Popen[bytes]", files: RankFiles) -> None:
    """Pass on what the ranks tell until they are done or gone.

    Raises:
        Stopped: a person asked to stop, and there is no rank that could hear it: torchrun waits for
            another machine.
    """
    deaf_since: float | None = None
    with files.events.open("rb") as told:
        place = 0
        while True:
            is_over = files.outcome.exists() or process.poll() is not None
            if job.stop_asked() and not control.is_asked(job.run, control.Request.STOP):
                with contextlib.suppress(RefusedError):
                    control.ask(job.run, control.Request.STOP)  # a signal reaches the worker alone
            told.seek(place)
            # Up to the last whole line: what a rank did not finish is cut off when it starts again.
            chunk = told.read().rpartition(b"\n")[0]
            place += len(chunk) + 1 if chunk else 0
            for line in chunk.split(b"\n"):
                event = events.parse_event(line)
                if event is not None:
                    job.relay(event)
            if is_over and not chunk:
                return
            if not job.stop_asked() or _has_ranks(process):
                deaf_since = None
            elif deaf_since is None:
                deaf_since = time.monotonic()
            elif time.monotonic() - deaf_since > _DEAF_SECONDS:
                raise Stopped
            if not chunk:
                job.rest()
                time.sleep(_POLL_SECONDS)


def _has_ranks(process: "subprocess.Popen[bytes]") -> bool:
    """Return whether torchrun has started processes that train."""
    try:
        return bool(psutil.Process(process.pid).children())
    except psutil.NoSuchProcess:
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End torchrun and its ranks; those that are done have ended by themselves."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2.0)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    if process.poll() is None:
        kill_all(process.pid)
        process.wait()


def _outcome(files: RankFiles) -> dict[str, Any] | None:
    """Return how training ended; None where the ranks ended without saying it.

    Raises:
        LlamaForgeError: a rank said that it cannot go on.
    """
    try:
        body: dict[str, Any] = json.loads(files.outcome.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "message" in body:
        raise LlamaForgeError(body["message"], body["hint"], code=body["code"])
    return body


def join(arguments: Sequence[str], *, patience_seconds: float = _PATIENCE_SECONDS) -> int:
    """Start this machine's share of a run's ranks: `python -m llamaforge.worker.many RUN_DIR`.

    For all machines but the first, whose worker does it by itself. Waits until training begins: a
    run that has stopped, failed or been lost may be about to go on, and is waited for for a while.
    """
    if len(arguments) != 1:
        _say("usage: python -m llamaforge.worker.many RUN_DIR")
        return ExitCode.USAGE
    run = RunDirectory(Path(arguments[0]).absolute())
    name = safe_line(run.id)
    _say(f"Waiting for the first machine to begin training {name} …")
    done, has_begun = 0, False
    silent_since = time.monotonic()
    while True:
        state = run.read_status().state
        if state in LIVE_STATES:
            has_begun, silent_since = True, time.monotonic()
            phase = _begun(RankFiles.of(run).launch)
            if phase is not None and phase > done:
                spec = RunSpec.load(run.spec_file)
                command = launch_command(run, spec.launch, is_first=False, phase=phase)
                if subprocess.call(command, env=rank_environment(spec.launch)) == 0:
                    done = phase
                    if done == len(spec.phases):
                        return ExitCode.DONE
                # Otherwise the first machine may begin again, with less memory for instance.
        elif state is RunState.FINISHED or (has_begun and state is not RunState.CREATED):
            _say(f"The run {name} is {state.value}.")
            return _JOINED.get(state, ExitCode.FAILED)
        elif state is RunState.CREATED:  # its beginning may take long: a base to download
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > patience_seconds:
            _say(
                f"The run {name} is {state.value}, and the first machine has not gone on with it "
                f"within {duration_words(patience_seconds)}. Resume it there, then join it again."
            )
            return ExitCode.FAILED
        time.sleep(_POLL_SECONDS)


_JOINED: Final = {RunState.FINISHED: ExitCode.DONE, RunState.STOPPED: ExitCode.INTERRUPTED}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a process of a person or a script


def _begun(launch_file: Path) -> int | None:
    """Return the phase whose training the first machine has begun; None where it has not."""
    try:
        return int(json.loads(launch_file.read_text(encoding="utf-8"))["phase"])
    except (OSError, ValueError, KeyError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Join a run, and say in a sentence what is wrong."""
    try:
        return join(arguments)
    except LlamaForgeError as error:
        _say(f"{error.message} {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:  # torchrun got it as well, and has ended its ranks
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
