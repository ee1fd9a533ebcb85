"""What this machine has, measured and never guessed: memory, processor, GPU, disk."""

import contextlib
import ctypes
import functools
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line

_LIMIT: Final = "LLAMAFORGE_MEMORY_BYTES"
_CGROUP: Final = Path("/sys/fs/cgroup")
_VM_COUNTS: Final = Path("/proc/vmstat")


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as the driver reports it; memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int
    busy: float | None = None
    """Part of the last moments in which it computed, 0 to 1; None where it does not tell."""


def available_memory_bytes(*, held: int = 0) -> int:
    """Return host memory that a process can use without swapping, in bytes.

    The smallest of what the kernel estimates, what a control group still allows, and what the
    variable `LLAMAFORGE_MEMORY_BYTES` says a run may take.

    Args:
        held: what the process has already; it counts as available.

    Raises:
        UsageError: the variable is no number of bytes.
    """
    available = int(psutil.virtual_memory().available)
    limit = _read_number(_CGROUP / "memory.max")
    used = _read_number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        # Cached file pages count as used, and are given up for anyone who needs memory.
        available = min(available, max(limit - used + _cached_bytes(), 0))
    most = allowed_memory_bytes()
    return available + held if most is None else min(available + held, most)


def allowed_memory_bytes() -> int | None:
    """Return what a person lets a run take, or None where they set no limit.

    Raises:
        UsageError: `LLAMAFORGE_MEMORY_BYTES` is no number of bytes.
    """
    text = os.environ.get(_LIMIT, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(
            f"{_LIMIT} is {safe_line(text, limit=40)}, which is no number of bytes.",
            "Write it as digits, such as 8000000000 for 8 GB, or leave it out.",
            code="bad_value",
        )
    return int(text)


def total_memory_bytes() -> int:
    """Return the host memory that this process could have at the most, in bytes."""
    total = int(psutil.virtual_memory().total)
    limit = _read_number(_CGROUP / "memory.max")
    return total if limit is None else min(total, limit)


def _cached_bytes() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def peak_memory_bytes() -> int:
    """Return the most resident memory that this process had since `reset_peak_memory`, in bytes.

    Pages of mapped files count. Where the system cannot forget, it is the most it ever had.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> bool:
    """Let the peak be what is resident now; return whether the system could (Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def trim_heap() -> None:
    """Return what was freed to the system, where the C library keeps it for itself (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def own_memory_bytes() -> int:
    """Return what this process holds for itself now, in bytes; mapped files do not count."""
    held = psutil.Process().memory_info()
    return max(0, int(held.rss) - int(getattr(held, "shared", 0)))


def physical_cores() -> int:
    """Return the number of cores this process may use, hyper-threads not counted twice."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(allowed or physical, physical))


@functools.cache
def cpu_has_fast_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 natively (AVX-512 BF16, AMX or ARM BF16).

    Without such instructions bfloat16 matrix products are emulated and slower than float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


@functools.cache
def boot_id() -> str:
    """Return what names this start of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_start(pid: int) -> float:
    """Return when the process began, in seconds since the machine's start where that is known.

    psutil adds the machine's start to it, which moves whenever the date is set.
    Source: `man 5 proc_pid_stat`, field 22.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(text.rpartition(")")[2].split()[19])
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float(psutil.Process(pid).create_time())


def memory_kills() -> int | None:
    """Return how many processes the kernel has ended for memory since the machine's start.

    Those of this control group where it has a count of its own. None where nobody counts.
    """
    for path in (_CGROUP / "memory.events", _VM_COUNTS):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def gpus() -> list[Gpu]:
    """Return the CUDA devices, or an empty list where there is no driver."""
    import pynvml  # noqa: PLC0415 - loads the driver's library

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(Gpu(str(name), int(memory.total), int(memory.free), _busy(handle)))
        return found
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _busy(handle: object) -> float | None:
    import pynvml  # noqa: PLC0415

    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:  # some devices, and parts of a device, do not count it
        return None


def free_disk_bytes(place: Path) -> int:
    """Return the bytes free for this user on the disk of `place` or its nearest existing parent."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
