"""Which rows pass through the model together, and how many steps that makes."""

import math
import random
from collections.abc import Sequence
from typing import Final

from llamaforge.recipe.spec import TrainingSettings

POOL_BATCHES: Final = 32
"""Batches' worth of rows that are sorted by length together: less padding, and still shuffled."""
PAD_MULTIPLE: Final = 8
"""Few different lengths: the matrix library keeps a compiled kernel for each shape it meets."""
EVALUATED_ROWS: Final = 256
"""Validation rows at most whose loss is taken; the same ones every time."""


def padded(tokens: int) -> int:
    """Return a row's length as a batch has it."""
    return math.ceil(tokens / PAD_MULTIPLE) * PAD_MULTIPLE


def batch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch as row numbers; it depends on nothing but the arguments."""
    # Its own generator: a resumed run gets the same order whatever other random states are.
    shuffle = random.Random(f"{seed}:{epoch}")  # noqa: S311 - not for secrets
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    pool = POOL_BATCHES * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda row: lengths[row])
        batches += [near[place : place + batch_size] for place in range(0, len(near), batch_size)]
    shuffle.shuffle(batches)
    return batches


def packed_batches(
    rows: Sequence[tuple[int, int]], batch_size: int, seed: int
) -> tuple[int, int, int]:
    """Return an epoch's passes, its tokens with all padding, and how many shapes its batches have.

    Args:
        rows: tokens and trained tokens of each row.
        batch_size: rows in a pass.
        seed: of the order.
    """
    lengths = [tokens for tokens, _ in rows]
    shapes = [
        (len(batch), padded(max(lengths[row] for row in batch)))
        for batch in batch_order(lengths, batch_size, seed, 0)
    ]
    return len(shapes), sum(count * length for count, length in shapes), len(set(shapes))


def planned_steps(settings: TrainingSettings, rows: int) -> int:
    """Return how many optimizer steps a training on `rows` rows has."""
    if settings.max_steps is not None:
        return settings.max_steps
    batches = math.ceil(rows / settings.per_device_train_batch_size)
    steps = math.ceil(batches / settings.gradient_accumulation_steps)
    return max(1, math.ceil(steps * settings.num_train_epochs))
