"""The cut of a step that fits into the memory there is, chosen by what is estimated."""

from dataclasses import dataclass
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.recipe.batching import PAD_MULTIPLE
from llamaforge.recipe.cut import Cut, cuts_of, divisors
from llamaforge.recipe.estimate import Estimator, Memory, RowSizes, Seconds
from llamaforge.words import megabytes

MEASURED_PART: Final = 0.9
"""Of the memory that is available, where the estimate rests on a trial: it errs by some percent."""
GUESSED_PART: Final = 0.75
"""The same where it rests on formulas alone."""


@dataclass(frozen=True)
class Fit:
    """A cut, and what is expected of it."""

    cut: Cut
    memory: Memory
    seconds: Seconds | None


def usable_bytes(estimator: Estimator, available_bytes: int) -> int:
    """Return how much of the memory that is available a training may be expected to take."""
    part = GUESSED_PART if estimator.trial is None else MEASURED_PART
    return int(part * available_bytes)


def fitted(estimator: Estimator, rows: RowSizes, available_bytes: int) -> Fit:
    """Return the cut that trains on `rows` in the memory there is.

    What was asked for is kept if it fits. Otherwise it is the fastest that fits where time was
    measured, and where not, activations are computed again first, then batches shrink. A step has
    as many rows in any case.

    Args:
        estimator: what a cut takes.
        rows: the rows to train on.
        available_bytes: memory that the process may have in all, what it has already included.

    Raises:
        RefusedError: not even one row at a time fits (`no_memory`).
    """
    room = usable_bytes(estimator, available_bytes)
    asked, *others = cuts_of(estimator.settings)
    fits = [cut for cut in (asked, *others) if estimator.memory(cut, rows.longest).total <= room]
    if not fits:
        raise _no_room(estimator, rows, room)
    chosen = asked if asked in fits else min(fits, key=lambda cut: _cost(estimator, cut, rows))
    return Fit(chosen, estimator.memory(chosen, rows.longest), estimator.seconds(chosen, rows))


def _cost(estimator: Estimator, cut: Cut, rows: RowSizes) -> float:
    seconds = estimator.seconds(cut, rows)
    if seconds is not None:
        return seconds.total
    return -cut.per_device_train_batch_size - (0.5 if cut.gradient_checkpointing else 0.0)


def largest_length(estimator: Estimator, available_bytes: int, context: int) -> int:
    """Return the longest row that fits at all, one at a time; at most `context` tokens, 0 if none.

    A multiple of eight, as batches are padded.
    """
    rows = estimator.settings.per_device_train_batch_size
    rows *= estimator.settings.gradient_accumulation_steps
    smallest = Cut(1, rows, gradient_checkpointing=True)
    found = estimator.longest_that_fits(smallest, usable_bytes(estimator, available_bytes))
    return min(found, context // PAD_MULTIPLE * PAD_MULTIPLE if context else found)


def largest_batch(estimator: Estimator, rows: RowSizes, available_bytes: int) -> Cut | None:
    """Return the cut with the most rows at a time that fits, up to the whole step in one pass.

    Activations are computed again only where that lets more rows pass.
    """
    room = usable_bytes(estimator, available_bytes)
    asked = Cut.of(estimator.settings)
    step = asked.per_device_train_batch_size * asked.gradient_accumulation_steps
    ways = (True,) if asked.gradient_checkpointing else (False, True)
    for size in divisors(step):
        for again in ways:
            cut = Cut(size, step // size, again)
            if estimator.memory(cut, rows.longest).total <= room:
                return cut
    return None


def _no_room(estimator: Estimator, rows: RowSizes, room: int) -> RefusedError:
    smallest = Cut(1, 1, gradient_checkpointing=True)
    needed = estimator.memory(smallest, rows.longest).total
    longest = estimator.longest_that_fits(smallest, room)
    hint = "Close other programs, or choose a smaller model or one of smaller blocks."
    if longest >= 2 * PAD_MULTIPLE:
        hint = (
            "Close other programs, choose a smaller model, or allow shorter rows only, for "
            f"example: --set max_length={longest}"
        )
    return RefusedError(
        f"Training on a row of {rows.longest_tokens:,} tokens needs about {megabytes(needed)} of "
        f"memory, and {megabytes(room)} can be used.",
        hint,
        code="no_memory",
    )
