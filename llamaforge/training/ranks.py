"""Several processes that train one adapter: each its share of a step, the same weights in all.

Gradients are summed once a step, in one piece: a LoRA adapter is small, so that hiding the transfer
behind the backward pass, as DistributedDataParallel does, would gain little, and the packed model
need not be wrapped. What is random in a step depends on its number and the rank alone, so that
nothing of the other ranks has to be in a checkpoint.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import Tensor, distributed

_T = TypeVar("_T")
_LONGEST_WAIT: Final = timedelta(hours=12)
"""How long the others wait for one of them: rank 0 evaluates, saves and pauses alone. The launcher
sees at once where one ends."""
_STEP_SEEDS: Final = 1 << 32


@dataclass(frozen=True)
class Ranks:
    """This process among those that train."""

    rank: int = 0
    world: int = 1
    place: int = 0
    """Which it is of the processes of its machine."""
    beside: int = 1
    """How many those are, itself among them."""

    @classmethod
    def join(cls, backend: str) -> "Ranks":
        """Meet the others, as torchrun's variables say where; `backend` is `gloo` or `nccl`."""
        distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
        return cls(
            distributed.get_rank(),
            distributed.get_world_size(),
            int(os.environ["LOCAL_RANK"]),
            int(os.environ["LOCAL_WORLD_SIZE"]),
        )

    @property
    def is_first(self) -> bool:
        """Whether this process writes, tells and asks for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    def leave(self) -> None:
        """Part from the others."""
        if not self.is_alone:
            distributed.destroy_process_group()

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 `tensors` by their sums over all ranks."""
        if self.is_alone or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            stop = start + tensor.numel()
            tensor.copy_(flat[start:stop].view_as(tensor))
            start = stop

    def total(self, count: Tensor) -> Tensor:
        """Return the sum of `count` over all ranks."""
        if not self.is_alone:
            count = count.clone()
            distributed.all_reduce(count)
        return count

    def share(self, value: _T) -> _T:
        """Return rank 0's `value` on every rank."""
        if self.is_alone:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def in_turn(self, do: Callable[[], _T]) -> _T:
        """Return what `do` returns, which one process of each machine does at a time."""
        found: list[_T] = []
        for turn in range(self.beside):
            if turn == self.place:
                found.append(do())
            if not self.is_alone:
                distributed.barrier()
        return found[0]

    def seed_step(self, seed: int, step: int) -> None:
        """Let what is random in `step` depend on it, on `seed` and on the rank alone."""
        if not self.is_alone:
            torch.manual_seed(
                ((seed + 1) * 1_000_003 + step * self.world + self.rank) % _STEP_SEEDS
            )


ALONE: Final = Ranks()
