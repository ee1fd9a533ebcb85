"""Which rows pass through the model together, and how many steps that makes."""

import math
import random
from collections.abc import Sequence
from typing import Final

from llamaforge.recipe.training_settings import REFERENCE_METHODS, TrainingSettings

POOL_ROWS: Final = 256
"""Rows, at least, that are sorted by length together: less padding, and still shuffled."""
PAD_MULTIPLE: Final = 8
"""Few different lengths: the matrix library keeps a compiled kernel for each shape it meets."""
_PAD_MOST: Final = 128
_LENGTHS_BITS: Final = 3
EVALUATED_ROWS: Final = 256
"""Validation rows at most whose loss is taken; the same ones every time."""


def padded(tokens: int) -> int:
    """Return a row's length as a batch has it: eight lengths between 64 and 128, 128 and 256, …

    Beyond 1,024 it is a multiple of 128.

    Every further length costs kernels, and leaves a heap whose gaps fit none of the others.
    """
    step = 1 << max(0, (tokens - 1).bit_length() - _LENGTHS_BITS - 1)
    step = min(max(step, PAD_MULTIPLE), _PAD_MOST)
    return math.ceil(tokens / step) * step


def step_order(lengths: Sequence[int], step_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of each optimizer step of an epoch.

    Rows of a step have similar lengths. Where rows are left over for less than a step, that step is
    the last. Nothing but the arguments matters.

    Args:
        lengths: tokens of each row.
        step_rows: rows in a step.
        seed: of the run.
        epoch: from 0 on.
    """
    # Its own generator: a resumed run gets the same order whatever torch's state is.
    shuffle = random.Random(f"{seed}:{epoch}")  # noqa: S311 - not for secrets
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    pool = step_rows * math.ceil(POOL_ROWS / step_rows)
    steps: list[list[int]] = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda row: lengths[row])
        steps += [near[place : place + step_rows] for place in range(0, len(near), step_rows)]
    last = [steps.pop()] if len(order) % step_rows else []
    shuffle.shuffle(steps)
    return steps + last


def packed_batches(
    rows: Sequence[tuple[int, int]], batch_size: int, accumulation: int, seed: int
) -> tuple[int, int, int]:
    """Return an epoch's passes, its tokens with all padding, and how many shapes its batches have.

    Args:
        rows: tokens and trained tokens of each row.
        batch_size: rows in a pass.
        accumulation: passes in a step.
        seed: of the order.
    """
    lengths = [tokens for tokens, _ in rows]
    shapes = []
    for step in step_order(lengths, batch_size * accumulation, seed, 0):
        for place in range(0, len(step), batch_size):
            batch = step[place : place + batch_size]
            shapes.append((len(batch), padded(max(lengths[row] for row in batch))))
    return len(shapes), sum(count * length for count, length in shapes), len(set(shapes))


def steps_an_epoch(settings: TrainingSettings, rows: int, world: int = 1) -> int:
    """Return how many optimizer steps `world` processes together need for all `rows` once."""
    batches = math.ceil(rows / (settings.per_device_train_batch_size * world))
    return max(1, math.ceil(batches / settings.gradient_accumulation_steps))


def planned_steps(settings: TrainingSettings, rows: int, world: int = 1) -> int:
    """Return how many optimizer steps a training of `world` processes on `rows` rows has."""
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, math.ceil(steps_an_epoch(settings, rows, world) * settings.num_train_epochs))


def asks_beforehand(settings: TrainingSettings, items: int, world: int = 1) -> bool:
    """Return whether a reference is asked about all of so many `items` before training.

    That pays where training of `world` processes comes to them more than once.
    """
    if settings.precompute_ref_log_probs is not None:
        return settings.precompute_ref_log_probs
    step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * world
    planned = (
        math.ceil(items * settings.num_train_epochs)
        if settings.max_steps is None
        else settings.max_steps * step
    )
    return planned > items


def passes_without_gradient(
    settings: TrainingSettings, items: int, world: int = 1
) -> tuple[int, int]:
    """Return the forward passes that a method makes beside training: in each epoch, and once.

    A reference is asked about each answer; KTO also asks it, and the model as it is, about answers
    to other questions.
    """
    if settings.method not in REFERENCE_METHODS:
        return 0, 0
    always = 2 if settings.method == "kto" else 0
    return (always, 1) if asks_beforehand(settings, items, world) else (always + 1, 0)
