"""Training in several processes: what starts them, and one monitor over all of them.

The worker stays what it is, the only writer of the run. For the training alone it starts torchrun,
which starts the ranks (`worker/rank.py`), and starts all of them again where one has ended. Rank 0
tells what happens in a file of its own; the worker passes it on as the run's events.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.files import write_json
from llamaforge.recipe.spec import LaunchSettings, RunSpec
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.safe_text import safe_line
from llamaforge.worker.job import Job

_POLL_SECONDS: Final = 0.1
_END_SECONDS: Final = 30.0
"""How long torchrun may take from being asked to end."""


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


def torchrun_command(
    run: RunDirectory, launch: LaunchSettings, *, is_first: bool, phase: int = 1
) -> list[str]:
    """Return the command that starts one machine's ranks, the first's or another's, for a phase."""
    endpoint = launch.rendezvous or "127.0.0.1:0"  # any port that is free
    # torchrun guesses both from the machine's name, which need not be one that others know.
    among_others = [
        f"--rdzv-conf=is_host={int(is_first)}",
        f"--local-addr={_address_towards(endpoint)}",
    ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={launch.machines}",
        f"--nproc-per-node={launch.processes}",
        f"--max-restarts={launch.max_restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={run.id}-{phase}",
        *(among_others if launch.machines > 1 else []),
        "-m",
        "llamaforge.worker.rank",
        str(run.path),
        str(phase),
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
    """Return the environment of the ranks' launcher."""
    chosen = dict(os.environ)
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
    command = torchrun_command(job.run, launch, is_first=True, phase=job.phase)
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
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=rank_environment(launch), start_new_session=True
    )
    try:
        _watch(job, process, files)
    finally:
        _end(process)
        with contextlib.suppress(FileNotFoundError):
            files.launch.unlink()
    return _outcome(job, files)


def _watch(job: Job, process: "subprocess.Popen[bytes]", files: RankFiles) -> None:
    with files.events.open("rb") as told:
        place = 0
        while True:
            is_over = files.outcome.exists() or process.poll() is not None
            if job.stop_asked() and not control.is_asked(job.run, control.Request.STOP):
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
            if not chunk:
                time.sleep(_POLL_SECONDS)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End torchrun and its ranks; those that are done have ended by themselves."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2.0)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)


def _outcome(job: Job, files: RankFiles) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(files.outcome.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        restarts = job.spec.launch.max_restarts
        raise LlamaForgeError(
            f"The processes that train failed, and starting them again did not help "
            f"({restarts} times).",
            f"The log says why: {job.run.log_file}. Then go on from the last checkpoint: "
            f"llamaforge runs resume {job.run.id}",
            code="ranks_failed",
        ) from None
    if "message" in body:
        raise LlamaForgeError(body["message"], body["hint"], code=body["code"])
    return body


def join(arguments: Sequence[str]) -> int:
    """Start this machine's share of a run's ranks: `python -m llamaforge.worker.many RUN_DIR`.

    For all machines but the first, whose worker does it by itself. Waits until training begins.
    """
    run = RunDirectory(Path(arguments[0]).absolute())
    launch_file = RankFiles.of(run).launch
    print("Waiting for the first machine to begin training …", file=sys.stderr)  # noqa: T201
    done = 0
    while True:
        phase = _begun(launch_file)
        if phase is not None and phase > done:
            spec = RunSpec.load(run.spec_file)
            command = torchrun_command(run, spec.launch, is_first=False, phase=phase)
            if subprocess.call(command, env=rank_environment(spec.launch)) == 0:
                done = phase
                if done == len(spec.phases):
                    return ExitCode.DONE
            # Otherwise the first machine may begin again, with less memory for instance.
        if run.state_file.exists() and control.is_over(run):
            state = run.read_status().state
            print(f"The run {safe_line(run.id)} is {state.value}.", file=sys.stderr)  # noqa: T201
            return ExitCode.DONE if state is RunState.FINISHED else ExitCode.FAILED
        time.sleep(_POLL_SECONDS)


def _begun(launch_file: Path) -> int | None:
    """Return the phase whose training the first machine has begun; None where it has not."""
    try:
        return int(json.loads(launch_file.read_text(encoding="utf-8"))["phase"])
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    raise SystemExit(join(sys.argv[1:]))
