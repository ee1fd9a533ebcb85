"""`llamaforge verify RUN`: the proof that what is served is what was trained."""

import argparse
import json
from typing import Any

from llamaforge.cli.options import add_json, add_run
from llamaforge.cli.output import print_json
from llamaforge.errors import ExitCode, InvalidFileError, NotFoundError


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "verify",
        help="show the proof that a run's adapter is served as it was trained",
        description="Show how far what llama.cpp serves is from what was trained. The exit code "
        "is 0 if the proof is passed and 1 if not.",
    )
    add_run(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the run's `verify.json`.

    Raises:
        NotFoundError: there is no such run, or it is not verified yet.
        InvalidFileError: the report cannot be read, or what was proven has changed since.
    """
    from llamaforge.cli.report import fidelity_of, print_fidelity
    from llamaforge.runs.directory import open_run
    from llamaforge.runs.proof import require_unchanged

    directory = open_run(arguments.run_name)
    path = directory.artifacts / "verify.json"
    try:
        figures: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(
            f"The adapter of {directory.id} is not verified yet.",
            f"Let the run go on to its end: llamaforge runs resume {directory.id}",
            code="not_verified",
        ) from None
    except (OSError, ValueError):
        figures = None
    fidelity = fidelity_of(figures)
    if fidelity is None:
        raise InvalidFileError(
            f"The report {path} is not what verification writes.",
            f"Remove it, then: llamaforge runs resume {directory.id}",
        )
    require_unchanged(directory)
    if arguments.json:
        print_json(figures)
    else:
        print_fidelity(fidelity)
    return ExitCode.DONE if fidelity.passed else ExitCode.FAILED
