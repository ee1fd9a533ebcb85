"""Reading a run's events as they come: each one once, in order, from any starting point."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from llamaforge.runs.control import is_over
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.events import Event, Finished, Started, parse_event

POLL_SECONDS: Final = 0.1
_READ_BYTES: Final = 1 << 20


class EventTail:
    """A reader of one event file that never blocks and never returns an event twice."""

    def __init__(self, run: RunDirectory, *, after_seq: int = 0) -> None:
        self._path = run.events_file
        self._position = 0
        self._rest = b""
        self._seq = after_seq

    def read_new(self) -> list[Event]:
        """Return the events that were appended since the last call, at most a megabyte of them."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                chunk = file.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        self._position += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            event = parse_event(line)
            if event is not None and event.seq > self._seq:
                self._seq = event.seq
                events.append(event)
        return events


def follow(
    run: RunDirectory,
    *,
    after_seq: int = 0,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Event | None]:
    """Yield the run's events until its worker is done or gone.

    Yields None whenever there is nothing new, so that the caller can look at other things.
    """
    tail = EventTail(run, after_seq=after_seq)
    done = False
    while True:
        # The state is read before the events: what a worker wrote before it ended is not lost.
        over = is_over(run)
        events = tail.read_new()
        for event in events:
            yield event
            done = isinstance(event, Finished) or (done and not isinstance(event, Started))
        if (done or over) and not events:
            return
        if not events:
            yield None
            wait(POLL_SECONDS)
