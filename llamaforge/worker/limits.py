"""Limits for programs from outside, such as chat templates, that run in this process."""

import contextlib
import functools
import os
import resource
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

import psutil

TEMPLATE_MEMORY_BYTES: Final = 512 * 1024 * 1024
"""What rendering may take beside what the process has when it begins."""
MOST_RENDERED_BYTES: Final = 1_000_000
"""UTF-8 of a row that is rendered: its tokens fit into that memory, one for each byte. Where they
do not, the tokenizer's own code ends the process instead of raising an error."""
_SIGNAL_AGAIN_SECONDS: Final = 0.2


_ROW_SECONDS: Final = 5.0
_MOST_OVERRUNS: Final = 5


class TooSlow(Exception):  # noqa: N818 - it is a limit
    """The time was over."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in what runs inside once `seconds` of the clock are over.

    Python code is stopped so. What stays in C for long is stopped by the other side, which ends
    the process.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise TooSlow(f"it takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again, in case the first one comes where Python can only report it.
    signal.setitimer(signal.ITIMER_REAL, seconds, _SIGNAL_AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def last_resort(seconds: float) -> Iterator[None]:
    """End this process by SIGVTALRM where what runs inside computes for longer than `seconds`.

    That reaches what stays in C, where no Python code could note that its time is over.
    """
    before = signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Raise `MemoryError` in what runs inside once it takes `more_bytes` beyond what is taken now.

    macOS does not enforce it; there the time limit remains.
    """
    before = limit_memory(more_bytes)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, before)


def limit_memory(more_bytes: int) -> tuple[int, int]:
    """Let the process have a bounded amount of memory more than it has now, until it ends.

    Only the soft limit is set. Returns the limits as they were, the soft one first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    limit = min([_process(os.getpid()).memory_info().vms + more_bytes, *limits])
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return soft, hard


@functools.lru_cache(maxsize=1)
def _process(number: int) -> psutil.Process:
    """Return this process; to look it up takes longer than to ask it for its memory."""
    return psutil.Process(number)


def program_limits(seconds: float) -> contextlib.ExitStack:
    """Return what bounds a program from outside, in time and memory, while it is entered."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(last_resort(2 * seconds + 1))
        stack.enter_context(memory_limit(TEMPLATE_MEMORY_BYTES))
        stack.enter_context(time_limit(seconds))
        return stack.pop_all()


class TemplateLimits:
    """Bounds what a chat template does with each row; called, it gives what to run it in.

    Where several rows took too long the template is given up: later rows are told so at once.
    """

    def __init__(self, seconds: float = _ROW_SECONDS) -> None:
        """Allow `seconds` for each time that the template is run."""
        self._seconds = seconds
        self._overruns = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raise `TooSlow` or `MemoryError` in what runs inside, where it goes too far."""
        if self._overruns >= _MOST_OVERRUNS:
            raise TooSlow(f"it took more than {self._seconds:g} seconds for {_MOST_OVERRUNS} rows")
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        try:
            with memory_limit(TEMPLATE_MEMORY_BYTES), time_limit(self._seconds):
                yield
        except TooSlow:
            self._overruns += 1
            raise
