"""Limits for programs from outside, such as chat templates, that run in this process."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

_SIGNAL_AGAIN_SECONDS: Final = 0.2


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
