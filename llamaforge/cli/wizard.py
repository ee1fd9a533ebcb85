"""`llamaforge wizard --plain`: from no answer at all to a recipe and a run, one line at a time."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llamaforge.cli.options import add_store
from llamaforge.cli.output import narrate
from llamaforge.errors import ExitCode

if TYPE_CHECKING:
    from llamaforge.cli.wizard_dialogue import Dialogue
    from llamaforge.wizard.draft import Draft


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "wizard",
        help="be asked step by step, and end with a recipe and a run",
        description="Ask for a model, rows, a goal and names, check them, and write a recipe that "
        "llamaforge train runs as it is. Every answer can be given as an option; where there is no "
        "terminal all that are needed must be.",
    )
    parser.add_argument(
        "--plain", action="store_true", help="ask line by line, which this verb always does"
    )
    add_store(parser)
    parser.add_argument("--model", metavar="NAME", help="the model to train")
    parser.add_argument(
        "--from",
        dest="base",
        choices=("gguf", "hub"),
        help="train on the model's own GGUF file (gguf, the default) or on its full-precision "
        "weights (hub)",
    )
    parser.add_argument(
        "--base", dest="full_base", metavar="REPO", help="those weights, as OWNER/NAME or a folder"
    )
    parser.add_argument(
        "--data", nargs="+", dest="sources", metavar="SOURCE", help="files, folders or datasets"
    )
    parser.add_argument("--map", metavar="MAP", help="what the columns are")
    parser.add_argument("--allow-secrets", action="store_true", default=None, help="as in train")
    parser.add_argument(
        "--held-out", metavar="PART", help="the part of the rows that is held back, 0 to 0.5"
    )
    parser.add_argument(
        "--goal", choices=("style", "extract", "domain", "prefer", "prompt"), help="what you want"
    )
    parser.add_argument(
        "--preset", choices=("quick", "balanced", "thorough"), help="how much time it gets"
    )
    parser.add_argument("--set", action="append", dest="settings", metavar="KEY=VALUE")
    parser.add_argument(
        "--probe",
        action="append",
        dest="probes",
        metavar="TEXT",
        help="a question that is answered while it trains; may be given again",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system text, for --goal prompt")
    parser.add_argument("--name", metavar="RUN", help="the run's name")
    parser.add_argument("--publish", metavar="NAME", help="the name in Ollama")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="where the recipe, or the Modelfile, goes"
    )
    parser.add_argument("--yes", action="store_true", help="begin without asking")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask, check, write the recipe, and begin the run if that is wanted.

    Raises:
        UsageError: there is no terminal and an answer is missing; its option is named.
        LlamaForgeError: the machine's models cannot be looked at, or the run cannot begin.
    """
    from llamaforge.cli.wizard_answers import answered, looked, require_all
    from llamaforge.cli.wizard_end import checked, finished, mended, without_training
    from llamaforge.wizard.draft import NO_TRAINING, keep_draft
    from llamaforge.wizard.facts import gathered

    dialogue = _dialogue()
    facts = gathered([arguments.store] if arguments.store else [])
    if facts.note is not None:
        raise facts.note
    draft = _given(arguments)
    if dialogue is not None:
        narrate(f"This machine: {facts.machine.words()}.")
        draft = dialogue.offered(draft)
    else:
        require_all(draft, facts)
    draft, facts = answered(draft, facts, dialogue)
    keep_draft(draft)
    if draft.goal == NO_TRAINING:
        return without_training(arguments, draft, facts)
    found = checked(draft, facts, measures=dialogue is not None)
    declined: set[str] = set()
    while dialogue is not None and (better := mended(draft, found, dialogue, declined)):
        draft = better
        keep_draft(draft)
        facts = looked("rows", draft, replace(facts, base=None))
        facts = looked("base", draft, facts)
        found = checked(draft, facts, measures=True)
    if any(item.verdict == "fail" for item in found):
        narrate("It cannot begin like this. Your answers are kept for the next time.")
        return ExitCode.REFUSED
    return finished(arguments, draft, facts, dialogue)


def _dialogue() -> "Dialogue | None":
    """Return what asks a person; None where there is no terminal to ask on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    from llamaforge.cli.wizard_dialogue import Dialogue

    return Dialogue()


def _given(arguments: argparse.Namespace) -> "Draft":
    """Return the draft of what the command line says."""
    from llamaforge.wizard.draft import Draft

    settings = (item.partition("=") for item in arguments.settings or ())
    return Draft(
        model=arguments.model or "",
        store="" if arguments.store is None else str(arguments.store),
        base="other" if arguments.full_base else arguments.base or "",
        full_base=arguments.full_base or "",
        sources=tuple(arguments.sources or ()),
        map=arguments.map or "",
        allow_secrets=bool(arguments.allow_secrets),
        held_out=arguments.held_out or "",
        goal=arguments.goal or "",
        preset=arguments.preset or "",
        settings={key.strip(): value.strip() for key, _, value in settings},
        probes=tuple(arguments.probes or ()),
        system=arguments.system or "",
        name=arguments.name or "",
        publish=arguments.publish or "",
    )
