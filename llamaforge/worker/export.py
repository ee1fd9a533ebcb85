"""Stage 3: what was trained becomes a GGUF file: an adapter over the model's own, or merged."""

import json
import os
import shutil
from pathlib import Path
from typing import Final

from llamaforge.files import commit, write_json
from llamaforge.worker.artifacts import add_artifact, artifact_path, has_artifact, result_kind
from llamaforge.worker.job import Job
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.train import final_checkpoint

_CONFIG: Final = "adapter_config.json"
_FULL: Final = ("model.safetensors", "config.json")


def is_exported(job: Job) -> bool:
    """Return whether the file that the run is to make is there and whole."""
    if job.spec.model.full is not None and not has_artifact(job, "learned"):
        return False
    return has_artifact(job, result_kind(job))


def export(job: Job) -> None:
    """Write what was trained as GGUF.

    Raises:
        LlamaForgeError: it is damaged, not finite, or cannot be packed.
    """
    load_libraries()
    from llamaforge.export.adapter import write_adapter
    from llamaforge.export.learned import factors_over, read_learned
    from llamaforge.worker.trained import load_trained

    settings = job.spec.training
    checkpoint = final_checkpoint(job.run)
    if job.spec.model.full is None:
        layers = load_trained(job.header, settings, checkpoint).layers()
    else:
        _keep_learned(job, checkpoint)
        if not settings.makes_adapter:
            _merge(job)
            return
        layers = factors_over(job.header, read_learned(artifact_path(job, "learned"), settings))
    path = job.run.artifacts / "adapter.gguf"
    write_adapter(
        path,
        job.header,
        layers,
        name=job.run.id,
        base_digest=job.spec.model.digest,
    )
    add_artifact(job, "adapter", path)


def _keep_learned(job: Job, checkpoint: Path) -> None:
    """Put what was learned into the artifacts, as PEFT or transformers load it."""
    from llamaforge.export.base_run import FOLDER, LEARNED
    from llamaforge.export.learned import ADAPTER_FILE

    full = job.spec.model.full
    folder = job.run.artifacts / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    if full is None or not job.spec.training.use_peft:
        for name in _FULL:
            _link(checkpoint / name, folder / name)
        add_artifact(job, LEARNED, folder / _FULL[0])
        return
    _link(checkpoint / ADAPTER_FILE, folder / ADAPTER_FILE)
    config = json.loads((checkpoint / _CONFIG).read_text(encoding="utf-8"))
    named = {"base_model_name_or_path": full.repo, "revision": full.revision}
    write_json(folder / _CONFIG, config | named)
    add_artifact(job, LEARNED, folder / ADAPTER_FILE)


def _link(source: Path, target: Path) -> None:
    """Put a file into another folder of the run, where the disk allows it without a copy."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    commit(temporary, target)


def _merge(job: Job) -> None:
    from llamaforge.export.merged_run import write_run_merged

    def on_progress(done: int, total: int) -> None:
        job.progress("export", done, total, "bytes")

    made = write_run_merged(
        job.run,
        quantization=job.spec.publish.quantization,
        on_progress=on_progress,
        stopped=job.stop_asked,
    )
    add_artifact(job, "merged", made.path)
