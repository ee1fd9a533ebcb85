"""How many tokens rows have, how long a row may be, and what that costs."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamaforge.data.records import HEAD_ROLES, Record, is_raw_text
from llamaforge.data.row_refs import Example, RowRef

STEP: Final = 64
"""Suggested lengths are multiples of this: kernels and memory are laid out in such blocks."""
_HELD: Final = 0.99
_CHEAP_RATIO: Final = 1.25
_CHEAP_TOKENS: Final = 512
"""A longer limit that holds all rows is suggested where it costs at most a quarter more, or is no
more than this."""
_EDGES: Final = (
    32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768,
    65536, 131072,
)  # fmt: skip
_MOST_BINS: Final = 12
_EXAMPLES: Final = 5
TURN_TOKENS: Final = 4
"""What a chat template puts around a message, about, where it is not rendered."""

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowLength:
    """One row in tokens."""

    tokens: int
    """All of it; of a preference pair, the prompt with the longer answer."""
    last_exchange: int
    """The system messages, and the last user message with what follows it: older turns are left
    out of a long row, these cannot be."""


Measure = Callable[[Record], RowLength]


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of `low` to `high` tokens, both included."""

    low: int
    high: int
    rows: int

    def to_json(self) -> dict[str, int]:
        """Return the fields as JSON values."""
        return {"low": self.low, "high": self.high, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class LengthReport:
    """How many tokens the rows have."""

    rows: int
    total: int
    """Tokens of all rows."""
    p50: int
    p95: int
    p99: int
    max: int
    histogram: tuple[Bin, ...]
    """From the shortest row to the longest, without gaps; at most twelve bins."""
    suggested_max_length: int
    max_length: int
    """The limit that the next two are about: the one that was given, else the suggested one."""
    shortened: int
    """Rows over the limit whose last exchange is not: they lose older turns only."""
    truncated_answers: int
    """Rows whose last exchange is over the limit: their answer does not fit."""
    truncated_examples: tuple[Example, ...]
    """The longest of these, at most five; the text says how many tokens they have."""
    lengths: tuple[int, ...]
    """The tokens of each row's last exchange, in ascending order."""

    def truncated_at(self, max_length: int) -> int:
        """Return how many rows' answers would not fit into `max_length` tokens."""
        return len(self.lengths) - bisect_right(self.lengths, max_length)

    def to_json(self) -> dict[str, Any]:
        """Return everything but `lengths`, which has as many numbers as there are rows."""
        return {
            "rows": self.rows,
            "total": self.total,
            "tokens": {"p50": self.p50, "p95": self.p95, "p99": self.p99, "max": self.max},
            "histogram": [item.to_json() for item in self.histogram],
            "suggested_max_length": self.suggested_max_length,
            "max_length": self.max_length,
            "shortened": self.shortened,
            "truncated_answers": self.truncated_answers,
            "truncated_examples": [example.to_json() for example in self.truncated_examples],
        }


def by_text(count_tokens: Callable[[str], int], turn_tokens: int = TURN_TOKENS) -> Measure:
    """Return a measure that counts each message's text, and `turn_tokens` around each message.

    That is near what a template makes of the row, and exact enough for percentiles.
    """

    def measure(record: Record) -> RowLength:
        prompt = [(turn.role, count_tokens(turn.words) + turn_tokens) for turn in record.messages]
        answer = max(
            sum(count_tokens(turn.words) + turn_tokens for turn in turns)
            for turns in (record.chosen, record.rejected)
        )
        asked = max((n for n, (role, _) in enumerate(prompt) if role == "user"), default=0)
        last = sum(
            size for n, (role, size) in enumerate(prompt) if n >= asked or role in HEAD_ROLES
        )
        if is_raw_text(record.messages):  # it is cut into rows that fit
            last = 0
        return RowLength(sum(size for _, size in prompt) + answer, last + answer)

    return measure


class LengthCounter:
    """Takes rows one by one; keeps sixteen bytes of each."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._tokens, self._last = array("L"), array("L")
        self._longest: list[tuple[int, RowRef]] = []

    def add(self, record: Record) -> None:
        """Take one more row."""
        length = self._measure(record)
        self._tokens.append(length.tokens)
        self._last.append(length.last_exchange)
        if len(self._longest) < _EXAMPLES or length.last_exchange > self._longest[-1][0]:
            self._longest.append((length.last_exchange, RowRef(record.source, record.row)))
            self._longest.sort(key=lambda item: (-item[0], item[1]))
            del self._longest[_EXAMPLES:]

    def report(self, *, max_length: int | None = None, context: int | None = None) -> LengthReport:
        """Return what was counted.

        Args:
            max_length: tokens that a row may have; without it, the suggested limit is used.
            context: tokens that the model can take at once; nothing beyond it is suggested.
        """
        tokens = np.sort(np.array(self._tokens, np.int64))
        last = np.sort(np.array(self._last, np.int64))
        suggested = suggest_max_length(tokens, context)
        limit = max_length or suggested
        p50, p95, p99 = (percentile(tokens, part) for part in (0.5, 0.95, 0.99))
        over = int((tokens > limit).sum())
        truncated = int((last > limit).sum())
        return LengthReport(
            rows=len(tokens),
            total=int(tokens.sum()),
            p50=p50,
            p95=p95,
            p99=p99,
            max=int(tokens[-1]) if len(tokens) else 0,
            histogram=histogram(tokens),
            suggested_max_length=suggested,
            max_length=limit,
            shortened=over - truncated,
            truncated_answers=truncated,
            truncated_examples=tuple(
                Example(ref, f"{size:,} tokens") for size, ref in self._longest if size > limit
            ),
            lengths=tuple(last.tolist()),
        )


def measure_lengths(
    records: Iterable[Record],
    measure: Measure,
    *,
    max_length: int | None = None,
    context: int | None = None,
) -> LengthReport:
    """Return how many tokens `records` have, in one pass."""
    counter = LengthCounter(measure)
    for record in records:
        counter.add(record)
    return counter.report(max_length=max_length, context=context)


def percentile(ascending: Lengths, part: float) -> int:
    """Return the smallest length that holds `part` of the rows (nearest rank); 0 of none."""
    if not len(ascending):
        return 0
    return int(ascending[max(int(np.ceil(part * len(ascending))) - 1, 0)])


def suggest_max_length(ascending: Lengths, context: int | None = None) -> int:
    """Return the smallest multiple of 64 that holds 99 % of the rows, or all where that is cheap.

    A `context` that is no multiple of 64 is suggested as it is. Without rows it is 64.
    """
    held = _rounded_up(percentile(ascending, _HELD))
    everything = _rounded_up(int(ascending[-1]) if len(ascending) else 0)
    if everything <= max(_CHEAP_RATIO * held, _CHEAP_TOKENS):
        held = everything
    return min(held, context) if context else held


def histogram(ascending: Lengths) -> tuple[Bin, ...]:
    """Return the rows by length, in bins whose borders people know."""
    if not len(ascending):
        return ()
    low, high = int(ascending[0]), int(ascending[-1])
    edges = [edge for edge in _EDGES if low <= edge < high]
    while len(edges) >= _MOST_BINS:  # the shortest bins say least
        del edges[0]
    bounds = [*edges, high]
    starts = [low, *(edge + 1 for edge in edges)]
    ends = np.searchsorted(ascending, bounds, side="right").tolist()
    rows = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return tuple(
        Bin(start, stop, count) for start, stop, count in zip(starts, bounds, rows, strict=True)
    )


def _rounded_up(tokens: int) -> int:
    return max(-(-tokens // STEP) * STEP, STEP)
