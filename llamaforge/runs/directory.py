"""One run's directory: where each thing lies in it, and the state that it is in."""

import contextlib
import json
import os
import re
import socket
import stat
import time
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import psutil

from llamaforge import paths
from llamaforge.errors import NotFoundError, RefusedError, UsageError
from llamaforge.files import write_json
from llamaforge.hardware import boot_id, process_start
from llamaforge.runs.lock import is_held
from llamaforge.runs.pulse import Pulse, is_beating, is_fresh, read_pulse
from llamaforge.safe_text import safe_line

RUN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MARKER: Final = "run.yaml"
_CLOCK_SLACK_SECONDS: Final = 1.0  # two readings of one process's start differ by rounding


class RunState(StrEnum):
    """Where a run is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    FINISHED = "finished"
    LOST = "lost"
    """The state says running, and no process is behind it."""


LIVE_STATES: Final = frozenset({RunState.RUNNING, RunState.PAUSED})
"""In these a process is behind the run."""


@dataclass(frozen=True)
class Status:
    """The content of `state.json`."""

    state: RunState = RunState.CREATED
    stage: str = ""
    step: int = 0
    total: int = 0
    pid: int | None = None
    pid_started: float | None = None
    """The process's start as `hardware.process_start` tells it: with `pid` and `boot` it names one
    process for good."""
    boot: str = ""
    memory_kills: int | None = None
    """How often the kernel had ended a process for memory when this one began."""
    log_bytes: int | None = None
    """The length of the worker's log when this one began: what stands behind it is its own."""
    spec_sha256: str = ""
    """Of `run.yaml`, as the last worker read it."""
    host: str = ""
    message: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    updated: float = 0.0


class RunDirectory:
    """The paths of one run; everything else about it is read from these files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.spec_file = path / _MARKER
        self.events_file = path / "events.jsonl"
        self.log_file = path / "worker.log"
        self.state_file = path / "state.json"
        self.lock_file = path / "lock"
        self.pulse_file = path / "heartbeat.json"
        self.control = path / "control"
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.artifacts = path / "artifacts"
        self.journal_file = path / "journal.jsonl"
        self.estimate_file = path / "estimate.json"
        self.start_file = path / "start.safetensors"

    def of_phase(self, number: int) -> "RunDirectory":
        """Return the run as phase `number`, from 1 on, sees it: with rows and checkpoints of its
        own, and everything else in common."""
        run = RunDirectory(self.path)
        if number > 1:
            run.data = self.path / f"phase-{number}" / "data"
            run.checkpoints = self.path / f"phase-{number}" / "checkpoints"
            run.estimate_file = self.path / f"phase-{number}" / "estimate.json"
        return run

    def noted_status(self) -> Status:
        """Return the state as the last worker wrote it, whether or not it still lives."""
        try:
            body = json.loads(self.state_file.read_text(encoding="utf-8"))
            body["state"] = RunState(body["state"])
            known = {key: body[key] for key in Status.__dataclass_fields__ if key in body}
            return Status(**known)
        except (OSError, ValueError, KeyError, TypeError):
            return Status()

    def read_status(self) -> Status:
        """Return the state as of now; a running state with no process behind it is `lost`."""
        status = self.noted_status()
        if status.state in LIVE_STATES and not self._alive(status):
            return replace(status, state=RunState.LOST)
        if status.state is RunState.RUNNING and not status.message:
            pulse = self.pulse(status)
            return status if pulse is None else replace(status, message=pulse.words(self.id))
        return status

    def pulse(self, status: Status) -> Pulse | None:
        """Return the signs of life of the worker that `status` names, if it is on this machine."""
        if not is_here(status):
            return None
        return read_pulse(self.pulse_file, status.pid)

    def write_status(self, status: Status) -> None:
        """Replace `state.json`."""
        write_json(self.state_file, asdict(status) | {"v": 1, "updated": time.time()})

    def process(self) -> psutil.Process | None:
        """Return the worker's process if it lives on this host, by pid and start time."""
        status = self.read_status()
        if status.pid is None or not is_process(status.pid, status.pid_started, status.boot):
            return None
        if not is_here(status):
            return None  # another machine's process; the one with its pid here is a stranger
        try:
            return psutil.Process(status.pid)
        except psutil.NoSuchProcess:
            return None

    def estimate(self) -> dict[str, Any] | None:
        """Return what training was expected to take (`predicted`) and took (`measured`)."""
        try:
            body = json.loads(self.estimate_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) else None

    def estimates(self) -> list[dict[str, Any]]:
        """Return what `estimate` does for each phase of training that has been begun, in order."""
        found: list[dict[str, Any]] = []
        while (body := self.of_phase(len(found) + 1).estimate()) is not None:
            found.append(body)
        return found

    def check_proof(self) -> None:
        """Return unless the proof of the run's result was made and failed.

        Raises:
            RefusedError: it failed (`not_verified`).
        """
        try:
            body = json.loads((self.artifacts / "verify.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if not isinstance(body, dict) or body.get("passed") is True:
            return
        reason = safe_line(str(body.get("reason") or "no reason is given"), limit=200).rstrip(".")
        raise RefusedError(
            f"What the run {self.id} made did not pass its proof: {reason}.",
            f"Train it again, or look at the report: llamaforge verify {self.id}",
            code="not_verified",
        )

    def artifact_list(self) -> list[dict[str, str]]:
        """Return what the run made: kind, path and sha256 of each artifact.

        Files inside the run's folder are noted by their place in it, so that it can be moved.
        """
        try:
            listed = json.loads((self.artifacts / "artifacts.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        inside = self.path.absolute()
        placed = [item | {"path": str(inside / item["path"])} for item in listed]
        return [item for item in placed if Path(item["path"]).exists()]

    def list_artifact(self, kind: str, path: Path, sha256: str, *, beside: bool = False) -> None:
        """List the file at `path` as what the run made of this kind, or `beside` others of it."""
        listed = [
            item
            for item in self.artifact_list()
            if item["kind"] != kind or (beside and item["path"] != str(path.absolute()))
        ]
        listed.append({"kind": kind, "path": str(path.absolute()), "sha256": sha256})
        noted = [item | {"path": self._place(Path(item["path"]))} for item in listed]
        write_json(self.artifacts / "artifacts.json", noted)

    def _place(self, path: Path) -> str:
        inside = self.path.absolute()
        return str(path.relative_to(inside) if path.is_relative_to(inside) else path)

    def _alive(self, status: Status) -> bool:
        if is_here(status):
            return status.pid is not None and is_process(
                status.pid, status.pid_started, status.boot
            )
        # Another machine's process cannot be looked at from here: its lock and its signs of life
        # can, as far as the disk that both see passes them on.
        return is_held(self.lock_file) or is_fresh(self.pulse_file)


def is_here(status: Status) -> bool:
    """Return whether the process that `status` names is, or was, one of this machine.

    A machine may get another name while a process lives.
    """
    if not status.host or status.host == socket.gethostname():
        return True
    return (
        status.pid is not None
        and bool(status.boot)
        and is_process(status.pid, status.pid_started, status.boot)
    )


def is_deserted(run: RunDirectory) -> bool:
    """Return whether a run that another machine seems to carry out gives no sign for some seconds.

    The state itself waits for minutes: clocks of two machines differ. This watches.
    """
    status = run.noted_status()
    return (
        status.state in LIVE_STATES
        and not is_here(status)
        and not is_held(run.lock_file)
        and not is_beating(run.pulse_file)
    )


def is_process(pid: int, started: float | None, boot: str = "") -> bool:
    """Return whether the process `pid` lives and is the one that began at `started`.

    A process of an earlier start of the machine, which `boot` names, is gone.
    """
    if boot and boot != boot_id():
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process_start(pid) - started) < _CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False


def create_run(name: str, *, numbered: bool = False) -> RunDirectory:
    """Make a new, private run directory called `name`.

    With `numbered`, a name that is taken gets `-2`, `-3` and so on; without, it is refused.

    Raises:
        UsageError: the name has characters that a folder or Ollama cannot take, or is taken.
    """
    check_run_name(name)
    folder = paths.runs_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(1, 10_000):
        candidate = folder / (name if number == 1 else f"{name}-{number}")
        try:
            candidate.mkdir(mode=0o700)
        except FileExistsError:
            if not numbered:
                raise _taken(candidate) from None
            continue
        run = RunDirectory(candidate)
        for part in (run.data, run.checkpoints, run.artifacts, run.control):
            part.mkdir(mode=0o700)
        return run
    raise UsageError(f"There are too many runs named {name}.", "Choose another --name.")


def _taken(folder: Path) -> UsageError:
    """Return that a run cannot have the name of `folder`, which is there."""
    if (folder / _MARKER).exists():
        status = RunDirectory(folder).read_status()
        if status.state in LIVE_STATES:
            place = f" on {safe_line(status.host, limit=60)}" if status.host else ""
            return UsageError(
                f"There is already a run named {folder.name}; it is {status.state.value}, held by "
                f"process {status.pid}{place}.",
                f"Watch it: llamaforge runs attach {folder.name}; or choose another --name.",
                code="run_exists",
            )
        return UsageError(
            f"There is already a run named {folder.name}.",
            f"Choose another --name, or delete it: llamaforge runs rm {folder.name}",
            code="run_exists",
        )
    return UsageError(
        f"The folder {safe_line(str(folder))} is there, and is no run: its beginning was cut off, "
        "or another start is about to make it.",
        "Choose another --name, or remove that folder.",
        code="run_exists",
    )


def check_run_name(name: str) -> None:
    """Raise `UsageError` unless `name` can name a run directory."""
    if not RUN_NAME.fullmatch(name):
        raise UsageError(
            f"{safe_line(name, limit=60)!r} cannot name a run.",
            "Use letters, digits, dots, dashes and underscores, at most 64, no dash first.",
            code="run_name",
        )


def check_free(name: str) -> None:
    """Raise `UsageError` where there is something called `name` among the runs."""
    if os.path.lexists(paths.runs_folder() / name):
        raise _taken(paths.runs_folder() / name)


def open_run(name: str) -> RunDirectory:
    """Return the run called `name`, or the newest where `name` is `latest`.

    Raises:
        NotFoundError: there is no such run; near names are offered.
    """
    import difflib  # noqa: PLC0415 - only needed on this path

    runs = list_runs()
    if name == "latest" and runs:
        return runs[0]
    for run in runs:
        if run.id == name:
            return run
    if name == "latest":
        raise NotFoundError("There are no runs yet.", "Begin with: llamaforge demo", code="no_run")
    near = difflib.get_close_matches(name, [run.id for run in runs], n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See: llamaforge runs list"
    raise NotFoundError(f"There is no run named {safe_line(name, limit=60)}.", hint, code="no_run")


def list_runs() -> list[RunDirectory]:
    """Return all runs, newest first. A folder without a run spec is not a run.

    What another user owns, or removes meanwhile, is left out.
    """
    folder = paths.runs_folder()
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            spec = (path / _MARKER).stat()
            if stat.S_ISREG(spec.st_mode):
                found.append((spec.st_mtime_ns, path.name, RunDirectory(path)))
    return [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]
