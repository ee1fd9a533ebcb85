"""A run's settings in the words of transformers' `TrainingArguments`."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from llamaforge.recipe.batching import planned_steps
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.words import plural


def training_arguments(
    settings: TrainingSettings, folder: Path, *, examples: int, passes: int, world: int = 1
) -> TrainingArguments:
    """Return what the loop is told.

    Args:
        settings: as in the run spec, `compute_dtype` resolved.
        folder: where checkpoints are written.
        examples: what one epoch passes through.
        passes: batches of an optimizer step, of each process.
        world: processes that train together.
    """
    steps = planned_steps(settings, examples, world)
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        data_seed=settings.seed,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=passes,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        lr_scheduler_kwargs=_schedule(settings, steps),
        warmup_steps=_warmup_steps(settings, steps),
        optim=settings.optim,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        # transformers measures noise out by the batch's width, which is no row's where several
        # share a sequence: `objective.Supervised` adds it then.
        neftune_noise_alpha=None if settings.packing else settings.neftune_noise_alpha,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _warmup_steps(settings: TrainingSettings, steps: int) -> int:
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    return math.ceil(settings.warmup_ratio * steps)


def warmup_note(settings: TrainingSettings, steps: int) -> str:
    """Return a sentence where the rate of a training of so many steps only ever rises; else ''."""
    if settings.warmup_steps is None or settings.warmup_steps < steps:
        return ""
    return (
        f"The learning rate rises over {plural(settings.warmup_steps, 'step')}, and the whole "
        f"training has {steps:,}: it ends before the rate that was asked for is reached. Fewer "
        "warmup_steps learn more."
    )


def _schedule(settings: TrainingSettings, steps: int) -> dict[str, Any]:
    """Return what a schedule needs besides the number of steps."""
    match settings.lr_scheduler_type:
        case "cosine_with_min_lr":
            return {"min_lr_rate": settings.min_lr_rate}
        case "warmup_stable_decay":
            return {
                "num_decay_steps": math.ceil(settings.decay_ratio * steps),
                "min_lr_ratio": settings.min_lr_rate,
            }
        case "polynomial":
            return {"lr_end": settings.min_lr_rate * settings.learning_rate}
        case _:
            return {}
