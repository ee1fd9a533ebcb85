"""A run on a full-precision base: what it learned, as its files have it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import (
    ExitCode,
    InvalidFileError,
    LlamaForgeError,
    NotFoundError,
    RefusedError,
)
from llamaforge.export.base_tensors import BaseTensors
from llamaforge.export.dense import DenseWeights
from llamaforge.export.layout import Layout
from llamaforge.export.learned import read_learned, tuned_weights
from llamaforge.files import sha256_of
from llamaforge.gguf.header import Header
from llamaforge.recipe.spec import ResolvedBase, RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import safe_line

LEARNED: Final = "learned"
"""The kind of the artifact: PEFT's weights of an adapter, or all weights of the model."""
FOLDER: Final = "learned"
"""Where it lies among the artifacts."""
_LAYOUT_SECONDS: Final = 600.0


def learned_file(run: RunDirectory) -> Path:
    """Return the file of what the run learned on its base.

    Raises:
        NotFoundError: there is none yet (`no_adapter`).
        InvalidFileError: it is not what the run made (`adapter_changed`).
    """
    item = next((item for item in run.artifact_list() if item["kind"] == LEARNED), None)
    if item is None:
        raise NotFoundError(
            f"The run {run.id} has no result yet.",
            f"Let it go on to its end: llamaforge runs resume {run.id}",
            code="no_adapter",
        )
    path = Path(item["path"])
    if sha256_of(path) != item["sha256"]:
        raise InvalidFileError(
            f"{safe_line(path.name)} changed after it was made.",
            "Train again; what is in it now was never verified.",
            code="adapter_changed",
        )
    return path


def base_of(spec: RunSpec) -> ResolvedBase:
    """Return the base of a run that was trained on one.

    Raises:
        NotFoundError: its files are gone (`missing_base`).
    """
    full = spec.model.full
    if full is None:
        raise ValueError("the run was trained on the model's own file")
    if not full.folder.is_dir():
        raise NotFoundError(
            f"The base {safe_line(full.repo)} is no longer in {safe_line(str(full.folder))}.",
            f"Fetch it again: llamaforge base {safe_line(spec.model.name)} --download",
            code="missing_base",
        )
    return full


def tuned_of(spec: RunSpec, learned: Path, layout: Layout) -> DenseWeights:
    """Return the base's weights with what the run learned in them.

    Raises:
        NotFoundError: the base is gone.
        InvalidFileError: what was learned does not fit it.
    """
    if not spec.training.use_peft:
        return DenseWeights(learned.parent)
    changes = read_learned(learned, spec.training)
    return tuned_weights(base_of(spec).folder, layout.model_type, changes)


def tuned_tensors(spec: RunSpec, learned: Path, header: Header) -> BaseTensors:
    """Return the same as tensors of the model's own file, which has `header`.

    Raises:
        LlamaForgeError: as `tuned_of` and `ask_layout`.
    """
    layout = ask_layout(header.files)
    return BaseTensors(header, layout, tuned_of(spec, learned, layout))


def ask_layout(files: Sequence[Path]) -> Layout:
    """Ask a process of its own, which loads transformers, how the model is laid out.

    Raises:
        RefusedError: it cannot be exported; the process says why.
        LlamaForgeError: the process failed.
    """
    found = ask_worker("layout", *map(str, files), seconds=_LAYOUT_SECONDS)
    return Layout.model_validate(found)


def ask_worker(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
    """Return what `python -m llamaforge.worker.<module>` prints as JSON on its last line.

    Raises:
        RefusedError, LlamaForgeError: the process says so in `error`, or it failed (`no_answer`).
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-m", f"llamaforge.worker.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=worker_environment(),
            timeout=seconds,
            check=False,
        )
        found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise LlamaForgeError(
            f"The model was not looked at within {seconds:,.0f} seconds.",
            "Close other programs and try again.",
            code="no_answer",
        ) from None
    except (ValueError, IndexError):
        last = safe_line((answer.stderr.strip().splitlines() or ["nothing was said"])[-1])
        raise LlamaForgeError(
            f"The model could not be looked at: {last}.",
            "Close other programs and try again, or use the adapter.",
            code="no_layout",
        ) from None
    if "error" in found:
        error = found["error"]
        kind = RefusedError if error["exit_code"] == ExitCode.REFUSED else LlamaForgeError
        raise kind(error["message"], error["hint"], code=error["code"])
    return found
