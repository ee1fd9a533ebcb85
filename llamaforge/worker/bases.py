"""What is trained on: the file's own packed blocks, or the full-precision base."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError
from llamaforge.files import sha256_of
from llamaforge.gguf.header import Header
from llamaforge.recipe.spec import ResolvedBase, RunSpec
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.runs.base_digests import (
    check_same_base,
    digest_of_link,
    note_digests,
    read_digests,
)
from llamaforge.runs.directory import open_run
from llamaforge.safe_text import safe_line
from llamaforge.worker.job import Job

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from llamaforge.training.model import LoadedModel

_PROGRESS_BYTES: Final = 256 * 1024 * 1024


def load_to_train(
    spec: RunSpec, header: Header, settings: TrainingSettings
) -> tuple["LoadedModel", "PeftModel | PreTrainedModel"]:
    """Return the model as it was loaded, and what of it is trained.

    Raises:
        LlamaForgeError: it cannot be loaded.
    """
    import torch

    from llamaforge.training.dense import load_dense_model
    from llamaforge.training.lora import attach_lora, compute_type
    from llamaforge.training.model import load_packed_model

    dtype = compute_type(settings.compute_dtype)
    full = spec.model.full
    if full is None:
        packed = load_packed_model(header, dtype)
        model = attach_lora(packed, settings)
        model.to(settings.device)
        return packed, model
    loaded = load_dense_model(
        full.folder,
        header,
        # Steps are smaller than bfloat16 can tell apart: weights that are trained stay float32.
        dtype if settings.use_peft else torch.float32,
        # What is divided among processes is brought to a device layer by layer.
        device="cpu" if spec.launch.fsdp else settings.device,
        load_in_4bit=settings.load_in_4bit,
        all_trained=not settings.use_peft,
    )
    return loaded, attach_lora(loaded, settings) if settings.use_peft else loaded.model


def base_stamp(full: ResolvedBase | None) -> dict[str, list[int]]:
    """Return size and time of each file of the base; they tell whether it was changed since."""
    if full is None:
        return {}
    try:
        files = {path.name: path.stat() for path in sorted(full.folder.iterdir())}
    except OSError as error:
        raise RefusedError(
            f"The base in {safe_line(str(full.folder))} cannot be read: {error.strerror}.",
            "Fetch it again: llamaforge base MODEL --download",
            code="missing_base",
        ) from error
    return {name: [found.st_size, found.st_mtime_ns] for name, found in files.items()}


def check_base(job: Job) -> None:
    """Return if the base is whole, holds numbers only, and is what the model's file was made of.

    Raises:
        InvalidFileError: a file is damaged (`bad_base`), or changed since the run began
            (`base_changed`).
        RefusedError: it is another model's base, or the run goes on from an adapter over other
            weights (`other_base`).
    """
    from llamaforge.export.base_tensors import BaseTensors
    from llamaforge.export.closeness import closeness
    from llamaforge.export.dense import DenseWeights
    from llamaforge.worker.layout import model_layout

    full = job.spec.model.full
    if full is None:
        return
    weights = DenseWeights(full.folder)
    files = sorted({tensor.file for tensor in weights.tensors.values()})
    total = 2 * sum(path.stat().st_size for path in files)
    done = 0
    digests = {}
    for path in files:
        digests[path.name] = _digest(job, path, done, total)
        done += path.stat().st_size
    _require_same(job, digests)
    if job.spec.start is not None:
        with suppress(NotFoundError):  # removed since: what it was trained over is not known
            check_same_base(open_run(job.spec.start.run), digests)
    for name, tensor in weights.tensors.items():
        for _ in weights.parts(name):
            job.check_stop()
        done += tensor.n_bytes
        job.progress("prepare", min(done, total), total, "bytes")
    found = closeness(job.header, BaseTensors(job.header, model_layout(job.header), weights))
    if not found.exact:
        job.warn(
            "near_base",
            f"The norms of {safe_line(full.repo)} are not exactly those in the model's file: it "
            "may have been made from another version. What the file serves is measured at the end.",
        )
    figures: dict[str, Any] = asdict(found) | {
        "repo": full.repo,
        "revision": full.revision,
        "folder": str(full.folder),
        "files": digests,
    }
    job.emit(events.Report(kind="base", figures=figures))


def _require_same(job: Job, digests: dict[str, str]) -> None:
    """Note the digests of the base, or hold them against those that the run began with.

    Raises:
        InvalidFileError: they differ (`base_changed`).
    """
    noted = read_digests(job.run)
    if not noted:
        note_digests(job.run, digests)
        return
    changed = sorted(name for name in noted | digests if noted.get(name) != digests.get(name))
    if changed:
        raise InvalidFileError(
            f"The file {safe_line(changed[0])} of the base is not the one that the run began with.",
            "Put the old one back, or start a new run.",
            code="base_changed",
        )


def _digest(job: Job, path: Path, before: int, total: int) -> str:
    """Return the sha256 of a file of weights, which the Hub's cache names by it.

    Raises:
        InvalidFileError: the cache says another one.
    """
    told = 0

    def on_bytes(done: int) -> None:
        nonlocal told
        if done - told >= _PROGRESS_BYTES:
            told = done
            job.progress("prepare", before + done, total, "bytes")
            job.check_stop()

    found = sha256_of(path, on_bytes=on_bytes)
    said = digest_of_link(path)
    if said and said != found:
        raise InvalidFileError(
            f"The file {safe_line(path.name)} of the base is damaged: its digest is {found[:12]}…, "
            f"and should be {said[:12]}….",
            f"Remove {safe_line(str(path.resolve()))}, then: llamaforge base MODEL --download",
            code="bad_base",
        )
    return found
