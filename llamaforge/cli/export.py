"""`llamaforge export RUN --as adapter|gguf|hf|peft`: what a run made, to take along."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.errors import (
    ExitCode,
    InvalidFileError,
    LlamaForgeError,
    RefusedError,
    UsageError,
)
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, size_words

if TYPE_CHECKING:
    from llamaforge.export.importance import Importance
    from llamaforge.export.merged_run import MergedRun
    from llamaforge.recipe.spec import RunSpec
    from llamaforge.runs.directory import RunDirectory

_FOLDERS: Final = ("hf", "peft")
_SAID_SECONDS: Final = 1.0


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "export",
        help="write a run's result as a file or a directory",
        description="Write a run's adapter, or the model with the adapter merged into its weights.",
    )
    add_run(parser)
    parser.add_argument(
        "--as",
        dest="form",
        choices=("adapter", "gguf", "hf", "peft"),
        default="gguf",
        help="adapter: the small file over the model's own; gguf, the default: one file with both "
        "merged; "
        "hf: a directory with both merged, for transformers and vLLM; peft: the adapter for PEFT",
    )
    parser.add_argument(
        "--quant",
        metavar="TYPE",
        help="pack the merged file as Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16, BF16 and so on; "
        "without it every tensor keeps its type",
    )
    parser.add_argument(
        "--imatrix",
        action="store_true",
        help="while packing, weigh each column by what the tuned model multiplies it with in the "
        "training data; to measure that, some ten thousand tokens of it are read once",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="the type of the weights in a directory for transformers; bfloat16 without it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="where it goes; into the run's folder without it"
    )
    parser.add_argument("--force", action="store_true", help="replace what lies there")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Write the file or directory, and print where it is.

    Raises:
        UsageError: there is no such quantisation, or an option belongs to another form.
        NotFoundError: there is no such run, or it has no adapter yet.
        InvalidFileError: the model's file is not the one that was trained on.
        RefusedError: a worker or another export holds the run (`run_locked`), or its result is not
            proven (`not_verified`).
        LlamaForgeError: it could not be written, or llama.cpp does not take it.
    """
    _check_options(arguments)
    from llamaforge.export.merged_run import adapter_of, result_of
    from llamaforge.recipe.spec import RunSpec
    from llamaforge.runs.directory import open_run
    from llamaforge.runs.lock import RunLock
    from llamaforge.runs.proof import require_proof

    directory = open_run(arguments.run_name)
    spec = RunSpec.load(directory.spec_file)
    made = result_of(directory, spec)
    require_proof(directory)
    result: dict[str, Any]
    if arguments.form == "adapter":
        _require_adapter(spec)
        adapter = adapter_of(directory)
        result = _copy(adapter, _target(arguments, adapter, spec.model.files))
    else:
        # Nobody may change or remove the run while it is read and its list is written.
        with RunLock(directory.lock_file):
            if arguments.form in _FOLDERS:
                result = _folder(arguments, directory, made)
            else:
                result = _merge(arguments, directory)
    if arguments.json:
        print_json(result)
    else:
        print_text(result["path"])
    return ExitCode.DONE


def _require_adapter(spec: "RunSpec") -> None:
    """Return if the run made an adapter that llama.cpp can lay over the model's file.

    Raises:
        RefusedError: it did not; the reason is given.
    """
    if spec.training.makes_adapter:
        return
    why = (
        "A GGUF adapter has no place for what DoRA trains beside the two matrices"
        if spec.training.use_peft
        else "Every weight of the model was trained, so there is no adapter"
    )
    raise RefusedError(f"{why}.", "Export it as gguf, or as hf.", code="no_adapter")


def _check_options(arguments: argparse.Namespace) -> None:
    for option, form in (("quant", "gguf"), ("dtype", "hf")):
        if getattr(arguments, option) is not None and arguments.form != form:
            raise UsageError(
                f"--{option} has no meaning with --as {arguments.form}.",
                f"Leave it out, or say --as {form}.",
                code="option",
            )

    if arguments.imatrix and arguments.form != "gguf":
        raise UsageError(
            f"--imatrix has no meaning with --as {arguments.form}.",
            "Leave it out, or say --as gguf.",
            code="option",
        )


def _target(arguments: argparse.Namespace, default: Path, model: Sequence[Path]) -> Path:
    """Return where a file goes; `model` is what was trained on, which stays.

    Raises:
        InvalidFileError: something lies there that must not, or shall not, be replaced.
    """
    chosen: Path | None = arguments.out
    if chosen is None:
        return default
    path = chosen.expanduser().absolute()
    if path.is_dir():
        path /= default.name
    if path.exists() and not arguments.force:
        raise InvalidFileError(
            f"{safe_line(str(path))} is there already.",
            "Name another file, or say --force to replace it.",
            code="exists",
        )
    if path.resolve() in {part.resolve() for part in model}:
        raise InvalidFileError(
            f"{safe_line(str(path))} is the model that was trained; it is never replaced.",
            "Name another file.",
            code="is_the_model",
        )
    return path


def _copy(adapter: Path, target: Path) -> dict[str, Any]:
    from llamaforge.files import sha256_of, write_atomic

    if target != adapter:
        try:
            write_atomic(target, adapter.read_bytes(), mode=0o644)
        except OSError as error:
            raise _unwritable(target, error) from error
    return {
        "kind": "adapter",
        "path": str(target),
        "sha256": sha256_of(target),
        "size_bytes": target.stat().st_size,
    }


def _unwritable(target: Path, error: OSError) -> LlamaForgeError:
    return LlamaForgeError(
        f"{safe_line(str(target))} cannot be written: {error.strerror or type(error).__name__}.",
        "Name another place with --out.",
        code="not_written",
    )


def _folder(
    arguments: argparse.Namespace, directory: "RunDirectory", adapter: Path
) -> dict[str, Any]:
    from llamaforge.cli.export_folder import (
        copy_adapter,
        write_adapter,
        write_model,
        write_tuned_model,
    )
    from llamaforge.export.merged_run import trained_adapter
    from llamaforge.recipe.spec import RunSpec

    chosen: Path | None = arguments.out
    target = directory.artifacts / arguments.form if chosen is None else chosen.expanduser()
    target = target.absolute()
    spec = RunSpec.load(directory.spec_file)
    is_peft, tell = arguments.form == "peft", MergeNarrator().tell
    try:
        if spec.model.full is None:
            trained = trained_adapter(adapter, spec.model)
            made, more = (
                write_adapter(target, spec, trained, arguments)
                if is_peft
                else write_model(target, spec, trained, arguments, tell)
            )
        else:
            made, more = (
                copy_adapter(target, spec, adapter, arguments)
                if is_peft
                else write_tuned_model(target, spec, adapter, arguments, tell)
            )
    except OSError as error:
        raise _unwritable(target, error) from error
    except BaseException:
        narrate("Nothing was written.")
        raise
    directory.list_artifact(arguments.form, made.path, made.sha256)
    return {
        "kind": arguments.form,
        "path": str(made.path),
        "sha256": made.sha256,
        "size_bytes": made.size_bytes,
        "files": list(made.files),
        **more,
    }


def _merge(arguments: argparse.Namespace, directory: "RunDirectory") -> dict[str, Any]:
    from llamaforge.export.merged_run import default_target, merge_run
    from llamaforge.export.mix import check_quantization
    from llamaforge.recipe.spec import RunSpec

    quantization = check_quantization(arguments.quant) if arguments.quant else None
    spec = RunSpec.load(directory.spec_file)
    target = _target(arguments, default_target(directory, quantization), spec.model.files)
    try:
        importance = _importance(directory) if arguments.imatrix else None
        narrator = MergeNarrator()
        made = merge_run(
            directory,
            quantization=quantization,
            target=target,
            importance=importance,
            on_progress=narrator.tell,
            on_check=narrator.tell_check,
        )
    except OSError as error:
        raise _unwritable(target, error) from error
    except BaseException:
        narrate("Nothing was written.")
        raise
    _tell(
        made,
        "the adapter's over the model's own file"
        if spec.model.full is None
        else "those of the model as it was trained in full precision",
    )
    merged = made.merged
    return {
        "kind": "merged",
        "path": str(merged.path),
        "sha256": merged.sha256,
        "size_bytes": merged.size_bytes,
        "quantization": merged.quantization or spec.model.quantization,
        "imatrix_rows": importance.rows if importance else None,
        "check": made.check,
    }


def _importance(directory: "RunDirectory") -> "Importance":
    from llamaforge.export.importance_run import importance_of

    narrate("Measuring what counts, on the rows that were trained …")
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _SAID_SECONDS or done == total:
            told = time.monotonic()
            narrate(f"{done / max(total, 1):4.0%}  {done:,} of {total:,} tokens")

    return importance_of(directory, tell)


def _tell(made: "MergedRun", like: str) -> None:
    merged, found = made.merged, made.check
    narrate(f"{size_words(merged.size_bytes)}, sha256 {merged.sha256[:12]}…, taken by llama.cpp.")
    if "kl_mean" in found:
        narrate(
            f"Its answers are {found['kl_mean']:.2g} nats a token from {like}; the model before is "
            f"{found['kl_base_mean']:.2g} away."
        )


class MergeNarrator:
    """Says every second how much of a merged file is written, and how long the rest will take."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None
        self._said = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        """Take the bytes that are written, and all of them."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        if now - self._said < _SAID_SECONDS and done < total:
            return
        self._said = now
        began, before = self._began
        rest = (now - began) * (total - done) / max(done - before, 1)
        left = f", {duration_words(rest)} left" if before < done < total else ""
        narrate(f"{done / max(total, 1):4.0%}  {size_words(done)} of {size_words(total)}{left}")

    @staticmethod
    def tell_check() -> None:
        """Say that the file is being looked at."""
        narrate("Loading it in llama.cpp …")
