"""`llamaforge publish RUN --name NAME[:TAG]`: bring a run's result into Ollama."""

import argparse
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.export import MergeNarrator
from llamaforge.cli.options import add_json
from llamaforge.cli.output import console, narrate, print_json
from llamaforge.errors import ExitCode, RefusedError, UsageError
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words

if TYPE_CHECKING:
    from llamaforge.publishing.request import PublishRequest, PublishResult
    from llamaforge.runs.directory import RunDirectory
    from llamaforge.worker.publication import Way


_STEPS: Final = {
    "adapters_unsupported": "This server takes no adapters: one file with the adapter merged in is "
    "published instead.",
    "measure": "Measuring what counts, on the rows that were trained …",
    "merge": "Writing one file with the adapter merged in …",
    "check": "Loading it in llama.cpp …",
    "upload": "Sending it …",
    "load": "Trying the model …",
}
"""What a publication is doing; other words are the server's own."""
_UNSAID: Final = frozenset({"success"})
"""A server says so of the trial model too; what came of all is said at the end."""


@dataclass(frozen=True)
class ByHand:
    """What a person does where no server answers."""

    modelfile: Path
    commands: list[str]
    """Shell commands, in their order."""
    has_adapter: bool
    """Whether the Modelfile names an adapter, which not every server takes."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "publish",
        help="bring a run's result into Ollama",
        description="Create an Ollama model from a run's verified adapter, or from one file with "
        "both merged where the server takes no adapters, and try it there.",
    )
    parser.add_argument("run_name", metavar="RUN", help="a run's name, or latest")
    parser.add_argument(
        "--name", required=True, metavar="NAME[:TAG]", help="the name of the new model"
    )
    parser.add_argument(
        "--as",
        dest="way",
        choices=("auto", "adapter", "gguf"),
        default="auto",
        help="adapter: the small file over the model's own; gguf: one file with both merged; "
        "auto: the adapter where the server takes one",
    )
    parser.add_argument(
        "--quant",
        metavar="TYPE",
        help="pack the merged file as Q8_0, Q4_K_M and so on; without it every tensor keeps its "
        "type",
    )
    parser.add_argument(
        "--imatrix",
        action="store_true",
        help="while packing the merged file, weigh each column by what the tuned model multiplies "
        "it with in the training data",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that already has the name"
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="send the model to a server that is not on this machine",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before publishing")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Publish, and print what is on the server then.

    Where no server answers, the Modelfile is written and the two commands that do the same by
    hand are printed; the exit code says that nothing was published.

    Raises:
        LlamaForgeError: it was refused or failed; the name still has what it had before.
    """
    from llamaforge.catalog.host import resolve_host
    from llamaforge.publishing.run import run_request
    from llamaforge.runs.directory import open_run
    from llamaforge.runs.lock import RunLock
    from llamaforge.worker.publication import publish_as

    way = _way(arguments)
    directory = open_run(arguments.run_name)
    request = run_request(
        directory,
        arguments.name,
        overwrite=arguments.overwrite,
        allow_remote=arguments.allow_remote,
    )
    if not _confirmed(arguments, request, way, resolve_host().url):
        narrate("Nothing was published.")
        return ExitCode.INTERRUPTED
    narrator = _Narrator()
    with RunLock(directory.lock_file):
        try:
            result = publish_as(
                directory,
                arguments.name,
                way,
                on_progress=narrator.progress,
                quantization=arguments.quant,
                imatrix=arguments.imatrix,
                overwrite=arguments.overwrite,
                allow_remote=arguments.allow_remote,
            )
        except RefusedError as error:
            if error.code != "no_server":
                raise
            if way == "gguf":
                request = _merged_request(arguments, directory, narrator)
            _print_by_hand(arguments, error, write_by_hand(directory, request))
            return ExitCode.FAILED
    _print_result(arguments, directory, result)
    return ExitCode.DONE


def _way(arguments: argparse.Namespace) -> "Way":
    """Return what is published; a type for the merged file asks for one.

    Raises:
        UsageError: there is no such type, or it is given for an adapter.
    """
    from llamaforge.export.mix import check_quantization

    way: Way = arguments.way
    if arguments.quant is None and not arguments.imatrix:
        return way
    if arguments.quant is not None:
        arguments.quant = check_quantization(arguments.quant)
    if way == "adapter":
        option = "--quant" if arguments.quant is not None else "--imatrix"
        raise UsageError(
            f"{option} is for the merged file; an adapter is not packed.",
            f"Leave one of them out: --as adapter, or {option}.",
        )
    return "gguf"


def _merged_request(
    arguments: argparse.Namespace, run: "RunDirectory", narrator: "_Narrator"
) -> "PublishRequest":
    from llamaforge.publishing.run import run_request
    from llamaforge.worker.publication import merged_for_ollama

    merged = merged_for_ollama(run, arguments.quant, narrator.progress, imatrix=arguments.imatrix)
    return run_request(run, arguments.name, merged=merged)


def write_by_hand(run: "RunDirectory", request: "PublishRequest") -> ByHand:
    """Write the run's `artifacts/Modelfile` and return it with the commands that use it.

    Raises:
        RefusedError: something cannot be written in a Modelfile.
    """
    from llamaforge.export.modelfile import modelfile_over, modelfile_text, two_commands
    from llamaforge.files import write_atomic
    from llamaforge.recipe.spec import RunSpec

    if request.form == "adapter":
        text = modelfile_over(RunSpec.load(run.spec_file).model, request.file)
    else:
        text = modelfile_text(
            request.file,
            None,
            template=request.template,
            system=request.system,
            parameters=request.parameters,
            messages=request.messages or (),
            licenses=request.licenses,
            renderer=request.renderer,
            parser=request.parser,
        )
    path = run.artifacts / "Modelfile"
    write_atomic(path, text)
    return ByHand(path, two_commands(request.name, path), request.form == "adapter")


def _confirmed(
    arguments: argparse.Namespace, request: "PublishRequest", way: "Way", url: str
) -> bool:
    """Return whether to go on; only a person at a terminal is asked."""
    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    replaced = ", replacing what has that name" if request.overwrite else ""
    base, size = safe_line(request.base), size_words(request.file.stat().st_size)
    what = f"The adapter ({size}) over {base}"
    if way == "auto":
        what += ", or one file with both merged where the server takes no adapters,"
    if way == "gguf":
        what = f"{base} with the adapter merged in, as a file of its own,"
    narrate(
        f"{what} becomes {safe_line(request.name)} on {safe_line(url)}{replaced}. Publish? [Y/n]"
    )
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}


class _Narrator:
    """Says each step once; a merged file is counted, the pieces of an upload are not."""

    def __init__(self) -> None:
        self._said = ""
        self._merging = MergeNarrator()

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the progress of a publication."""
        if what != self._said:
            self._said = what
            if what not in _UNSAID:
                narrate(_STEPS.get(what, what))
        if what == "merge":
            self._merging.tell(done, total)


def _print_result(
    arguments: argparse.Namespace, run: "RunDirectory", result: "PublishResult"
) -> None:
    if result.base_checked is False:
        narrate(f"The server does not tell which file {result.base} is: that was not compared.")
    if result.leftover:
        narrate(f"A trial model is left over; delete it with: ollama rm {result.leftover}")
    if result.left_out:
        narrate(
            f"The {' and the '.join(result.left_out)} of {safe_line(result.base)} did not go "
            "along: this server does not take it beside a merged file."
        )
    if arguments.json:
        print_json(asdict(result) | {"run": run.id, "published": True})
        return
    answer = safe_line(result.answer, limit=200)
    _print(f"{result.name} is on {safe_line(result.server)} ({result.digest[:12]}).")
    _print(f"It answers a greeting with: {answer or 'nothing'}")
    _print(f"Use it: {shlex.join(['ollama', 'run', result.name])}")


def _print_by_hand(arguments: argparse.Namespace, error: RefusedError, by_hand: ByHand) -> None:
    narrate(f"{error.message} Nothing was published. {error.hint}")
    body: dict[str, Any] = {
        "published": False,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "modelfile": str(by_hand.modelfile),
        "commands": by_hand.commands,
    }
    if arguments.json:
        print_json(body)
        return
    narrate("Or do it by hand once a server runs:")
    for command in by_hand.commands:
        _print(command)
    if by_hand.has_adapter:
        narrate("Ollama takes adapters in versions 0.30.0 to 0.34.0; for others, add: --as gguf")


def _print(line: str) -> None:
    # Unwrapped: a command that was folded could not be pasted.
    console().print(line, markup=False, highlight=False, soft_wrap=True)
