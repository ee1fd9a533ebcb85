"""`llamaforge publish RUN --name NAME[:TAG]`: bring a run's adapter into Ollama."""

import argparse
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaforge.cli.options import add_json
from llamaforge.cli.output import console, narrate, print_json
from llamaforge.errors import ExitCode, RefusedError
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from llamaforge.publishing.request import PublishRequest, PublishResult
    from llamaforge.runs.directory import RunDirectory


@dataclass(frozen=True)
class ByHand:
    """What a person does where no server answers."""

    modelfile: Path
    commands: list[str]
    """Shell commands, in their order."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "publish",
        help="bring a run's result into Ollama",
        description="Create an Ollama model from a run's verified adapter, and try it there.",
    )
    parser.add_argument("run_name", metavar="RUN", help="a run's name, or latest")
    parser.add_argument(
        "--name", required=True, metavar="NAME[:TAG]", help="the name of the new model"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that already has the name"
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="send the adapter to a server that is not on this machine",
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
    from llamaforge.publishing.ollama import publish
    from llamaforge.publishing.run import run_request
    from llamaforge.runs.directory import open_run
    from llamaforge.runs.lock import RunLock

    directory = open_run(arguments.run_name)
    request = run_request(
        directory,
        arguments.name,
        overwrite=arguments.overwrite,
        allow_remote=arguments.allow_remote,
    )
    if not _confirmed(arguments, request, resolve_host().url):
        narrate("Nothing was published.")
        return ExitCode.INTERRUPTED
    with RunLock(directory.lock_file):
        try:
            result = publish(
                request, journal=directory.journal_file, on_progress=_Narrator().progress
            )
        except RefusedError as error:
            if error.code != "no_server":
                raise
            _print_by_hand(arguments, error, write_by_hand(directory, request))
            return ExitCode.FAILED
    _print_result(arguments, directory, result)
    return ExitCode.DONE


def write_by_hand(run: "RunDirectory", request: "PublishRequest") -> ByHand:
    """Write the run's `artifacts/Modelfile` and return it with the commands that use it.

    Raises:
        RefusedError: the adapter's path cannot be written in a Modelfile.
    """
    from llamaforge.export.modelfile import modelfile_over, two_commands
    from llamaforge.files import write_atomic
    from llamaforge.recipe.spec import RunSpec

    path = run.artifacts / "Modelfile"
    write_atomic(path, modelfile_over(RunSpec.load(run.spec_file).model, request.adapter))
    return ByHand(path, two_commands(request.name, path))


def _confirmed(arguments: argparse.Namespace, request: "PublishRequest", url: str) -> bool:
    """Return whether to go on; only a person at a terminal is asked."""
    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    size = request.adapter.stat().st_size
    replaced = ", replacing what has that name" if request.overwrite else ""
    narrate(
        f"The adapter ({size / 1e6:.1f} MB) over {safe_line(request.base)} becomes "
        f"{safe_line(request.name)} on {safe_line(url)}{replaced}. Publish? [Y/n]"
    )
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}


class _Narrator:
    """Says each step once; the pieces of an upload are not steps."""

    def __init__(self) -> None:
        self._said = ""

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the progress of a publication."""
        del done, total
        if what != self._said:
            self._said = what
            narrate({"upload": "sending the adapter", "load": "trying the model"}.get(what, what))


def _print_result(
    arguments: argparse.Namespace, run: "RunDirectory", result: "PublishResult"
) -> None:
    if not result.base_checked:
        narrate(f"The server does not tell which file {result.base} is: that was not compared.")
    if result.leftover:
        narrate(f"A trial model is left over; delete it with: ollama rm {result.leftover}")
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


def _print(line: str) -> None:
    # Unwrapped: a command that was folded could not be pasted.
    console().print(line, markup=False, highlight=False, soft_wrap=True)
