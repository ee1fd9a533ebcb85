"""One worker a run: a kernel lock that vanishes with its process, and the holder's name in it."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from llamaforge.errors import RefusedError
from llamaforge.hardware import process_start


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
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read_holder(handle)
            os.close(handle)
            raise RefusedError(
                f"The run is held by another worker ({holder}).",
                "Attach to it with: llamaforge runs attach",
                code="run_locked",
            ) from None
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


def _read_holder(handle: int) -> str:
    try:
        body = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(body['pid'])} on {body['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has only just started"
