"""Reading a run's events as they come: each one once, in order, from any starting point."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from llamaforge.runs.control import is_over
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.runs.events import Event, Finished, Started, parse_event

POLL_SECONDS: Final = 0.1
_LAST_WORD_POLLS: Final = 20
"""How often a worker that is gone is looked for once more: another one speaks for it, or begins."""
_READ_BYTES: Final = 1 << 20
_FAR_BYTES: Final = 1 << 22
_LONG_BYTES: Final = 1 << 24
_GLANCES: Final = 1024
_GLANCE_BYTES: Final = 1536
_GLANCE_ENDS_BYTES: Final = 1 << 17
_STEP: Final = b'"type": "step"'
_STEP_BYTES: Final = 320
"""About how long the line of a step is."""
_TYPE_BYTES: Final = 100
"""Of a line, within which its type stands."""


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
        return self._parsed(self._lines(chunk))

    def catch_up(self, *, most_steps: int = 8192) -> Iterator[list[Event]]:
        """Yield what was appended since the last call, up to the end that the file has now.

        Of a long run not every step is given: about `most_steps` of them, evenly taken, with the
        first and the last between two other events. All other events are given. So a file of a
        million events is read in the time that looking for line ends takes, in bounded memory.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            left = file.seek(0, os.SEEK_END) - self._position
            every = max(left // (_STEP_BYTES * most_steps), 1)
            file.seek(self._position)
            while left > 0 and (chunk := file.read(min(left, _FAR_BYTES))):
                left -= len(chunk)
                yield self._parsed(_thinned(self._lines(chunk), every))

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return the whole lines up to the end of `chunk`, which comes next in the file."""
        self._position += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines

    def _parsed(self, lines: Iterable[bytes]) -> list[Event]:
        events = []
        for line in lines:
            event = parse_event(line)
            if event is not None and event.seq > self._seq:
                self._seq = event.seq
                events.append(event)
        return events


def _thinned(lines: list[bytes], every: int) -> list[bytes]:
    """Return `lines` with one step in `every`, and the outermost of each sequence of steps."""
    if every == 1:
        return lines
    # Where the type stands in a line that this program wrote; a text cannot hold it unescaped.
    others = [number for number, line in enumerate(lines) if line.find(_STEP, 0, _TYPE_BYTES) < 0]
    kept: list[bytes] = []
    start = 0
    for number in (*others, len(lines)):
        steps = lines[start:number]
        kept += steps[::every]
        if (len(steps) - 1) % every:
            kept += steps[-1:]
        kept += lines[number : number + 1]
        start = number + 1
    return kept


def glance(path: Path) -> list[Event]:
    """Return some events from all over a long event file, and all of its newest, within moments.

    It is for a first picture of a run of days, until `EventTail.catch_up` has read the whole file.
    A file that is not long gives none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return []
    with file:
        size = file.seek(0, os.SEEK_END)
        if size < _LONG_BYTES:
            return []
        begin, end = _GLANCE_ENDS_BYTES, size - _GLANCE_ENDS_BYTES
        apart = (end - begin) // _GLANCES
        spots = [(begin + apart * number, _GLANCE_BYTES) for number in range(_GLANCES)]
        events: list[Event] = []
        last = 0
        for place, length in ((0, begin), *spots, (end, _GLANCE_ENDS_BYTES)):
            file.seek(place)
            lines = file.read(length).split(b"\n")
            for line in lines[1 if place else 0 : -1]:  # at either end there may be half a line
                event = parse_event(line)
                if event is not None and event.seq > last:
                    last = event.seq
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
    patience = _LAST_WORD_POLLS
    while True:
        # The state is read before the events: what a worker wrote before it ended is not lost.
        over = is_over(run)
        events = tail.read_new()
        for event in events:
            yield event
            done = isinstance(event, Finished) or (done and not isinstance(event, Started))
        if (done or over) and not events:
            if done or not patience or run.read_status().state is not RunState.LOST:
                return
            patience -= 1
        if not events:
            yield None
            wait(POLL_SECONDS)
