"""What a run's method minimises over the run's rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamaforge.data.encoding import EncodedRecord
from llamaforge.recipe.spec import TrainingSettings
from llamaforge.worker.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from llamaforge.training.loss import OutputHead
    from llamaforge.training.objective import Objective
    from llamaforge.training.pairs import EncodedPair
    from llamaforge.training.ranks import Ranks


def objective_of(
    job: Job,
    head: "OutputHead",
    settings: TrainingSettings,
    start: "dict[str, Tensor] | None" = None,
    ranks: "Ranks | None" = None,
) -> "Objective":
    """Return what `settings.method` minimises over the run's rows.

    Args:
        job: the run.
        head: the output head over [vocabulary, hidden].
        settings: how it is trained.
        start: the adapter that training goes on from, by its parameters' names.
        ranks: the processes that train together, where there are several.
    """
    from llamaforge.training.objective import Supervised
    from llamaforge.training.preference import DirectPreference, OddsRatio
    from llamaforge.training.ranks import ALONE

    rows = job.conversations().rows
    if not settings.learns_from_pairs:
        return Supervised(
            head,
            [item.row for item in rows.train],
            [item.row for item in rows.validation],
            settings,
            ranks or ALONE,
        )
    train, validation = _pairs(rows.train), _pairs(rows.validation)
    if settings.method == "orpo":
        return OddsRatio(head, train, validation, settings)
    return DirectPreference(
        head,
        train,
        validation,
        settings,
        job.run.checkpoints,
        start=start,
        on_progress=lambda done, total: job.progress("train", done, total, "reference answers"),
    )


def longest_tokens(items: Sequence[EncodedRecord]) -> int:
    """Return the tokens that pass through the model together for the longest of `items`.

    Both sides of a pair do, padded to one length.
    """
    return max(item.tokens * (1 if item.rejected is None else 2) for item in items)


def _pairs(items: Sequence[EncodedRecord]) -> "list[EncodedPair]":
    from llamaforge.training.pairs import EncodedPair

    return [EncodedPair(item.row, item.rejected) for item in items if item.rejected is not None]
