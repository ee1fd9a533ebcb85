"""All rows of a run as token ids, with what was left out and how long they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamaforge.data.chat import ChatRenderer, EncodedRow, TrainOn
from llamaforge.data.records import Record, Rejection, RowError
from llamaforge.data.split import Splits


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record and its tokens."""

    record: Record
    row: EncodedRow


@dataclass(frozen=True, slots=True)
class EncodedSplits:
    """The sides of the data as tokens."""

    train: list[EncodedRecord]
    validation: list[EncodedRecord]
    test: list[EncodedRecord]
    rejected: list[Rejection]
    """Rows that the template refuses or that are too long."""
    unterminated: int
    """Rows in which the end of an answer is not trained."""

    @property
    def held_out(self) -> list[EncodedRecord]:
        """Rows that are never trained on, test rows first."""
        return [*self.test, *self.validation]

    def figures(self) -> dict[str, Any]:
        """Return token counts a row, trained tokens and shortened rows."""
        every = [*self.train, *self.held_out]
        lengths = sorted(len(item.row.ids) for item in every)
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "tokens": {
                "p50": _percentile(lengths, 0.50),
                "p95": _percentile(lengths, 0.95),
                "p99": _percentile(lengths, 0.99),
                "max": lengths[-1] if lengths else 0,
            },
            "trained_tokens": sum(sum(item.row.trained) for item in self.train),
            "shortened": sum(item.row.shortened > 0 for item in every),
        }


def encode_splits(
    splits: Splits, renderer: ChatRenderer, max_length: int, *, train_on: TrainOn = "all"
) -> EncodedSplits:
    """Return every row of `splits` as tokens, rows of at most `max_length`."""
    sides: dict[str, list[EncodedRecord]] = {}
    rejected: list[Rejection] = []
    for side, records in splits.items():
        sides[side] = []
        for record in records:
            try:
                rows = renderer.encode_fitting(record.messages, max_length, train_on=train_on)
            except RowError as error:
                rejected.append(Rejection(record.source, record.row, str(error)))
            else:
                sides[side] += [EncodedRecord(record, row) for row in rows]
    unterminated = sum(not item.row.terminated for item in sides["train"])
    return EncodedSplits(sides["train"], sides["validation"], sides["test"], rejected, unterminated)


def _percentile(ordered: Sequence[int], part: float) -> int:
    """Return the nearest-rank percentile of ascending values; 0 for none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0
