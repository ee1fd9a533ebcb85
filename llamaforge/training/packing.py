"""Short rows one behind another in few sequences, none of which sees another.

What a step learns stays the same: its rows are those that it would have without packing, and so is
the loss of every token. Only how they pass through the model differs: in as few and as full forward
passes as memory allows. Positions begin anew with each row, from which transformers makes the mask
that keeps rows apart. Not every model takes that mask, and layers that pass a state on from token
to token cannot; so it is tried, and where rows see each other they are batched by length as usual.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Final, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Sampler

from llamaforge.data.chat import EncodedRow
from llamaforge.training.batches import LengthBatches, Loader, untrained
from llamaforge.training.lora import Trainable, hidden_states
from llamaforge.training.loss import IGNORED_LABEL
from llamaforge.training.objective import computing

_PAD_MULTIPLE: Final = 8
_ATTENTION_TOKENS: Final = 4096
"""Width of a sequence at which attention to masked tokens costs as much as all other products: six
times the hidden size, for models of some hundred million to some billion weights."""
_TRIED_TOKENS: Final = 8
_LEAK: Final = 0.1
"""Part of a row's hidden states that may change with the row before it. Rows that are kept apart
change by nothing at all, others by about all; experts may round a little otherwise."""
_PARTS: Final = (1 / 16, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1)
"""Numbers of sequences that are considered, as parts of the number of rows."""


class PackedBatch(TypedDict):
    """Rows one behind another, in sequences of one width."""

    input_ids: Tensor
    """Token ids, int64, shape [b, s]."""
    labels: Tensor
    """Token ids that are trained, `IGNORED_LABEL` elsewhere, shape [b, s]."""
    position_ids: Tensor
    """Positions in the own row, shape [b, s]; padding is a row of its own."""
    lengths: Tensor
    """Tokens of each row, shape [rows]."""


def keeps_apart(model: Trainable, dtype: torch.dtype) -> bool:
    """Return whether a row's hidden states are the same whatever row stands before it.

    Args:
        model: the model that is trained.
        dtype: what products are computed in.
    """
    ids = torch.arange(1, 3 * _TRIED_TOKENS + 1, device=model.device)
    row, one, other = ids.chunk(3)
    positions = torch.arange(_TRIED_TOKENS, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad(), computing(model, dtype):
        found = [
            hidden_states(model, torch.cat([before, row])[None], positions)[0, _TRIED_TOKENS:]
            for before in (one, other)
        ]
    model.train(was_training)
    change = (found[0] - found[1]).float().norm() / found[0].float().norm()
    return bool(change < _LEAK)


def layout(lengths: Sequence[int]) -> list[list[int]]:
    """Return which rows go into which sequence, in the arrangement that costs least.

    Longest first, each row goes to the shortest sequence so far. A sequence costs its padded
    tokens, and more for each the wider it is, since every token attends over all of its sequence.
    One row a sequence is among the arrangements, so packing never costs more than padding.
    """
    best: list[list[int]] = []
    least = math.inf
    for count in sorted({max(1, round(part * len(lengths))) for part in _PARTS}):
        sequences = _shared_out(range(len(lengths)), lengths, count)
        width = _width(sequences, lengths)
        cost = count * width * (1 + width / _ATTENTION_TOKENS)
        if lengths and cost < least:
            best, least = sequences, cost
    return best


def collate_packed(rows: Sequence[EncodedRow]) -> PackedBatch:
    """Return `rows` one behind another, padded on the right to one width; there may be none."""
    lengths = torch.tensor([len(row.ids) for row in rows], dtype=torch.int64)
    sequences = layout(lengths.tolist())
    width = _width(sequences, lengths.tolist())
    input_ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    labels = torch.full((len(sequences), width), IGNORED_LABEL, dtype=torch.int64)
    # Padding is a row of its own: it begins at 0 wherever the rows end.
    position_ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    for number, one in enumerate(sequences):
        start = 0
        for place in one:
            row = rows[place]
            stop = start + len(row.ids)
            ids = torch.tensor(row.ids, dtype=torch.int64)
            input_ids[number, start:stop] = ids
            labels[number, start:stop] = torch.where(torch.tensor(row.trained), ids, IGNORED_LABEL)
            # The token before is another row's, which must not predict this one.
            labels[number, start] = IGNORED_LABEL
            position_ids[number, start:stop] = torch.arange(stop - start)
            start = stop
        position_ids[number, start:] = torch.arange(width - start)
    return PackedBatch(
        input_ids=input_ids, labels=labels, position_ids=position_ids, lengths=lengths
    )


class PackedBatches(Sampler[list[int]]):
    """The rows of each optimizer step in as few batches as memory has room for.

    A step still counts as many batches as without packing, of which the last ones are empty: so
    steps, epochs and what a resumed run passes over are the same. Several processes get as many
    batches each, of about as many tokens.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        accumulation: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take the lengths of all rows and the cut of a step as it is without packing.

        Batches are those of process `rank` of `world`.
        """
        self._lengths = lengths
        self._steps = LengthBatches(lengths, batch_size * accumulation * world, seed)
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._rank = rank
        self._world = world
        # Memory was measured out for as many of the longest rows.
        self._room = batch_size * _padded(max(lengths))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._steps.set_epoch(epoch)

    def __len__(self) -> int:
        rows = self._batch_size * self._accumulation * self._world
        steps, left = divmod(len(self._lengths), rows)
        return steps * self._accumulation + self._usual(left)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            usual = self._usual(len(step))
            batches = self._cut(step, usual)[self._rank :: self._world]
            yield from [*batches, *([] for _ in range(usual - len(batches)))]

    def _usual(self, rows: int) -> int:
        """Return how many batches each process has without packing for a step of `rows`."""
        return math.ceil(math.ceil(rows / self._batch_size) / self._world)

    def _cut(self, step: list[int], usual: int) -> list[list[int]]:
        """Return a step's rows in at most `usual` batches a process, each of which has room."""
        for count in range(1, usual):
            batches = _shared_out(step, self._lengths, count * self._world)
            if all(self._tokens(batch) <= self._room for batch in batches):
                return batches
        size = self._batch_size
        return [step[place : place + size] for place in range(0, len(step), size)]

    def _tokens(self, batch: list[int]) -> int:
        """Return the tokens of a batch with its padding."""
        lengths = [self._lengths[row] for row in batch]
        sequences = layout(lengths)
        return len(sequences) * _width(sequences, lengths)


class PackedLoader(Loader):
    """Batches of packed rows."""

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        batch_size: int,
        seed: int,
        *,
        accumulation: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take rows; the rest is as in `PackedBatches`."""
        lengths = [len(row.ids) for row in rows]
        self.passes = accumulation
        batches = PackedBatches(
            lengths, batch_size, seed, accumulation=accumulation, rank=rank, world=world
        )
        super().__init__(rows, batches, collate_packed, untrained)


def _shared_out(items: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return `items` in `count` lists of about equal size: the largest first, to the smallest."""
    lists: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for item in sorted(items, key=lambda item: (-sizes[item], item)):
        size, number = heapq.heappop(heap)
        lists[number].append(item)
        heapq.heappush(heap, (size + sizes[item], number))
    return lists


def _width(sequences: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Return the tokens of the longest sequence, padded; 0 without any."""
    return _padded(max((sum(lengths[row] for row in one) for one in sequences), default=0))


def _padded(tokens: int) -> int:
    return math.ceil(tokens / _PAD_MULTIPLE) * _PAD_MULTIPLE
