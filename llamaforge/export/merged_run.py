"""A finished run as one merged GGUF: written, loaded in llama.cpp, compared, and listed."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge import __version__
from llamaforge.errors import InvalidFileError, LlamaForgeError, NotFoundError
from llamaforge.export.adapter import BASE_DIGEST_KEY
from llamaforge.export.base_run import learned_file, tuned_tensors
from llamaforge.export.importance import Importance
from llamaforge.export.merged import (
    ADAPTER_DIGEST_KEY,
    IMPORTANCE_ROWS_KEY,
    Merged,
    Provenance,
    file_type,
    write_merged,
)
from llamaforge.export.mix import check_quantization
from llamaforge.files import sha256_of
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.spec import ResolvedModel, RunSpec, merged_name
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import safe_line

_CHECK_SECONDS: Final = 3600.0
_KIND: Final = "merged"


@dataclass(frozen=True)
class MergedRun:
    """A merged file, and what llama.cpp made of it."""

    merged: Merged
    check: dict[str, Any]
    """`loads`; and `kl_mean` and `kl_base_mean`, nats a token: how far the file's answers are from
    those of the adapter over the model's own file, or of the model as it was trained in full
    precision; and how far the model without it is."""

    @property
    def loses_what_was_learned(self) -> bool:
        """Whether packing the weights anew changed answers more than training had."""
        # What is no number is no proof that anything was kept.
        kept = self.check.get("kl_mean", 0.0) < self.check.get("kl_base_mean", float("inf"))
        return not kept


def default_target(run: RunDirectory, quantization: str | None) -> Path:
    """Return where a run's merged file lies, if no other place is named."""
    return run.artifacts / merged_name(quantization)


def adapter_of(run: RunDirectory) -> Path:
    """Return the run's adapter.

    Raises:
        NotFoundError: there is none yet.
        InvalidFileError: it is not what the run made.
    """
    for item in run.artifact_list():
        if item["kind"] == "adapter":
            path = Path(item["path"])
            if sha256_of(path) != item["sha256"]:
                raise InvalidFileError(
                    f"{safe_line(path.name)} changed after it was made.",
                    "Train again; what is in it now was never verified.",
                    code="adapter_changed",
                )
            return path
    raise NotFoundError(
        f"The run {run.id} has no adapter yet.",
        f"Let it go on to its end: llamaforge runs resume {run.id}",
        code="no_adapter",
    )


def merge_run(
    run: RunDirectory,
    *,
    quantization: str | None = None,
    target: Path | None = None,
    reuse: bool = False,
    importance: Importance | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_check: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> MergedRun:
    """Write the run's merged file, let llama.cpp judge it, and list it among the run's artifacts.

    Args:
        run: a run whose adapter is there.
        quantization: one of `mix.FILE_TYPES`; None keeps the type of every tensor.
        target: where it goes; None is `default_target`.
        reuse: take the file that is listed, if it is unchanged, instead of writing it again.
        importance: how much an error in each column counts, where that was measured.
        on_progress: takes the bytes that are written, and all of them.
        on_check: called when the file is written, before llama.cpp loads it.
        stopped: asked between rows; True ends it without a file.

    Raises:
        UsageError: there is no such quantisation.
        NotFoundError: the run has no adapter, or the model's file is gone.
        InvalidFileError: the adapter is damaged, changed or was trained on another file.
        LlamaForgeError: it could not be written, or llama.cpp does not take it; it is removed.
    """
    quantization = check_quantization(quantization) if quantization else None
    made = write_run_merged(
        run,
        quantization=quantization,
        target=target,
        reuse=reuse,
        importance=importance,
        on_progress=on_progress,
        stopped=stopped,
    )
    on_check()
    spec = RunSpec.load(run.spec_file)
    if spec.model.full is None:
        check = _checked(made, _held_against_adapter(made, spec.model.files, adapter_of(run)))
    else:
        check = _checked(made, _held_against_base(made, run))
    run.list_artifact(_KIND, made.path, made.sha256, beside=True)
    return MergedRun(made, check)


def write_run_merged(
    run: RunDirectory,
    *,
    quantization: str | None = None,
    target: Path | None = None,
    reuse: bool = False,
    importance: Importance | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Merged:
    """Write the run's merged file, which nobody has judged yet; arguments as for `merge_run`.

    A run on the full-precision base merges into that; others into the model's own file.

    Raises:
        NotFoundError, InvalidFileError, LlamaForgeError: as `merge_run`.
    """
    spec = RunSpec.load(run.spec_file)
    result = result_of(run, spec)
    path = default_target(run, quantization) if target is None else target
    require_blob(spec.model)
    base = read_model(spec.model.blob, spec.model.files)
    about = _provenance(run, spec.model, result)
    made = _listed(run, path, base, about, quantization, importance) if reuse else None
    if made is not None:
        return made
    on_file = spec.model.full is None
    return write_merged(
        path,
        base,
        trained_adapter(result, spec.model) if on_file else None,
        about,
        full=None if on_file else tuned_tensors(spec, result, base),
        quantization=quantization,
        importance=importance,
        on_progress=on_progress,
        stopped=stopped,
    )


def result_of(run: RunDirectory, spec: RunSpec) -> Path:
    """Return the file that the run's merged file is made of.

    Raises:
        NotFoundError: there is none yet.
        InvalidFileError: it is not what the run made.
    """
    return adapter_of(run) if spec.model.full is None else learned_file(run)


def _listed(
    run: RunDirectory,
    path: Path,
    base: Header,
    about: Provenance,
    quantization: str | None,
    importance: Importance | None,
) -> Merged | None:
    """Return the listed file at `path`, if it is unchanged and made of this adapter in this way."""
    for item in run.artifact_list():
        if item["kind"] == _KIND and Path(item["path"]) == path and path.is_file():
            size, sha256 = path.stat().st_size, sha256_of(path)
            weighed = None if importance is None else importance.rows
            if sha256 == item["sha256"] and _is_made_so(path, base, about, quantization, weighed):
                return Merged(path, sha256, size, quantization or "")
    return None


def _is_made_so(
    path: Path, base: Header, about: Provenance, quantization: str | None, weighed: int | None
) -> bool:
    """Return whether a file was made as asked; `weighed` are the rows of an importance matrix."""
    header = read_header(path)
    said = (BASE_DIGEST_KEY, ADAPTER_DIGEST_KEY, "general.file_type", IMPORTANCE_ROWS_KEY)
    wanted = (about.base_digest, about.adapter_digest, file_type(base, quantization), weighed)
    return tuple(header.get(key) for key in said) == wanted


def require_blob(model: ResolvedModel) -> None:
    """Return if the model's file is there.

    Raises:
        NotFoundError: it is gone.
    """
    gone = next((path for path in model.files if not path.is_file()), None)
    if gone is not None:
        raise NotFoundError(
            f"The model's file {safe_line(str(gone))} is gone.",
            f"Pull the model again: ollama pull {safe_line(model.name)}",
            code="missing_blob",
        )


def trained_adapter(adapter: Path, model: ResolvedModel) -> Header:
    """Return the header of an adapter, if it and the file that it was trained on are there.

    Raises:
        NotFoundError: the model's file is gone.
        InvalidFileError: the adapter was trained on another file.
    """
    require_blob(model)
    header = read_header(adapter)
    said = str(header.get(BASE_DIGEST_KEY, ""))
    if said and said != model.digest:
        raise InvalidFileError(
            "The adapter was trained on another file than the run says.",
            "Train again; the run's directory was changed.",
            code="wrong_adapter",
        )
    return header


def _provenance(run: RunDirectory, model: ResolvedModel, adapter: Path) -> Provenance:
    return Provenance(
        name=run.id,
        run=run.id,
        base=model.name,
        base_digest=model.digest,
        program=f"LlamaForge {__version__}",
        adapter_digest=f"sha256:{sha256_of(adapter)}",
    )


def _held_against_adapter(made: Merged, like: Sequence[Path], adapter: Path) -> list[str]:
    """Return what compares the file with the adapter over the model's own files."""
    command = ["llamaforge.evaluation.check_file", str(made.path)]
    return [*command, "--like", *map(str, like), "--adapter", str(adapter)]


def _held_against_base(made: Merged, run: RunDirectory) -> list[str]:
    """Return what compares the file with the model as it was trained, in full precision."""
    return ["llamaforge.worker.check_merged", str(run.path), str(made.path)]


def _checked(made: Merged, command: list[str]) -> dict[str, Any]:
    """Let llama.cpp load the file, in a process of its own, and compare; remove it if it cannot.

    Raises:
        LlamaForgeError: llama.cpp does not take the file.
    """
    command = [sys.executable, "-m", *command]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=worker_environment(),
            timeout=_CHECK_SECONDS,
            check=False,
        )
        found = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = {"loads": False, "message": f"it took more than {_CHECK_SECONDS:,.0f} seconds."}
    except (ValueError, IndexError):
        found = {"loads": False, "message": f"it ended with {answer.returncode}."}
    if not found.get("loads"):
        made.path.unlink(missing_ok=True)
        raise LlamaForgeError(
            f"llama.cpp does not take the merged file: {safe_line(found.get('message', ''))}",
            "It was removed. Export with another --quant, or use the adapter.",
            code="not_loadable",
        )
    return dict(found)
