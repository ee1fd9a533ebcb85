"""Starting the worker: a process in a session of its own that outlives the terminal."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import yaml

from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.hardware import free_disk_bytes
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.runs.events import Started
from llamaforge.runs.lock import require_free
from llamaforge.runs.tail import EventTail
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words

_START_TIMEOUT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_LEAST_BYTES: Final = 1_000_000
_PASSED_ON: Final = frozenset(
    {
        "HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP",
        "TMP", "SHELL", "XDG_DATA_HOME", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHONHOME",
        "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LOCALAPPDATA",
        "USERPROFILE", "OLLAMA_HOST", "OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE",
        "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    }
)  # fmt: skip
_SPIN_COUNT: Final = "2000"
"""Turns for which an idle OpenMP thread waits in a loop before it sleeps. The usual 300,000 make a
run six times slower as soon as another program wants the same cores."""
_KERNELS: Final = "128"
"""Compiled matrix products that oneDNN keeps, of about 0.7 MB each. A pass needs some twenty for
each length that batches are padded to; the usual 1,024 grow without any gain in speed."""
_PASSED_PREFIXES: Final = (
    "LLAMAFORGE_", "CUDA_", "NVIDIA_", "OMP_", "GOMP_", "MKL_", "KMP_", "ONEDNN_", "TORCH_",
)  # fmt: skip


_TRACKERS: Final = {"wandb": "WANDB_", "mlflow": "MLFLOW_", "trackio": "TRACKIO_"}
"""Whose variables, with keys among them, a worker gets only where its recipe names them."""


def worker_environment(trackers: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables a worker gets: a list of known ones, so that secrets stay behind."""
    passed = (*_PASSED_PREFIXES, *(_TRACKERS[name] for name in trackers if name in _TRACKERS))
    chosen = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(passed)
    }
    chosen.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    chosen.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
    return chosen | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def launch(run: RunDirectory) -> int:
    """Start a worker on `run` and return its pid once it has taken the run.

    Raises:
        RefusedError: another worker has the run, or its folder cannot be written to.
        LlamaForgeError: the worker ended before it took the run; its log says why.
    """
    _require_room(run)
    command = [sys.executable, "-m", "llamaforge.worker", str(run.path)]
    seen = EventTail(run)
    while seen.read_new():
        pass  # what earlier workers wrote
    try:
        with open(run.log_file, "ab", opener=_private) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=worker_environment(_trackers(run)),
                close_fds=True,
            )
    except OSError as error:
        raise RefusedError(
            f"The run's folder {safe_line(str(run.path))} cannot be written to: {error.strerror}.",
            "Check its permissions and its disk.",
            code="run_not_writable",
        ) from error
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        status = run.read_status()
        if status.pid == process.pid and status.state is not RunState.CREATED:
            return process.pid
        if process.poll() is not None:
            # It may have come and gone between two looks: then its events tell why.
            begun = (event for event in seen.read_new() if isinstance(event, Started))
            if any(event.pid == process.pid for event in begun):
                return process.pid
            if process.returncode == ExitCode.REFUSED:
                require_free(run.lock_file)
            break
        time.sleep(_POLL_SECONDS)
    else:
        raise LlamaForgeError(
            f"The worker has not begun within {_START_TIMEOUT_SECONDS:g} seconds; its process "
            f"{process.pid} is still there, and may begin later.",
            f"See: llamaforge runs show {run.id} (its log: {run.log_file})",
            code="worker_slow",
        )
    raise LlamaForgeError(
        "The worker process did not start.",
        f"Its log says why: {run.log_file}",
        code="worker_start",
    )


def _require_room(run: RunDirectory) -> None:
    """Return if there is room for a worker's first words; it waits for any more room itself.

    Raises:
        RefusedError: the disk is full (`disk_full`).
    """
    free = free_disk_bytes(run.path)
    if free < _LEAST_BYTES:
        raise RefusedError(
            f"The disk is full: {size_words(_LEAST_BYTES)} must be free at "
            f"{safe_line(str(run.path), limit=200)}, and {size_words(free)} are.",
            f"Free some space, then: llamaforge runs resume {run.id}",
            code="disk_full",
        )


def _trackers(run: RunDirectory) -> list[str]:
    """Return the run spec's `training.report_to`; the worker says what is wrong with a spec."""
    try:
        spec = yaml.safe_load(run.spec_file.read_text(encoding="utf-8"))
        return [name for name in spec["training"]["report_to"] if isinstance(name, str)]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return []


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
