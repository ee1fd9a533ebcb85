"""What this process holds, and the gaps in its heap that it gives back before they grow.

glibc keeps what is freed in the midst of its heap. Batches of many lengths come and go, and each
leaves gaps that the next cannot always fill, so that a training would hold more and more. Giving
them back costs their pages to be made again; so it is done only where they have become large.
"""

import gc
from typing import Any

import torch
from transformers import TrainerCallback

from llamaforge import hardware
from llamaforge.recipe.estimate import GAPS_LEAST_BYTES, GAPS_PART


class HeapGaps:
    """Watches, between two passes, how much more is held than after the last time."""

    def __init__(self) -> None:
        self._without: int | None = None
        """What was held when the last gaps had been given back."""

    def after_pass(self) -> None:
        """Give the gaps back if they are large; to be called while no activations are held."""
        held = hardware.own_memory_bytes()
        if self._without is not None:
            most = max(GAPS_PART * self._without, GAPS_LEAST_BYTES)
            if held - self._without <= most:
                return
        hardware.trim_heap()
        self._without = hardware.own_memory_bytes()


class GiveBackGaps(TrainerCallback):  # type: ignore[misc]
    """Gives large gaps back during training."""

    def __init__(self) -> None:
        self._gaps = HeapGaps()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look after each pass of a step but its last."""
        del args, state, control
        self._gaps.after_pass()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look after each step."""
        del args, state, control
        self._gaps.after_pass()


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` forget what was before, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        hardware.reset_peak_memory()


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was taken where `device` computes, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return hardware.peak_memory_bytes()


def release_memory() -> None:
    """Give memory that nobody uses back to the system."""
    gc.collect()
    hardware.trim_heap()
