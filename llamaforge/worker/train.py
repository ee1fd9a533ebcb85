"""Stage 2: the adapter is trained on the model's packed blocks."""

import json
from pathlib import Path
from typing import Final

from llamaforge.errors import LlamaForgeError
from llamaforge.files import write_json
from llamaforge.runs import events
from llamaforge.training.checkpoints import newest_checkpoint, step_of
from llamaforge.worker.job import Job, Stopped

_DONE: Final = "finished.json"


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

    Raises:
        Stopped: a person asked; the state after the last step is saved.
        LlamaForgeError: the model cannot be loaded, or training diverged.
    """
    import torch
    from transformers import set_seed

    from llamaforge.training.lora import attach_lora, compute_type, trainable_parameters
    from llamaforge.training.model import load_packed_model
    from llamaforge.training.trainer import Wishes
    from llamaforge.training.trainer import train as train_adapter

    settings = job.spec.training
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
                "blob_bytes": job.spec.model.blob.stat().st_size,
                "trainable_parameters": trainable_parameters(model),
                "layers_adapted": len(packed.names),
                "compute_dtype": settings.compute_dtype,
                "threads": torch.get_num_threads(),
            },
        )
    )
    outcome = train_adapter(
        model,
        packed.head,
        [item.row for item in rows.train],
        [item.row for item in rows.validation],
        settings,
        job.run.checkpoints,
        emit=job.emit,
        wishes=Wishes(stop=job.stop_asked, save=job.save_asked),
    )
    if outcome.stopped:
        raise Stopped
    write_json(job.run.checkpoints / _DONE, {"step": outcome.step})
