"""Which checkpoint is the result of a training that came to its end."""

import json
from pathlib import Path
from typing import Final

from llamaforge.files import write_json
from llamaforge.training.checkpoints import newest_checkpoint, step_of

ADAPTER_FILE: Final = "adapter_model.safetensors"
"""PEFT's name for the weights of an adapter, inside a checkpoint."""
_NOTE: Final = "finished.json"


def note_finished(folder: Path, step: int) -> None:
    """Note that training ended after `step`, whose checkpoint is in `folder`."""
    write_json(folder / _NOTE, {"step": step})


def finished_steps(folder: Path) -> int | None:
    """Return the optimizer steps of a training that came to its end; None where it did not."""
    try:
        step = json.loads((folder / _NOTE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def finished_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that is the result, if training ended and it is whole."""
    step = finished_steps(folder)
    newest, _ = newest_checkpoint(folder)
    return newest if newest is not None and step_of(newest) == step else None
