"""Rows in batches of similar length, in an order that depends on the seed and the epoch alone."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from llamaforge.data.chat import EncodedRow
from llamaforge.training.loss import IGNORED_LABEL

_POOL_BATCHES: Final = 32
"""Batches' worth of rows that are sorted by length together: less padding, and still shuffled."""

_PAD_MULTIPLE: Final = 8
"""Few different lengths: the matrix library keeps a compiled kernel for each shape it meets."""


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
    longest = math.ceil(max(len(row.ids) for row in rows) / _PAD_MULTIPLE) * _PAD_MULTIPLE
    input_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED_LABEL, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids = torch.tensor(row.ids, dtype=torch.int64)
        input_ids[number, : len(ids)] = ids
        labels[number, : len(ids)] = torch.where(torch.tensor(row.trained), ids, IGNORED_LABEL)
    lengths = torch.tensor([len(row.ids) for row in rows], dtype=torch.int64)
    return Batch(input_ids=input_ids, labels=labels, lengths=lengths)


class Items(Dataset[Any]):
    """A sequence as torch's data loader takes it."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


class LengthBatches(Sampler[list[int]]):
    """Batches of row numbers, shuffled anew each epoch."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Its own generator: a resumed run gets the same order whatever torch's state is.
        shuffle = random.Random(f"{self._seed}:{self._epoch}")  # noqa: S311 - not for secrets
        order = list(range(len(self._lengths)))
        shuffle.shuffle(order)
        pool = _POOL_BATCHES * self._batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda row: self._lengths[row])
            batches += [
                near[place : place + self._batch_size]
                for place in range(0, len(near), self._batch_size)
            ]
        shuffle.shuffle(batches)
        return iter(batches)


class Loader(DataLoader[Any]):
    """A data loader over items of similar length that passes the epoch on to its batches."""

    def __init__(
        self,
        items: Sequence[Any],
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        collator: Callable[[Sequence[Any]], Any],
    ) -> None:
        """Take `items`, the tokens of each, and what makes a batch of some."""
        self._batches = LengthBatches(lengths, batch_size, seed)
        collate_fn: Any = collator
        super().__init__(Items(items), batch_sampler=self._batches, collate_fn=collate_fn)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._batches.set_epoch(epoch)


class RowLoader(Loader):
    """Batches of encoded rows."""

    def __init__(self, rows: Sequence[EncodedRow], batch_size: int, seed: int) -> None:
        super().__init__(rows, [len(row.ids) for row in rows], batch_size, seed, collate)
