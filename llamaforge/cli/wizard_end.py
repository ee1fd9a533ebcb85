"""The end of the plain wizard: the checks, the recipe, and the run if it is wanted now."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamaforge.cli.base import fetch
from llamaforge.cli.launching import carry_out, note
from llamaforge.cli.output import narrate, narrate_folded, print_text
from llamaforge.errors import ExitCode, LlamaForgeError, UsageError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.beginning import automatic_name, create, prepare
from llamaforge.wizard.checks import Check, checks
from llamaforge.wizard.draft import Draft, forget_draft, write_recipe
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.measured import measured_checks
from llamaforge.wizard.no_training import write_modelfile
from llamaforge.wizard.questions import advice_for
from llamaforge.wizard.row_files import files_for

if TYPE_CHECKING:
    from llamaforge.cli.wizard_dialogue import Dialogue

_SIGNS: Final = {"pass": "✓", "warn": "!", "fail": "✗"}


def checked(draft: Draft, facts: Facts, *, measures: bool) -> list[Check]:
    """Say what stands for and against the run, with passes of the model where `measures` says so.

    A script measures with `llamaforge plan`.
    """
    found = checks(draft, facts)
    narrate("\nBefore it begins")
    _tell_checks(found)
    if measures and not any(item.verdict == "fail" for item in found):
        measured = measured_checks(draft, facts, lambda words: narrate(f"  {words} …"))
        _tell_checks(measured)
        titles = {item.title for item in measured}
        found = [*(item for item in found if item.title not in titles), *measured]
    return found


def _tell_checks(found: list[Check]) -> None:
    for item in found:
        narrate_folded(f"{_SIGNS[item.verdict]} {item.title}: {safe_line(item.message, limit=300)}")
        if item.hint and item.verdict != "pass":
            narrate_folded(safe_line(item.hint, limit=300), indent=4)


def mended(
    draft: Draft, found: list[Check], dialogue: "Dialogue", declined: set[str]
) -> Draft | None:
    """Return the draft with the first way out that the person takes; None where there is none.

    Args:
        draft: with every answer.
        found: the checks of it.
        dialogue: asks.
        declined: what the person did not want, by the check's words; more is added.
    """
    for item in found:
        words = f"{item.title}: {item.message}"
        if item.fix is None or item.verdict == "pass" or words in declined:
            continue
        if item.fix.fetches:
            try:
                if fetch(item.fix.fetches, agreed=False, as_json=False):
                    return draft
            except LlamaForgeError as error:
                narrate_folded(f"{error.message} {error.hint}")
        elif dialogue.agrees(f"{item.title}: {item.fix.title}?", default=item.verdict == "fail"):
            return draft.with_answers(**item.fix.answers)
        declined.add(words)
    return None


def finished(
    arguments: argparse.Namespace,
    draft: Draft,
    facts: Facts,
    dialogue: "Dialogue | None",
) -> ExitCode:
    """Show all of it, write the recipe, and begin the run if that is wanted.

    Raises:
        UsageError: the recipe is there already, and nobody is there to ask.
        LlamaForgeError: the run cannot begin.
    """
    named = draft.with_whole_paths().with_answers(name=draft.name or automatic_name(draft.model))
    advice = advice_for(named, facts)
    text = named.yaml(advice)
    path: Path = (arguments.recipe or Path(f"{named.name}.yaml")).expanduser().absolute()
    narrate("\nThis is the recipe; nothing has been written yet.\n")
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        narrate(f"  {' ' * indent}{safe_line(line, limit=300)}")
    narrate("\nThe same as a command:")
    print_text(named.command(advice))
    if dialogue is not None and not arguments.yes and not _may_write(path, dialogue):
        narrate("Nothing was written. Your answers are kept for the next time.")
        return ExitCode.INTERRUPTED
    if path.exists() and dialogue is None and not arguments.yes:
        raise UsageError(
            f"{safe_line(str(path))} is there already.", "Name another file with --recipe.",
            code="exists",
        )  # fmt: skip
    write_recipe(path, text)
    narrate(f"The recipe is {path}")
    forget_draft(draft)
    begins = bool(arguments.yes)
    if dialogue is not None and not begins:
        begins = dialogue.agrees("Begin the run now?", default=True)
    if not begins:
        print_text(shlex.join(["llamaforge", "train", str(path)]))
        return ExitCode.DONE
    store = Path(draft.store) if draft.store else None
    prepared = prepare(named.recipe(advice), store=store, numbered=not draft.name, on_note=note)
    return carry_out(create(prepared), detach=False, as_json=False)


def _may_write(path: Path, dialogue: "Dialogue") -> bool:
    verb = "Replace" if path.exists() else "Write"
    shown = path.name if path.parent == Path.cwd() else str(path)
    return dialogue.agrees(f"{verb} {shown}?", default=True)


def without_training(arguments: argparse.Namespace, draft: Draft, facts: Facts) -> ExitCode:
    """Write the Modelfile of a draft that trains nothing, and say what makes a model of it.

    Raises:
        UsageError: there is a file already, and nobody said --yes.
        LlamaForgeError: a source cannot be read.
    """
    name = draft.publish or f"{draft.model.split(':')[0].rsplit('/', 1)[-1]}-mine"
    path: Path = (arguments.recipe or Path("Modelfile")).expanduser().absolute()
    if path.exists() and not arguments.yes:
        raise UsageError(
            f"{safe_line(str(path))} is there already.",
            "Name another file with --recipe, or say --yes to replace it.",
            code="exists",
        )
    commands = write_modelfile(path, draft, files_for(draft, facts.files), name)
    forget_draft(draft)
    narrate(f"The Modelfile is {path}. Make the model and talk to it with:")
    for command in commands:
        print_text(command)
    return ExitCode.DONE
