"""A run's importance matrix: measured by a process of its own, and kept with the run's results."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.export.importance import Importance, read_importance
from llamaforge.export.merged_run import adapter_of
from llamaforge.files import sha256_of
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import safe_line

_KIND: Final = "imatrix"
_NAME: Final = "imatrix.gguf"


def importance_of(
    run: RunDirectory, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Importance:
    """Return the importance matrix of a run's tuned model, measured now unless it is there.

    Also of an adapter that was trained on the full-precision base: it lies over the packed file
    while it is measured, which changes what columns are multiplied with by a rounding only.

    Args:
        run: a run whose adapter is there; the caller holds its lock.
        on_progress: takes the tokens that are read, and all of them.

    Raises:
        RefusedError: the run makes no adapter (`no_adapter`).
        NotFoundError: the run has no adapter.
        LlamaForgeError: it could not be measured; the message says why.
    """
    if not RunSpec.load(run.spec_file).training.makes_adapter:
        raise RefusedError(
            "An importance matrix is measured on the model's own file with an adapter over it, "
            "and this run made none.",
            "Leave out --imatrix.",
            code="no_adapter",
        )
    path = run.artifacts / _NAME
    digest = f"sha256:{sha256_of(adapter_of(run))}"
    kept = _kept(run, path, digest)
    if kept is not None:
        return kept
    _measure(run, path, digest, on_progress)
    run.list_artifact(_KIND, path, sha256_of(path))
    return read_importance(path)


def _kept(run: RunDirectory, path: Path, digest: str) -> Importance | None:
    """Return what was measured before, if it is of the run's present adapter and unchanged."""
    for item in run.artifact_list():
        if item["kind"] == _KIND and Path(item["path"]) == path and path.is_file():
            if sha256_of(path) != item["sha256"]:
                return None
            found = read_importance(path)
            return found if found.adapter_digest == digest else None
    return None


def _measure(
    run: RunDirectory, path: Path, digest: str, on_progress: Callable[[int, int], None]
) -> None:
    command = [sys.executable, "-m", "llamaforge.worker.importance", run.id, str(path)]
    command += ["--adapter-digest", digest]
    last: dict[str, Any] = {}
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=worker_environment(),
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            for line in process.stdout:
                found = _object(line)
                if found is None:
                    said = [*said[-20:], line]
                elif "total" in found:
                    on_progress(int(found["done"]), int(found["total"]))
                else:
                    last = found
        except BaseException:
            process.terminate()
            raise
    error = last.get("error")
    if error is not None:
        raise LlamaForgeError(str(error["message"]), str(error["hint"]), code=str(error["code"]))
    if process.returncode != 0 or "tokens" not in last:
        reason = safe_line((said or [f"it ended with {process.returncode}"])[-1], limit=160)
        raise LlamaForgeError(
            f"The importance matrix could not be measured: {reason}.",
            "Leave out --imatrix, or try again with more memory free.",
            code="no_imatrix",
        )


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
