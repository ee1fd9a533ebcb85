"""Which checkpoint is the result of a training that came to its end."""

import json
from pathlib import Path
from typing import Any, Final

from llamaforge.files import write_json
from llamaforge.training.best import best_checkpoint
from llamaforge.training.checkpoints import newest_checkpoint, step_of

ADAPTER_FILE: Final = "adapter_model.safetensors"
"""PEFT's name for the weights of an adapter, inside a checkpoint."""
_NOTE: Final = "finished.json"


def note_finished(folder: Path, step: int, *, best: bool = False) -> None:
    """Note that training ended after `step`, whose checkpoint is in `folder`.

    With `best`, the result is the checkpoint that was kept as the best one, if there is one.
    """
    write_json(folder / _NOTE, {"step": step, "best": best})


def finished_steps(folder: Path) -> int | None:
    """Return the optimizer steps of a training that came to its end; None where it did not."""
    step = _noted(folder).get("step")
    return step if isinstance(step, int) else None


def finished_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that is the result, if training ended and it is whole."""
    step = finished_steps(folder)
    newest, _ = newest_checkpoint(folder)
    if newest is None or step_of(newest) != step:
        return None
    best = best_checkpoint(folder) if _noted(folder).get("best") else None
    return best or newest


def _noted(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
