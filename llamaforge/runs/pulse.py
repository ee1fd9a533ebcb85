"""Signs of life: what a worker writes while it lives, and how long ago the last one came.

Ages are told by the clock that counts from the machine's start: no change of date moves it, and it
stands still while the machine sleeps.
"""

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from llamaforge.hardware import boot_id
from llamaforge.words import duration_words

BEAT_SECONDS: Final = 2.0
HANG_SECONDS: Final = 30.0
"""A worker that is silent for so long hangs: it was stopped, or its machine does nothing else."""
IDLE_SECONDS: Final = 900.0
"""A worker that lives but has told nothing for so long waits for something that may never come."""
AWAY_SECONDS: Final = 120.0
"""A worker of another machine whose last sign is older than that is gone. Clocks of two machines
differ, and a shared disk shows what is written there a while later."""
_WATCHED_BEATS: Final = 3
_LINE_BYTES: Final = 160
"""Always the same, so that each sign replaces the one before in a single write."""


class Heart:
    """A context manager whose thread writes a sign of life again and again."""

    def __init__(self, path: Path, *, beat_seconds: float = BEAT_SECONDS) -> None:
        self._path = path
        self._beat_seconds = beat_seconds
        self._worked = time.monotonic()
        self._over = threading.Event()
        self._boot = boot_id()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._handle = -1

    def __enter__(self) -> "Heart":
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._handle)

    def work(self) -> None:
        """Note that the worker's own thread has come on."""
        self._worked = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(self._beat_seconds):
            self._write()

    def _write(self) -> None:
        body = {
            "v": 1,
            "pid": os.getpid(),
            "boot": self._boot,
            "beat": round(time.monotonic(), 3),
            "worked": round(self._worked, 3),
        }
        # A full disk has room for it: the file's one block is there already.
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, json.dumps(body).ljust(_LINE_BYTES).encode("ascii"), 0)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How long a worker of this machine has been silent, in seconds."""

    silent_seconds: float
    """Since its last sign of life."""
    idle_seconds: float
    """Since it last told anything."""

    @property
    def hangs(self) -> bool:
        """Whether the worker hangs as a whole."""
        return self.silent_seconds > HANG_SECONDS

    @property
    def idles(self) -> bool:
        """Whether it lives, and nothing comes of it."""
        return not self.hangs and self.idle_seconds > IDLE_SECONDS

    def words(self, run: str) -> str:
        """Return what a person should know and can do; nothing where all is well."""
        if self.hangs:
            said = f"The worker has given no sign of life for {duration_words(self.silent_seconds)}"
        elif self.idles:
            said = f"The worker has told nothing for {duration_words(self.idle_seconds)}"
        else:
            return ""
        return (
            f"{said}. If that lasts, end it and go on from its last checkpoint: llamaforge runs "
            f"stop --now {run}; llamaforge runs resume {run}"
        )


def read_pulse(path: Path, pid: int | None) -> Pulse | None:
    """Return the pulse of worker `pid` of this machine; None where it has left no sign."""
    try:
        body = json.loads(path.read_text(encoding="ascii"))
        if body["boot"] != boot_id() or body["pid"] != pid:
            return None
        now = time.monotonic()
        return Pulse(max(now - float(body["beat"]), 0.0), max(now - float(body["worked"]), 0.0))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_fresh(path: Path) -> bool:
    """Return whether a worker of any machine left a sign of life at `path` not long ago.

    The clocks of two machines are compared; `is_beating` needs none, and takes seconds.
    """
    try:
        return abs(time.time() - path.stat().st_mtime) < AWAY_SECONDS
    except OSError:
        return False


def is_beating(path: Path, *, beat_seconds: float = BEAT_SECONDS) -> bool:
    """Return whether signs of life come to `path` while it is watched for some beats."""
    before = _content(path)
    for _ in range(_WATCHED_BEATS):
        time.sleep(beat_seconds)
        if _content(path) != before:
            return True
    return False


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
