"""Stage 2: the adapter is trained on the model's packed blocks."""

import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamaforge.errors import LlamaForgeError
from llamaforge.files import write_json
from llamaforge.recipe.cut import Cut, smaller
from llamaforge.recipe.estimate import RowSizes
from llamaforge.recipe.spec import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.checkpoints import newest_checkpoint, step_of
from llamaforge.worker.devices import require_device
from llamaforge.worker.estimating import Record, estimated, kept_cut, predicted, sizes_of
from llamaforge.worker.job import Job, Stopped
from llamaforge.worker.memory import memory_shortage, shortage_words

if TYPE_CHECKING:
    from peft import PeftModel

    from llamaforge.training.model import PackedModel

_DONE: Final = "finished.json"
_FIT: Final = "fit.json"


def is_trained(job: Job) -> bool:
    """Return whether training came to its end and its last checkpoint is whole."""
    return _last(job) is not None


def final_checkpoint(job: Job) -> Path:
    """Return the checkpoint after the last step.

    Raises:
        LlamaForgeError: it is damaged.
    """
    last = _last(job)
    if last is None:
        raise LlamaForgeError(
            "The last checkpoint of the run is damaged.",
            f"Train on from the one before: llamaforge runs resume {job.run.id}",
            code="bad_checkpoint",
        )
    return last


def _last(job: Job) -> Path | None:
    try:
        noted = json.loads((job.run.checkpoints / _DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    newest, _ = newest_checkpoint(job.run.checkpoints)
    return newest if newest is not None and step_of(newest) == noted.get("step") else None


def train(job: Job) -> None:
    """Train to the last step, or until a person asks to stop.

    Where memory runs out, training goes on from the last checkpoint with smaller batches.

    Raises:
        Stopped: a person asked; the state after the last step is saved.
        LlamaForgeError: the model cannot be loaded, training diverged, or not even a single row
            fits into memory.
    """
    import gc

    import torch

    if job.was_killed_for_memory:
        _cut_smaller(job, "host_kill")
    while True:
        try:
            _train(job)
        except Exception as error:
            shortage = memory_shortage(error)
            if shortage is None:
                raise
            traceback.print_exc()
        else:
            return
        # Here, and not above: the error holds on to all that training had in memory.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _cut_smaller(job, shortage)


def _cut_smaller(job: Job, shortage: str) -> None:
    """Note a cut of the step that takes less memory, and tell it.

    Raises:
        LlamaForgeError: there is none (`out_of_memory`).
    """
    path = job.run.checkpoints / _FIT
    before = kept_cut(path) or Cut.of(job.spec.training)
    after = smaller(before)
    words = shortage_words(shortage)
    if after is None:
        longest = max(len(item.row.ids) for item in job.conversations().rows.train)
        raise LlamaForgeError(
            f"{words}, even with one row of at most {longest:,} tokens at a time.",
            "Close other programs and resume, or start again with shorter rows, for example: "
            f"--set max_length={max(8, longest // 2)}",
            code="out_of_memory",
        )
    write_json(path, asdict(after))
    newest, _ = newest_checkpoint(job.run.checkpoints)
    place = "from the beginning" if newest is None else f"from step {step_of(newest):,}"
    how = (
        "activations are worked out again in the backward pass from now on"
        if after.per_device_train_batch_size == before.per_device_train_batch_size
        else f"a step of {before.per_device_train_batch_size} rows × "
        f"{before.gradient_accumulation_steps} is done as {after.per_device_train_batch_size} × "
        f"{after.gradient_accumulation_steps} from now on"
    )
    job.emit(
        events.Warn(
            code="out_of_memory",
            message=f"{words}. Training goes on {place}: {how}. What is learned is the same; it "
            "takes longer.",
            kind=shortage,
        )
    )


def _train(job: Job) -> None:
    """Train with the cut of the step that is noted, or chosen now."""
    import torch
    from transformers import set_seed

    from llamaforge.training.lora import attach_lora, compute_type, trainable_parameters
    from llamaforge.training.model import load_packed_model
    from llamaforge.training.trainer import Wishes
    from llamaforge.training.trainer import train as train_adapter
    from llamaforge.worker.probes import Prober

    settings = job.spec.training
    require_device(settings)
    rows = job.conversations().rows
    packed = load_packed_model(job.header, compute_type(settings.compute_dtype))
    set_seed(settings.seed)
    model = attach_lora(packed, settings)
    job.emit(
        events.Report(
            kind="model",
            figures={
                "name": job.spec.model.name,
                "architecture": job.spec.model.architecture,
                "quantization": job.spec.model.quantization,
                "parameters": job.header.parameters,
                "blob_bytes": job.header.stored.file_bytes,
                "trainable_parameters": trainable_parameters(model),
                "layers_adapted": len(packed.names),
                "compute_dtype": settings.compute_dtype,
                "threads": torch.get_num_threads(),
                "device": settings.device,
            },
        )
    )
    model.to(settings.device)
    record = Record(job.run.estimate_file)
    settings = _fitted(job, settings, packed, model, record)
    record.begin(model.device)
    outcome = train_adapter(
        model,
        packed.head,
        [item.row for item in rows.train],
        [item.row for item in rows.validation],
        settings,
        job.run.checkpoints,
        emit=record.watched(job.emit),
        wishes=Wishes(
            stop=job.stop_asked,
            save=job.save_asked,
            samples=job.samples_asked,
            pause=job.wait_while_paused,
            space=job.wait_for_space,
        ),
        probes=Prober(job, model, packed.head, compute_type(settings.compute_dtype)),
    )
    job.emit(events.Report(kind="measured", figures=record.end(model.device)))
    if outcome.stopped:
        raise Stopped
    write_json(job.run.checkpoints / _DONE, {"step": outcome.step})


def _fitted(
    job: Job, settings: TrainingSettings, packed: "PackedModel", model: "PeftModel", record: Record
) -> TrainingSettings:
    """Return `settings` cut so that a step fits into memory, after a short trial.

    The cut of a run is chosen once: a resumed run has to see the same batches.
    """
    path = job.run.checkpoints / _FIT
    kept = kept_cut(path)
    if kept is not None:
        return kept.applied(settings)
    rows = job.conversations().rows
    sizes = RowSizes(
        train=sizes_of(item.row for item in rows.train),
        train_rows=len(rows.train),
        validation=sizes_of(item.row for item in rows.validation),
        validation_rows=len(rows.validation),
    )
    found = estimated(packed, model, job.header, settings, sizes)
    fit, figures = found.fit, predicted(found)
    record.predict(figures)
    job.emit(events.Report(kind="predicted", figures=figures))
    write_json(path, asdict(fit.cut))
    fitted = fit.cut.applied(settings)
    if fitted != settings:
        ways = (
            "; activations are worked out again in the backward pass"
            * fit.cut.gradient_checkpointing
        )
        job.warn(
            "fitted_to_memory",
            f"To fit into memory a step of {settings.per_device_train_batch_size} rows × "
            f"{settings.gradient_accumulation_steps} is done as "
            f"{fit.cut.per_device_train_batch_size} × {fit.cut.gradient_accumulation_steps}{ways}. "
            "What is learned is the same; it takes longer.",
        )
    return fitted
