"""How a step is cut up so that it fits into memory; what it computes stays the same.

Rows of one step may pass through the model together or one after the other, with activations kept
or worked out again: the gradient is the same, only time and memory differ.
"""

import math
from dataclasses import asdict, dataclass, replace

from llamaforge.recipe.training_settings import TrainingSettings


@dataclass(frozen=True)
class Cut:
    """How a step is cut up: rows that pass together, passes in a step, and what they keep."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool

    @classmethod
    def of(cls, settings: TrainingSettings) -> "Cut":
        """Return the cut that the settings ask for."""
        return cls(
            settings.per_device_train_batch_size,
            settings.gradient_accumulation_steps,
            settings.gradient_checkpointing,
        )

    def applied(self, settings: TrainingSettings) -> TrainingSettings:
        """Return `settings` with this cut; no more rows are validated at once than are trained."""
        smaller = self != Cut.of(settings)
        size = min(settings.per_device_eval_batch_size, self.per_device_train_batch_size)
        return settings.model_copy(
            update=asdict(self) | ({"per_device_eval_batch_size": size} if smaller else {})
        )


def divisors(rows: int) -> list[int]:
    """Return the batches that cut `rows` evenly, the largest first."""
    small = [size for size in range(1, math.isqrt(rows) + 1) if rows % size == 0]
    return sorted({*small, *(rows // size for size in small)}, reverse=True)


def smaller(cut: Cut) -> Cut | None:
    """Return a cut with the batch at most half as large, for a step of as many rows.

    At batches of one row activations are worked out again. None where nothing is left to try.
    """
    batch = cut.per_device_train_batch_size
    rows = batch * cut.gradient_accumulation_steps
    if batch == 1:
        return None if cut.gradient_checkpointing else replace(cut, gradient_checkpointing=True)
    half = next(size for size in divisors(rows) if size <= batch // 2)
    return Cut(half, rows // half, cut.gradient_checkpointing)


def cuts_of(settings: TrainingSettings) -> list[Cut]:
    """Return every cut with as many rows a step as the settings ask for, theirs first.

    Batches are no larger than asked. Those that keep activations come first; where the settings
    ask to compute them again, no others are offered.
    """
    asked = Cut.of(settings)
    rows = asked.per_device_train_batch_size * asked.gradient_accumulation_steps
    sizes = [size for size in divisors(rows) if size <= asked.per_device_train_batch_size]
    ways = (True,) if asked.gradient_checkpointing else (False, True)
    return [Cut(size, rows // size, again) for again in ways for size in sizes]
