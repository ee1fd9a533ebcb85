"""A command run as a process of its own, with its time, memory and disk watched from outside."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

_PAUSE_SECONDS: Final = 0.02
_SLOW_PAUSE_SECONDS: Final = 0.5
"""Between looks for children and at the disk, which take longer."""


@dataclass
class Watched:
    """What a command took. Memory is that of the process and its children together."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    """Largest resident memory, pages of mapped files included."""
    peak_anonymous_bytes: int = 0
    """The same without mapped files, which the system can drop at any time."""
    disk_bytes: int = 0
    """Most that lay in the watched folder."""
    answer: dict[str, Any] = field(default_factory=dict)
    """The last line of standard output, where it is a JSON object."""


def watch(command: Sequence[str], folder: Path) -> Watched:
    """Run a command to its end, and look at it and at `folder` meanwhile.

    Raises:
        SystemExit: it failed; what it said last is in the message.
    """
    environment = os.environ | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    found = Watched()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as printed:
        started, before = time.perf_counter(), _children_seconds()
        process = subprocess.Popen(command, stdout=printed, stderr=said, env=environment)
        _follow(process, found, folder)
        found.seconds = time.perf_counter() - started
        found.cpu_seconds = _children_seconds() - before
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-3000:]}")
        printed.seek(0)
        lines = printed.read().splitlines()
    found.disk_bytes = max(found.disk_bytes, folder_bytes(folder))
    if lines and lines[-1].startswith("{"):
        found.answer = json.loads(lines[-1])
    return found


def _follow(process: "subprocess.Popen[bytes]", found: Watched, folder: Path) -> None:
    parent = psutil.Process(process.pid)
    family = [parent]
    looked = 0.0
    while process.poll() is None:
        now = time.perf_counter()
        if now - looked > _SLOW_PAUSE_SECONDS:
            looked = now
            found.disk_bytes = max(found.disk_bytes, folder_bytes(folder))
            try:
                family = [parent, *parent.children(recursive=True)]
            except psutil.Error:
                family = [parent]
        resident = anonymous = 0
        for member in family:
            try:
                memory = member.memory_info()
            except psutil.Error:
                continue
            resident += memory.rss
            anonymous += memory.rss - getattr(memory, "shared", 0)
        found.peak_bytes = max(found.peak_bytes, resident, _high_water(process.pid))
        found.peak_anonymous_bytes = max(found.peak_anonymous_bytes, anonymous)
        time.sleep(_PAUSE_SECONDS)


def _children_seconds() -> float:
    """Return the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _high_water(pid: int) -> int:
    """Return the largest resident memory that Linux noted for a process; 0 elsewhere."""
    if sys.platform != "linux":
        return 0
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def folder_bytes(folder: Path) -> int:
    """Return the sizes of all files below a folder together."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # it was removed or renamed meanwhile
    return total


def together(steps: Sequence[Watched]) -> Watched:
    """Return steps that follow each other as one: times added, peaks of any."""
    return Watched(
        sum(step.seconds for step in steps),
        sum(step.cpu_seconds for step in steps),
        max(step.peak_bytes for step in steps),
        max(step.peak_anonymous_bytes for step in steps),
        max(step.disk_bytes for step in steps),
    )
