"""`llamaforge export RUN --as adapter|gguf|hf|peft`: what a run made, to take along."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge import __version__
from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.errors import (
    ExitCode,
    InvalidFileError,
    LlamaForgeError,
    NotFoundError,
    UsageError,
)
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, size_words

if TYPE_CHECKING:
    from llamaforge.export.merged import Merged
    from llamaforge.recipe.spec import RunSpec
    from llamaforge.runs.directory import RunDirectory

_FOLDERS: Final = ("hf", "peft")
_SAID_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 3600.0


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
        help="adapter: the small file over the model's own; gguf: one file with both merged; "
        "hf: a directory with both merged, for transformers and vLLM; peft: the adapter for PEFT",
    )
    parser.add_argument(
        "--quant",
        metavar="TYPE",
        help="pack the merged file as Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16, BF16 and so on; "
        "without it every tensor keeps its type",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="the type of the weights in a directory for transformers; bfloat16 without it",
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="where it goes")
    parser.add_argument("--force", action="store_true", help="replace what lies there")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Write the file or directory, and print where it is.

    Raises:
        UsageError: there is no such quantisation, or an option belongs to another form.
        NotFoundError: there is no such run, or it has no adapter yet.
        InvalidFileError: the model's file is not the one that was trained on.
        LlamaForgeError: it could not be written, or llama.cpp does not take it.
    """
    _check_options(arguments)
    from llamaforge.recipe.spec import RunSpec
    from llamaforge.runs.directory import open_run

    directory = open_run(arguments.run_name)
    spec = RunSpec.load(directory.spec_file)
    adapter = _adapter_of(directory)
    if arguments.form == "adapter":
        target = _target(arguments, directory.artifacts / "adapter.gguf")
        if target != adapter:
            shutil.copyfile(adapter, target)
        result: dict[str, Any] = {"kind": "adapter", "path": str(target)}
    elif arguments.form in _FOLDERS:
        result = _folder(arguments, directory, spec, adapter)
    else:
        result = _merge(arguments, directory, spec, adapter)
    if arguments.json:
        print_json(result)
    else:
        print_text(result["path"])
    return ExitCode.DONE


def _check_options(arguments: argparse.Namespace) -> None:
    for option, form in (("quant", "gguf"), ("dtype", "hf")):
        if getattr(arguments, option) is not None and arguments.form != form:
            raise UsageError(
                f"--{option} has no meaning with --as {arguments.form}.",
                f"Leave it out, or say --as {form}.",
                code="option",
            )


def _adapter_of(directory: "RunDirectory") -> Path:
    for item in directory.artifact_list():
        if item["kind"] == "adapter":
            return Path(item["path"])
    raise NotFoundError(
        f"The run {directory.id} has no adapter yet.",
        f"Let it go on to its end: llamaforge runs resume {directory.id}",
        code="no_adapter",
    )


def _target(arguments: argparse.Namespace, default: Path) -> Path:
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
    return path


def _folder(
    arguments: argparse.Namespace, directory: "RunDirectory", spec: "RunSpec", adapter: Path
) -> dict[str, Any]:
    from llamaforge.cli.export_folder import write_adapter, write_model
    from llamaforge.gguf.header import read_header

    chosen: Path | None = arguments.out
    target = directory.artifacts / arguments.form if chosen is None else chosen.expanduser()
    target = target.absolute()
    trained = read_header(adapter)
    _check_same_base(spec, str(trained.get("llamaforge.base.digest", "")))
    try:
        if arguments.form == "peft":
            made, more = write_adapter(target, spec, trained, arguments)
        else:
            made, more = write_model(target, spec, trained, arguments, _Narrator().tell)
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


def _merge(
    arguments: argparse.Namespace, directory: "RunDirectory", spec: "RunSpec", adapter: Path
) -> dict[str, Any]:
    from llamaforge.export.merged import Provenance, write_merged
    from llamaforge.export.mix import check_quantization
    from llamaforge.gguf.header import read_header

    quantization = check_quantization(arguments.quant) if arguments.quant else None
    name = f"merged-{quantization}.gguf" if quantization else "merged.gguf"
    target = _target(arguments, directory.artifacts / name)
    trained = read_header(adapter)
    _check_same_base(spec, str(trained.get("llamaforge.base.digest", "")))
    about = Provenance(
        name=directory.id,
        run=directory.id,
        base=spec.model.name,
        base_digest=spec.model.digest,
        program=f"LlamaForge {__version__}",
    )
    narrator = _Narrator()
    try:
        made = write_merged(
            target,
            read_header(spec.model.blob),
            trained,
            about,
            quantization=quantization,
            on_progress=narrator.tell,
        )
    except BaseException:
        narrate("Nothing was written.")
        raise
    found = _checked(made, spec, adapter)
    directory.list_artifact("merged", made.path, made.sha256)
    _tell(made, found)
    return {
        "kind": "merged",
        "path": str(made.path),
        "sha256": made.sha256,
        "size_bytes": made.size_bytes,
        "quantization": made.quantization or spec.model.quantization,
        "check": found,
    }


def _check_same_base(spec: "RunSpec", said: str) -> None:
    """Refuse to merge into another file than the one that was trained on."""
    if said and said != spec.model.digest:
        raise InvalidFileError(
            "The adapter was trained on another file than the run says.",
            "Train again; the run's directory was changed.",
            code="wrong_adapter",
        )
    if not spec.model.blob.is_file():
        raise NotFoundError(
            f"The model's file {safe_line(str(spec.model.blob))} is gone.",
            f"Pull the model again: ollama pull {safe_line(spec.model.name)}",
            code="missing_blob",
        )


def _checked(made: "Merged", spec: "RunSpec", adapter: Path) -> dict[str, Any]:
    """Let llama.cpp load the file, in a process of its own, and compare; remove it if it cannot.

    Raises:
        LlamaForgeError: llama.cpp does not take the file.
    """
    from llamaforge.runs.launcher import worker_environment

    narrate("Loading it in llama.cpp …")
    command = [sys.executable, "-m", "llamaforge.evaluation.check_file", str(made.path)]
    command += ["--like", str(spec.model.blob), "--adapter", str(adapter)]
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
    try:
        found = json.loads(answer.stdout.splitlines()[-1])
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


def _tell(made: "Merged", found: dict[str, Any]) -> None:
    narrate(f"{size_words(made.size_bytes)}, sha256 {made.sha256[:12]}…, taken by llama.cpp.")
    if "kl_mean" in found:
        narrate(
            f"Its answers are {found['kl_mean']:.2g} nats a token from the adapter's over the "
            f"model's own file; the model without the adapter is {found['kl_base_mean']:.2g} away."
        )


class _Narrator:
    """Says every second how much is written, and how long the rest will take."""

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
