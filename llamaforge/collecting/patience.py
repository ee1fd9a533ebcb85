"""A teacher asked with patience: not too often, again after a pause, never after a stop."""

import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from llamaforge.collecting.answers import Answer, Asking, BusyError, Teacher, UnansweredError
from llamaforge.data.records import Message

_SECONDS_A_MINUTE: Final = 60.0


class StoppedError(Exception):
    """The work was stopped while this prompt waited for its turn."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a prompt is asked again, and after what pause."""

    attempts: int = 6
    """All attempts, the first included."""
    first_pause_seconds: float = 1.0
    """The pause after the first failure; it doubles, up to `longest_pause_seconds`."""
    longest_pause_seconds: float = 60.0

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after so many failures: half fixed and half chance.

        With chance, prompts that were refused together do not come back together.
        """
        longest = min(self.first_pause_seconds * 2.0 ** (failures - 1), self.longest_pause_seconds)
        return longest * (1 + random.random()) / 2  # noqa: S311 - no secret


class Pace:
    """Lets requests begin no more often than so many a minute; 0 is without limit."""

    def __init__(self, per_minute: float, stop: threading.Event) -> None:
        self._gap_seconds = _SECONDS_A_MINUTE / per_minute if per_minute > 0 else 0.0
        self._stop = stop
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when it is this request's turn.

        Raises:
            StoppedError: the work was stopped meanwhile.
        """
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap_seconds
        self.sleep(turn - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Let no request begin for so long: the server has asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait; raises `StoppedError` when the work is stopped."""
        if self._stop.wait(max(seconds, 0.0)):
            raise StoppedError


class PatientTeacher:
    """`teacher`, asked at a pace, and again where that may help."""

    def __init__(self, teacher: Teacher, pace: Pace, retries: Retries) -> None:
        self._teacher = teacher
        self._pace = pace
        self._retries = retries

    @property
    def name(self) -> str:
        """The model's name, safe to print."""
        return self._teacher.name

    def ask(self, messages: tuple[Message, ...], asking: Asking) -> Answer:
        """Return the model's answer.

        Raises:
            UnansweredError: this prompt gets none.
            StoppedError: see there.
            LlamaForgeError: no prompt will be answered.
        """
        failures = 0
        while True:
            self._pace.wait()
            try:
                return self._teacher.ask(messages, asking)
            except BusyError as error:
                failures += 1
                if failures >= self._retries.attempts:
                    raise UnansweredError(str(error)) from error
                if error.wait_seconds is not None:
                    self._pace.hold(error.wait_seconds)
                self._pace.sleep(self._retries.pause_seconds(failures))
