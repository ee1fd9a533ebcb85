"""Rows in batches of similar length, in an order that depends on the seed and the epoch alone."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.batching import batch_order, padded
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


class Rows(Dataset[EncodedRow]):
    """Encoded rows as torch's data loader takes them."""

    def __init__(self, rows: Sequence[EncodedRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EncodedRow:
        return self._rows[index]


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
        return iter(batch_order(self._lengths, self._batch_size, self._seed, self._epoch))


class RowLoader(DataLoader[EncodedRow]):
    """A data loader that passes the epoch on to its batches."""

    def __init__(self, rows: Sequence[EncodedRow], batch_size: int, seed: int) -> None:
        lengths = [len(row.ids) for row in rows]
        self._batches = LengthBatches(lengths, batch_size, seed)
        collator: Any = collate
        super().__init__(Rows(rows), batch_sampler=self._batches, collate_fn=collator)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._batches.set_epoch(epoch)
