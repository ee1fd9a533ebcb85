"""Stage 2: training on the model's packed blocks, or on its full-precision base."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamaforge.errors import LlamaForgeError
from llamaforge.files import write_json
from llamaforge.recipe.cut import Cut, smaller
from llamaforge.recipe.estimate import RowSizes
from llamaforge.recipe.preflight import held_bytes
from llamaforge.recipe.spec import RunSpec
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory
from llamaforge.training import finished
from llamaforge.training.checkpoints import newest_checkpoint, step_of
from llamaforge.words import plural
from llamaforge.worker.bases import load_to_train
from llamaforge.worker.devices import require_device
from llamaforge.worker.estimating import (
    Estimated,
    Record,
    estimated,
    guessed,
    kept_cut,
    predicted,
    sizes_of,
)
from llamaforge.worker.job import Job, Stopped
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.log import log
from llamaforge.worker.memory import memory_shortage, shortage_words
from llamaforge.worker.result import tell_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftModel
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

    from llamaforge.training.model import LoadedModel
    from llamaforge.training.ranks import Ranks

_FIT: Final = "fit.json"


def is_trained(job: Job) -> bool:
    """Return whether training came to its end and its last checkpoint is whole."""
    return finished.finished_checkpoint(job.run.checkpoints) is not None


def final_checkpoint(run: RunDirectory) -> Path:
    """Return the checkpoint after the last step.

    Raises:
        LlamaForgeError: it is damaged.
    """
    last = finished.finished_checkpoint(run.checkpoints)
    if last is None:
        raise LlamaForgeError(
            "The last checkpoint of the run is damaged.",
            f"Train on from the one before: llamaforge runs resume {run.id}",
            code="bad_checkpoint",
        )
    return last


def finished_steps(job: Job) -> int:
    """Return the optimizer steps of a training that came to its end; 0 where it did not."""
    return finished.finished_steps(job.run.checkpoints) or 0


def train(job: Job) -> None:
    """Train to the last step, or until a person asks to stop.

    Where memory runs out, training goes on from the last checkpoint with smaller batches.

    Raises:
        Stopped: a person asked; the state after the last step is saved.
        LlamaForgeError: the model cannot be loaded, training diverged, or not even a single row
            fits into memory.
    """
    load_libraries()
    import torch

    from llamaforge.training.heap import release_memory

    if job.was_killed_for_memory:
        _cut_smaller(job, "host_kill")
        job.was_killed_for_memory = False  # it was this phase of training, no later one
    while True:
        said = ""
        try:
            shortage = _train(job)
        except Exception as error:
            shortage = memory_shortage(error)
            if shortage is None:
                raise
            said = f"{type(error).__name__}: {error}"
        if shortage is None:
            return
        # Here, and not above: the error holds on to all that training had in memory.
        release_memory()
        log(said)
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
        else f"a step of {plural(before.per_device_train_batch_size, 'row')} × "
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


def _train(job: Job) -> str | None:
    """Train here, or in several processes; return which memory ran out there, if one did."""
    from llamaforge.training.ranks import ALONE
    from llamaforge.worker.many import train_ranks

    if job.spec.launch.world == 1:
        step = train_adapter(job, ALONE)
    else:
        require_device(job.spec.training)
        if job.spec.launch.fsdp:  # none of them can try a pass alone
            _fitted(job, job.spec.training, lambda sizes: _guessed(job, sizes))
        outcome = train_ranks(job)
        if "shortage" in outcome:
            return str(outcome["shortage"])
        if outcome["stopped"]:
            raise Stopped
        step = int(outcome["step"])
    finished.note_finished(job.run.checkpoints, step, best=job.spec.training.keeps_best)
    job.reach(step)
    tell_result(job, step)
    return None


def train_adapter(job: Job, ranks: "Ranks") -> int:
    """Train in this process, with the cut of the step that is noted, or chosen now.

    Returns the last step.

    Raises:
        Stopped: a person asked; the state after the last step is saved.
        LlamaForgeError: the model cannot be loaded, or training diverged.
    """
    import torch
    from transformers import set_seed

    from llamaforge.training.lora import compute_type, trainable_parameters
    from llamaforge.training.trainer import Wishes
    from llamaforge.training.trainer import train as train_steps
    from llamaforge.worker.objectives import objective_of
    from llamaforge.worker.probes import NoProbes, Prober
    from llamaforge.worker.start import start_weights
    from llamaforge.worker.trackers import Trackers

    settings = job.spec.training
    require_device(settings)
    set_seed(settings.seed)
    loaded, model = _loaded(job, ranks)
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
    together = job.spec.launch.fsdp
    record = Record(job.run.estimate_file)

    def tried(sizes: RowSizes) -> Estimated:
        found = estimated(
            loaded,
            model,
            job.header,
            settings,
            sizes,
            held=held_bytes(job.spec, job.header),
            launch=job.spec.launch,
        )
        return _told(job, record, found)

    # Chosen once, for all of them alike.
    settings = ranks.share(_fitted(job, settings, tried) if ranks.is_first else settings)
    spec = job.spec if ranks.is_first else _silent(job.spec)
    trackers = Trackers(spec, job.run.path, job.warn)

    def emit(event: events.Event) -> None:
        trackers.take(job.emit(event))

    record.begin(model.device)
    try:
        outcome = train_steps(
            model,
            objective_of(job, model, loaded.head, settings, start_weights(job, model), ranks),
            settings,
            job.run.checkpoints,
            emit=record.watched(emit),
            wishes=Wishes(
                stop=job.stop_asked,
                save=job.save_asked,
                samples=job.samples_asked,
                pause=job.wait_while_paused,
                space=job.wait_for_space,
            ),
            probes=NoProbes(job)
            if together
            else Prober(job, model, loaded.head, compute_type(settings.compute_dtype)),
            ranks=ranks,
            together=together,
        )
    finally:
        trackers.close()
    if ranks.is_first:
        job.emit(events.Report(kind="measured", figures=record.end(model.device)))
    if outcome.stopped:
        raise Stopped
    return outcome.step


def _loaded(job: Job, ranks: "Ranks") -> "tuple[LoadedModel, PeftModel | PreTrainedModel]":
    """Return the model and what of it is trained; of divided layers, this process's part.

    Each process reads a base that is divided as a whole, so those of a machine take turns.
    """
    spec, settings = job.spec, job.spec.training
    if not spec.launch.fsdp:
        return load_to_train(spec, job.header, settings)
    from llamaforge.training.sharding import mesh_of_all

    mesh = mesh_of_all(settings.device)
    return ranks.in_turn(lambda: _divided(job, mesh))


def _divided(job: Job, mesh: "DeviceMesh") -> "tuple[LoadedModel, PeftModel | PreTrainedModel]":
    """Load the base, keep this process's part of its frozen layers, and say what that saves."""
    from peft import PeftModel

    from llamaforge.training.dense import frozen_weight
    from llamaforge.training.heap import release_memory
    from llamaforge.training.sharding import shard_frozen

    loaded, model = load_to_train(job.spec, job.header, job.spec.training)
    assert isinstance(model, PeftModel)  # noqa: S101 - a recipe without an adapter is refused
    found = shard_frozen(model, loaded.names, mesh, job.spec.training.device)
    job.emit(events.Report(kind="sharded", figures=asdict(found)))
    weight = loaded.model.get_output_embeddings().weight  # where it lies by now
    loaded = replace(loaded, head=replace(loaded.head, weight=frozen_weight(weight)))
    release_memory()
    return loaded, model


def _silent(spec: RunSpec) -> RunSpec:
    """Return `spec` with no tracker: the first rank tells for all."""
    return spec.model_copy(update={"training": spec.training.model_copy(update={"report_to": []})})


def _guessed(job: Job, sizes: RowSizes) -> Estimated:
    return _told(job, Record(job.run.estimate_file), guessed(job.spec, job.header, sizes))


def _told(job: Job, record: Record, found: Estimated) -> Estimated:
    record.predict(predicted(found))
    job.emit(events.Report(kind="predicted", figures=predicted(found)))
    return found


def _fitted(
    job: Job, settings: TrainingSettings, estimate: "Callable[[RowSizes], Estimated]"
) -> TrainingSettings:
    """Return `settings` cut so that a step fits into memory, as it is estimated.

    The cut of a run is chosen once: a resumed run has to see the same batches.
    """
    path = job.run.checkpoints / _FIT
    kept = kept_cut(path)
    if kept is not None:
        return kept.applied(settings)
    rows = job.conversations().rows
    cut = estimate(
        RowSizes(
            train=sizes_of(rows.train),
            train_rows=len(rows.train),
            validation=sizes_of(rows.validation),
            validation_rows=len(rows.validation),
        )
    ).fit.cut
    write_json(path, asdict(cut))
    fitted = cut.applied(settings)
    if fitted != settings:
        ways = "; activations are worked out again in the backward pass"
        job.warn(
            "fitted_to_memory",
            f"To fit into memory a step of {plural(settings.per_device_train_batch_size, 'row')} × "
            f"{settings.gradient_accumulation_steps} is done as "
            f"{cut.per_device_train_batch_size} × {cut.gradient_accumulation_steps}"
            f"{ways * cut.gradient_checkpointing}. What is learned is the same; it takes longer.",
        )
    return fitted
