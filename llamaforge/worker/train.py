"""Stage 2: training on the model's packed blocks, or on its full-precision base."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.files import write_json
from llamaforge.hardware import available_memory_bytes
from llamaforge.recipe.preflight import frozen_bytes
from llamaforge.recipe.spec import TrainingSettings
from llamaforge.runs import events
from llamaforge.training import finished
from llamaforge.worker.bases import load_to_train
from llamaforge.worker.job import Job, Stopped

_FIT: Final = "fit.json"


def is_trained(job: Job) -> bool:
    """Return whether training came to its end and its last checkpoint is whole."""
    return finished.finished_checkpoint(job.run.checkpoints) is not None


def final_checkpoint(job: Job) -> Path:
    """Return the checkpoint after the last step.

    Raises:
        LlamaForgeError: it is damaged.
    """
    last = finished.finished_checkpoint(job.run.checkpoints)
    if last is None:
        raise LlamaForgeError(
            "The last checkpoint of the run is damaged.",
            f"Train on from the one before: llamaforge runs resume {job.run.id}",
            code="bad_checkpoint",
        )
    return last


def finished_steps(job: Job) -> int:
    """Return the optimizer steps of a training that came to its end; 0 where it did not."""
    return finished.finished_steps(job.run.checkpoints) or 0


def train(job: Job) -> None:
    """Train to the last step, or until a person asks to stop.

    Raises:
        Stopped: a person asked; the state after the last step is saved.
        LlamaForgeError: the model cannot be loaded, or training diverged.
    """
    import torch
    from transformers import set_seed

    from llamaforge.training.lora import compute_type, trainable_parameters
    from llamaforge.training.trainer import Wishes
    from llamaforge.training.trainer import train as train_adapter
    from llamaforge.worker.objectives import objective_of
    from llamaforge.worker.probes import Prober
    from llamaforge.worker.start import start_weights

    settings = job.spec.training
    _require_device(settings)
    set_seed(settings.seed)
    loaded, model = load_to_train(job, settings)
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
                "layers_adapted": len(loaded.names) if settings.use_peft else 0,
                "base": settings.base,
                "base_repo": job.spec.model.full and job.spec.model.full.repo,
                "load_in_4bit": settings.load_in_4bit,
                "compute_dtype": settings.compute_dtype,
                "threads": torch.get_num_threads(),
                "device": settings.device,
            },
        )
    )
    settings = _fitted(job, settings, trainable_parameters(model))
    outcome = train_adapter(
        model,
        objective_of(job, loaded.head, settings, start_weights(job, model)),
        settings,
        job.run.checkpoints,
        emit=job.emit,
        wishes=Wishes(
            stop=job.stop_asked,
            save=job.save_asked,
            samples=job.samples_asked,
            pause=job.wait_while_paused,
        ),
        probes=Prober(job, model, loaded.head, compute_type(settings.compute_dtype))
        if settings.use_peft
        else None,  # the model before is not there any more
    )
    if outcome.stopped:
        raise Stopped
    finished.note_finished(job.run.checkpoints, outcome.step)


def _fitted(job: Job, settings: TrainingSettings, trained_weights: int) -> TrainingSettings:
    """Return `settings` cut so that a step fits into memory.

    The cut of a run is chosen once: a resumed run has to see the same batches.
    """
    from llamaforge.training.fit import Fit, fit_to_memory
    from llamaforge.worker.objectives import longest_tokens

    path = job.run.checkpoints / _FIT
    try:
        return Fit(**json.loads(path.read_text(encoding="utf-8"))).applied(settings)
    except (OSError, ValueError, TypeError):
        pass
    longest = longest_tokens(job.conversations().rows.train)
    fit = fit_to_memory(
        settings,
        job.header,
        longest=longest,
        trained_weights=trained_weights,
        available_bytes=_available_bytes(settings) - _still_to_come(job),
    )
    write_json(path, asdict(fit))
    fitted = fit.applied(settings)
    if fitted != settings:
        ways = "activations are worked out again in the backward pass" * fit.gradient_checkpointing
        job.warn(
            "fitted_to_memory",
            f"To fit into memory a step of {settings.per_device_train_batch_size} rows × "
            f"{settings.gradient_accumulation_steps} is done as "
            f"{fit.per_device_train_batch_size} × {fit.gradient_accumulation_steps}; {ways}. "
            "What is learned is the same; it takes longer.",
        )
    return fitted


def _still_to_come(job: Job) -> int:
    """Return the bytes of frozen weights that are not in memory yet: a mapped file is read late."""
    return frozen_bytes(job.spec, job.header) if job.spec.model.full is None else 0


def _require_device(settings: TrainingSettings) -> None:
    """Raise where the device that the settings name cannot be computed on."""
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        raise RefusedError(
            "This torch sees no GPU."
            if built
            else f"torch {torch.__version__} was built without GPU support.",
            "Leave out --set device=cuda, or look at the driver with nvidia-smi."
            if built
            else "Install a GPU build of torch into the same environment, or leave out "
            "--set device=cuda.",
            code="no_gpu",
        )


def _available_bytes(settings: TrainingSettings) -> int:
    """Return the memory that training may take where it computes."""
    if settings.device == "cpu":
        return available_memory_bytes()
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free)
