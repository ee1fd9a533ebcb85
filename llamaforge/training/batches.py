"""Rows in batches of similar length, in an order that depends on the seed and the epoch alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.batching import padded, step_order
from llamaforge.training.loss import IGNORED_LABEL


class Batch(TypedDict):
    """Right-padded rows."""

    input_ids: Tensor
    """Token ids, int64, shape [b, s]."""
    labels: Tensor
    """Token ids that are trained, `IGNORED_LABEL` elsewhere, shape [b, s]."""
    lengths: Tensor
    """Tokens of each row, padding not counted, shape [b]."""


def collate(rows: Sequence[EncodedRow]) -> Batch:
    """Return `rows` as one batch, padded on the right to one length."""
    longest = padded(max(len(row.ids) for row in rows))
    input_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED_LABEL, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.int64)
        input_ids[number, : len(ids)] = ids
        labels[number, : len(ids)] = torch.where(torch.tensor(row.trained), ids, IGNORED_LABEL)
    lengths = torch.tensor([len(row.ids) for row in rows], dtype=torch.int64)
    return Batch(input_ids=input_ids, labels=labels, lengths=lengths)


class Items(Dataset[Any]):
    """A sequence as torch's data loader takes it; number -1 - n is a blank of item n.

    Blanks fill the place of a process that has no item of its own left in a step.
    """

    def __init__(self, items: Sequence[Any], blank: Callable[[Any], Any]) -> None:
        self._items = items
        self._blank = blank

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index] if index >= 0 else self._blank(self._items[-1 - index])


class Batches(Protocol):
    """Numbers of the items of each batch, in another order each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]: ...


class LengthBatches(Sampler[list[int]]):
    """Batches of row numbers, shuffled anew each epoch.

    The rows of an optimizer step depend on their number alone, not on how they are cut into
    batches or divided among processes: with half the batch and twice the accumulation training
    goes on over the same rows. Where rows are left over for less than a step, that step is the
    epoch's last.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Batches of process `rank` of `world`, `accumulation` of which make a step on each."""
        self._lengths = lengths
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._rank = rank
        self._world = world
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._epoch = epoch

    def __len__(self) -> int:
        steps, left = divmod(len(self._lengths), self._step_rows)
        rest = math.ceil(math.ceil(left / self._batch_size) / self._world)
        return steps * self._accumulation + rest

    @property
    def rows(self) -> int:
        """How many rows an epoch has."""
        return len(self._lengths)

    def steps(self) -> list[list[int]]:
        """Return the numbers of each optimizer step of the epoch, in its order."""
        return step_order(self._lengths, self._step_rows, self._seed, self._epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps():
            batches = [
                step[place : place + self._batch_size]
                for place in range(0, len(step), self._batch_size)
            ]
            while len(batches) % self._world:
                batches.append([-1 - batches[0][0]])  # the others have one more batch
            yield from batches[self._rank :: self._world]

    @property
    def _step_rows(self) -> int:
        return self._batch_size * self._accumulation * self._world


class Loader(DataLoader[Any]):
    """A data loader over items of similar length that passes the epoch on to its batches."""

    passes: int = 1
    """Batches of an optimizer step."""

    def __init__(
        self,
        items: Sequence[Any],
        batches: Batches,
        collator: Callable[[Sequence[Any]], Any],
        blank: Callable[[Any], Any],
    ) -> None:
        """Take items, the numbers of those of each batch, and what makes a batch of some.

        `blank` makes of an item one from which nothing is learned.
        """
        self._batches = batches
        collate_fn: Any = collator
        super().__init__(Items(items, blank), batch_sampler=batches, collate_fn=collate_fn)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._batches.set_epoch(epoch)


class RowLoader(Loader):
    """Batches of encoded rows."""

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        batch_size: int,
        seed: int,
        *,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take rows; the rest is as in `LengthBatches`."""
        batches = LengthBatches(
            [len(row.ids) for row in rows],
            batch_size,
            seed,
            accumulation=accumulation,
            rank=rank,
            world=world,
        )
        self.passes = accumulation
        super().__init__(rows, batches, collate, untrained)


def untrained(row: EncodedRow) -> EncodedRow:
    """Return a row from which nothing is learned."""
    return replace(row, trained=[False] * len(row.ids))
