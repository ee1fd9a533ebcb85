"""The adapter that training goes on from: an earlier run's, or that of the phase before."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.data.records import prompt_key
from llamaforge.data.snapshot import read_snapshot
from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.files import sha256_of
from llamaforge.runs.directory import open_run
from llamaforge.safe_text import safe_line
from llamaforge.training.finished import ADAPTER_FILE, finished_checkpoint
from llamaforge.worker.job import Job

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel


def start_file(job: Job) -> Path | None:
    """Return the file of the adapter that training goes on from; None for an untouched one.

    Raises:
        InvalidFileError: it is damaged or missing (`bad_start`).
    """
    if job.phase > 1:
        before = finished_checkpoint(job.run.of_phase(job.phase - 1).checkpoints)
        if before is None:
            raise InvalidFileError(
                f"The last checkpoint of phase {job.phase - 1} is damaged.",
                f"Train on from the one before: llamaforge runs resume {job.run.id}",
                code="bad_start",
            )
        return before / ADAPTER_FILE
    start = job.spec.start
    if start is None:
        return None
    path = job.run.start_file
    if not path.is_file() or sha256_of(path) != start.sha256:
        raise InvalidFileError(
            f"The adapter of the run {safe_line(start.run)}, from which this one goes on, is "
            f"damaged: {path.name}.",
            "Start a new run.",
            code="bad_start",
        )
    return path


def warn_of_known_prompts(job: Job) -> None:
    """Tell where held-out rows ask what the adapter was trained on before.

    Each phase, and each run, divides its own rows: what one holds out another may have learned.
    """
    earlier = [job.run.of_phase(number) for number in range(1, job.phase)]
    if job.spec.start is not None:
        with contextlib.suppress(LlamaForgeError):  # removed since: nothing can be said of it
            earlier.append(open_run(job.spec.start.run))
    known: set[str] = set()
    for run in earlier:
        with contextlib.suppress(LlamaForgeError):
            known.update(
                prompt_key(record.messages) for record in read_snapshot(run.data)[1]["train"]
            )
    held_out = [item.record for item in job.conversations().rows.held_out]
    count = sum(prompt_key(record.messages) in known for record in held_out)
    if count:
        job.warn(
            "known_prompts",
            f"{count:,} of {len(held_out):,} held-out rows ask what was trained on before this "
            "training: their figures flatter the model.",
        )


def start_weights(job: Job, model: "PeftModel | PreTrainedModel") -> "dict[str, Tensor] | None":
    """Give `model` the adapter that training goes on from.

    Returns:
        The adapter's weights by their parameters' names; None where it stays untouched.

    Raises:
        InvalidFileError: the adapter is damaged, or has another shape than the run's.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = start_file(job)
    if path is None:
        return None
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    try:
        weights = load_file(path)
        result: Any = set_peft_model_state_dict(model, weights)
        fits = not result.unexpected_keys and len(weights) == len(own)
    except (SafetensorError, RuntimeError):  # torch's word for other shapes
        fits = False
    if not fits:
        raise InvalidFileError(
            "The adapter from which training goes on does not fit the run's settings.",
            "Start a new run.",
            code="bad_start",
        )
    return {name: value.detach().clone() for name, value in own.items()}
