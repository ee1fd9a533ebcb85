"""All rows of a run as token ids, with what was left out and how long they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llamaforge.data.chat import ChatRenderer, EncodedRow, TrainOn
from llamaforge.data.encoded_pairs import encode_labelled, encode_pair
from llamaforge.data.records import Message, Record, Rejection, RowError
from llamaforge.data.row_refs import is_labelled
from llamaforge.data.split import Splits

Preference = Literal["refuse", "chosen", "pairs", "labelled"]
"""What becomes of preference pairs: refused, their better answers are rows, or both answers are
held against each other; or every answer is a row with its label, good or bad, also those that are
labelled by themselves."""


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record and its tokens."""

    record: Record
    row: EncodedRow
    """Of a pair, the conversation with the better answer, in which that answer alone is trained; of
    a labelled answer, the conversation with it."""
    rejected: EncodedRow | None = None
    """Of a pair, the same prompt with the worse answer."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation that `row` holds."""
        return self.record.messages + (self.record.chosen or self.record.rejected)

    @property
    def label(self) -> bool | None:
        """Whether the answer is labelled good; None where it is not labelled by itself."""
        return bool(self.record.chosen) if is_labelled(self.record) else None

    @property
    def tokens(self) -> int:
        """Tokens that the model reads for it: of a pair, those of the longer side."""
        return max(len(row.ids) for row in (self.row, self.rejected) if row is not None)


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
        lengths = sorted(item.tokens for item in every)
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
    splits: Splits,
    renderer: ChatRenderer,
    max_length: int,
    *,
    train_on: TrainOn = "all",
    preference: Preference = "refuse",
) -> EncodedSplits:
    """Return every row of `splits` as tokens, rows of at most `max_length`.

    Args:
        splits: conversations or pairs.
        renderer: makes tokens of conversations.
        max_length: tokens that a row may have.
        train_on: which answers of a conversation are trained.
        preference: what becomes of pairs; with `pairs`, every record has to be one, and with
            `labelled` a labelled answer or a pair, which is two.
    """
    sides: dict[str, list[EncodedRecord]] = {}
    rejected: list[Rejection] = []
    for side, records in splits.items():
        sides[side] = []
        for record in records:
            try:
                if preference == "pairs":
                    pair = encode_pair(record, renderer, max_length)
                    items = [EncodedRecord(record, *pair)]
                elif preference == "labelled":
                    rows = encode_labelled(record, renderer, max_length)
                    items = [*map(EncodedRecord, one_sided(record), rows)]
                else:
                    _require_learnable(record, preference)
                    messages = record.messages + record.chosen
                    rows = renderer.encode_fitting(messages, max_length, train_on=train_on)
                    items = [EncodedRecord(record, row) for row in rows]
            except RowError as error:
                rejected.append(Rejection(record.source, record.row, str(error)))
            else:
                sides[side] += items
    unterminated = sum(not item.row.terminated for item in sides["train"])
    return EncodedSplits(sides["train"], sides["validation"], sides["test"], rejected, unterminated)


def _require_learnable(record: Record, preference: Preference) -> None:
    """Return if the record's (better) answer is to be learned as it is.

    Raises:
        RowError: it is not.
    """
    if is_labelled(record):
        if preference == "refuse":
            raise RowError("its answer is labelled good or bad by itself")
        if record.rejected:
            raise RowError("its answer is labelled bad")
    elif record.rejected and preference == "refuse":
        raise RowError("it is a preference pair")


def one_sided(record: Record) -> list[Record]:
    """Return a record for each labelled answer of `record`, the better one first."""
    sides = []
    if record.chosen:
        sides.append(replace(record, rejected=()))
    if record.rejected:
        sides.append(replace(record, chosen=()))
    return sides


def _percentile(ordered: Sequence[int], part: float) -> int:
    """Return the nearest-rank percentile of ascending values; 0 for none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0
