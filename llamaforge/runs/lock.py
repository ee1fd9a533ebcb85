"""One worker a run: a kernel lock that vanishes with its process, and the holder's name in it."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.hardware import process_start
from llamaforge.safe_text import safe_line

_PATIENCE_SECONDS: Final = 0.5
"""How long a lock is tried: whoever only looks whether it is held holds it for a moment."""
_POLL_SECONDS: Final = 0.02


class RunLock:
    """A context manager that holds a run's lock file for the life of the worker.

    Raises:
        RefusedError: another process holds it; the message names that process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _taken(handle):
            holder = _read_holder(handle)
            os.close(handle)
            name = self._path.parent.name
            raise RefusedError(
                f"The run {name} is held by another worker ({holder}).",
                f"Watch it: llamaforge runs attach {name}",
                code="run_locked",
            )
        body = {
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "host": socket.gethostname(),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(body).encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def require_free(path: Path) -> None:
    """Return if no process holds the lock file at `path`.

    Raises:
        RefusedError: one does; the message names it.
    """
    with RunLock(path):
        pass


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`; nothing is written there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk that knows no locks
        return False
    finally:
        os.close(handle)
    return False


def _taken(handle: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _read_holder(handle: int) -> str:
    try:
        body = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(body['pid'])} on {safe_line(str(body['host']), limit=60)}"
    except (ValueError, KeyError, TypeError):
        return "a process that has only just started"
