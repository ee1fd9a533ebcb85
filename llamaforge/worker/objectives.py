"""What a run's method minimises over the run's rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamaforge.data.encoding import EncodedRecord
from llamaforge.recipe.held_out import no_validation
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.worker.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from llamaforge.data.chat import EncodedRow
    from llamaforge.training.batches import Loader
    from llamaforge.training.labelled import LabelledRow
    from llamaforge.training.lora import Trainable
    from llamaforge.training.loss import OutputHead
    from llamaforge.training.objective import Objective
    from llamaforge.training.pairs import EncodedPair
    from llamaforge.training.ranks import Ranks


def objective_of(
    job: Job,
    model: "Trainable",
    head: "OutputHead",
    settings: TrainingSettings,
    start: "dict[str, Tensor] | None" = None,
    ranks: "Ranks | None" = None,
) -> "Objective":
    """Return what `settings.method` minimises over the run's rows.

    Args:
        job: the run.
        model: what is trained.
        head: the output head over [vocabulary, hidden].
        settings: how it is trained.
        start: the adapter that training goes on from, by its parameters' names.
        ranks: the processes that train together, where there are several.

    Raises:
        RefusedError: the best checkpoint is wanted, and no row is held out (`no_validation`).
    """
    from llamaforge.training.kto import LabelledPreference
    from llamaforge.training.objective import Supervised
    from llamaforge.training.preference import DirectPreference, OddsRatio
    from llamaforge.training.ranks import ALONE

    rows = job.conversations().rows
    if settings.keeps_best and not rows.validation:
        raise no_validation()
    if settings.learns_from_labels:
        return LabelledPreference(
            head,
            _labelled(rows.train),
            _labelled(rows.validation),
            settings,
            job.run.checkpoints,
            start=start,
            ranks=ranks or ALONE,
            on_progress=lambda done, total: job.progress("train", done, total, "reference answers"),
        )
    if not settings.learns_from_pairs:
        train = [item.row for item in rows.train]
        loader = _packed(job, model, train, settings, ranks or ALONE) if settings.packing else None
        validation = [item.row for item in rows.validation]
        return Supervised(head, train, validation, settings, loader, ranks or ALONE)
    pairs, held_out = _pairs(rows.train), _pairs(rows.validation)
    if settings.method == "orpo":
        return OddsRatio(head, pairs, held_out, settings, ranks or ALONE)
    return DirectPreference(
        head,
        pairs,
        held_out,
        settings,
        job.run.checkpoints,
        start=start,
        ranks=ranks or ALONE,
        on_progress=lambda done, total: job.progress("train", done, total, "reference answers"),
    )


def _packed(
    job: Job,
    model: "Trainable",
    rows: "list[EncodedRow]",
    settings: TrainingSettings,
    ranks: "Ranks",
) -> "Loader | None":
    """Return packed batches; None, and a word about it, where rows cannot be kept apart."""
    from llamaforge.training.lora import compute_type
    from llamaforge.training.packing import PackedLoader, keeps_apart

    # All of them do the same, whatever each processor makes of it.
    if not ranks.share(keeps_apart(model, compute_type(settings.compute_dtype))):
        job.warn(
            "not_packed",
            f"Rows one behind another would see each other in a {job.spec.model.architecture} "
            "model, so they are not packed but batched by length.",
        )
        return None
    return PackedLoader(
        rows,
        settings.per_device_train_batch_size,
        settings.seed,
        accumulation=settings.gradient_accumulation_steps,
        rank=ranks.rank,
        world=ranks.world,
    )


def longest_tokens(items: Sequence[EncodedRecord]) -> int:
    """Return the tokens that pass through the model together for the longest of `items`.

    Both sides of a pair do, padded to one length.
    """
    return max(item.tokens * (1 if item.rejected is None else 2) for item in items)


def _pairs(items: Sequence[EncodedRecord]) -> "list[EncodedPair]":
    from llamaforge.training.pairs import EncodedPair

    return [EncodedPair(item.row, item.rejected) for item in items if item.rejected is not None]


def _labelled(items: Sequence[EncodedRecord]) -> "list[LabelledRow]":
    from llamaforge.training.labelled import LabelledRow

    return [LabelledRow(item.row, item.label) for item in items if item.label is not None]
