"""Answers that are labelled good or bad, in batches, each beside an answer to another question."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from llamaforge.data.chat import EncodedRow
from llamaforge.training.batches import LengthBatches, Loader, collate


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A question with an answer, which alone is trained, and whether that is a good one."""

    row: EncodedRow
    good: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """A labelled row beside its question with an answer to another one."""

    number: int
    """Which row it is; below zero for one from which nothing is learned."""
    item: LabelledRow
    other: EncodedRow


class LabelledBatch(TypedDict):
    """Right-padded rows, and the same questions with answers to others."""

    input_ids: Tensor
    """Token ids, int64, shape [b, s]."""
    labels: Tensor
    """Ids of the answers, `IGNORED_LABEL` elsewhere, shape [b, s]."""
    lengths: Tensor
    """Tokens of each row, padding not counted, shape [b]."""
    good: Tensor
    """Whether each answer is a good one, shape [b]."""
    numbers: Tensor
    """Which row each is, shape [b]; below zero for one from which nothing is learned."""
    other_ids: Tensor
    """Token ids of each question with another one's answer, shape [b, t]."""
    other_labels: Tensor
    """Ids of those answers, `IGNORED_LABEL` elsewhere, shape [b, t]."""


def collate_labelled(items: Sequence[Matched]) -> LabelledBatch:
    """Return `items` as one batch."""
    batch = collate([item.item.row for item in items])
    others = collate([item.other for item in items])
    return LabelledBatch(
        **batch,
        good=torch.tensor([item.item.good for item in items]),
        numbers=torch.tensor([item.number for item in items]),
        other_ids=others["input_ids"],
        other_labels=others["labels"],
    )


def neighbours(step: Sequence[int], spare: int) -> Iterable[tuple[int, int]]:
    """Yield each row of a step with the one whose answer its question is put in front of.

    That is the row before it, and the last one for the first: so the answers are the step's own, of
    which the mean is to be taken. A row that is alone takes row `spare`.
    Source: section 4.1 of Ethayarajh et al., "KTO" (2402.01306), and TRL's `KTOTrainer`.
    """
    for place, number in enumerate(step):
        yield number, step[place - 1] if len(step) > 1 else spare


def mismatched(question: EncodedRow, answer: EncodedRow, longest: int) -> EncodedRow:
    """Return the question of one row with the answer of another, cut off after `longest` tokens."""
    ids = question.ids[: question.trained.index(True)]
    start = answer.trained.index(True)
    trained = [False] * len(ids) + answer.trained[start:]
    ids = [*ids, *answer.ids[start:]]
    return EncodedRow(ids[:longest], trained[:longest], terminated=answer.terminated)


def matched(rows: Sequence[LabelledRow], order: Sequence[int]) -> list[Matched]:
    """Return all `rows` as one step in `order`."""
    table = _Table(rows)
    return [table.of(*pair) for pair in neighbours(order, order[0])]


class _Table:
    """Every row with every other one's answer, by the number row × rows + other; made when asked
    for."""

    def __init__(self, rows: Sequence[LabelledRow]) -> None:
        self._rows = rows
        # Memory is measured out for rows as long as the longest.
        self._longest = max((len(item.row.ids) for item in rows), default=0)

    def __len__(self) -> int:
        return len(self._rows) ** 2

    def __getitem__(self, code: int) -> Matched:
        return self.of(*divmod(code, len(self._rows)))

    def of(self, number: int, other: int) -> Matched:
        item = self._rows[number]
        found = mismatched(item.row, self._rows[other].row, self._longest)
        return Matched(number, item, found)


class _Batches(LengthBatches):
    """Numbers in the table of rows and others, in batches of rows of similar length."""

    def steps(self) -> list[list[int]]:
        """Return what each step passes through; whose answer is borrowed depends on it alone."""
        steps = super().steps()
        return [
            [number * self.rows + other for number, other in neighbours(step, steps[0][-1])]
            for step in steps
        ]


class LabelledLoader(Loader):
    """Batches of labelled rows."""

    def __init__(
        self,
        rows: Sequence[LabelledRow],
        batch_size: int,
        seed: int,
        *,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take rows; the rest is as in `LengthBatches`."""
        batches = _Batches(
            [len(item.row.ids) for item in rows],
            batch_size,
            seed,
            accumulation=accumulation,
            rank=rank,
            world=world,
        )
        table = cast("Sequence[Any]", _Table(rows))
        super().__init__(table, batches, collate_labelled, _not_learned)


def _not_learned(item: Matched) -> Matched:
    return Matched(-1, item.item, item.other)
