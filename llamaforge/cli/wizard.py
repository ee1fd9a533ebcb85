"""`llamaforge wizard --plain`: from no answer at all to a recipe and a run, one line at a time."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.options import add_store
from llamaforge.cli.output import narrate, print_text
from llamaforge.errors import ExitCode, UsageError
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamaforge.wizard.checks import Check, Fix
    from llamaforge.wizard.draft import Draft
    from llamaforge.wizard.facts import Facts
    from llamaforge.wizard.question import Question

_WIDTH: Final = 74
"""Characters of a line of a menu in a terminal of 80."""
_SIGNS: Final = {"pass": "✓", "warn": "!", "fail": "✗"}


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
    from llamaforge.wizard.draft import NO_TRAINING, forget_draft, keep_draft
    from llamaforge.wizard.facts import gathered

    dialogue = _Dialogue() if sys.stdin.isatty() and sys.stderr.isatty() else None
    facts = gathered([arguments.store] if arguments.store else [])
    if facts.note is not None:
        raise facts.note
    draft = _given(arguments)
    if dialogue is not None:
        narrate(f"This machine: {facts.machine.words()}.")
        draft = dialogue.offered(draft)
    else:
        _require_all(draft, facts)
    draft, facts = _answered(draft, facts, dialogue)
    keep_draft(draft)
    if draft.goal == NO_TRAINING:
        return _without_training(arguments, draft)
    found = _checked(draft, facts, measures=dialogue is not None)
    while dialogue is not None:
        fix = dialogue.mended(found)
        if fix is None:
            break
        draft = draft.with_answers(**fix.answers)
        keep_draft(draft)
        facts = _looked("base", draft, _looked("rows", draft, facts))
        found = _checked(draft, facts, measures=True)
    if any(item.verdict == "fail" for item in found):
        narrate("It cannot begin like this. Your answers are kept for the next time.")
        return ExitCode.REFUSED
    code = _finished(arguments, draft, facts, dialogue)
    forget_draft(draft)
    return code


def _given(arguments: argparse.Namespace) -> "Draft":
    """Return the draft of what the command line says."""
    from llamaforge.wizard.draft import Draft
    from llamaforge.wizard.questions import settings_of

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
        settings=settings_of(" ".join(arguments.settings or ())),
        probes=tuple(arguments.probes or ()),
        system=arguments.system or "",
        name=arguments.name or "",
        publish=arguments.publish or "",
    )


def _answered(
    draft: "Draft", facts: "Facts", dialogue: "_Dialogue | None"
) -> tuple["Draft", "Facts"]:
    """Return the draft with every question answered, and the facts with the rows' report."""
    from llamaforge.wizard.questions import STEPS

    for step in STEPS:
        if dialogue is not None:
            narrate(f"\n{step.title}. {step.purpose}")
        for question in step.questions:
            facts = _looked(question.needs, draft, facts)
            if not question.applies(draft, facts):
                continue
            given = getattr(draft, question.key)
            if given and question.kind.value != "yes_no":
                _require(question, given, draft, facts)
                draft = draft.with_answers(**_again(question, given, facts))
                facts = _looked(question.looks, draft, facts)
                _require_judged(question, draft, facts)
                continue
            draft, facts = _ask(question, draft, facts, dialogue)
            if question.key == "held_out" and dialogue is not None and dialogue.wants_to_see():
                _show_row(draft)
    return draft, facts


def _ask(
    question: "Question", draft: "Draft", facts: "Facts", dialogue: "_Dialogue | None"
) -> tuple["Draft", "Facts"]:
    """Return the draft with one more answer, and the facts with what was looked at because of it.

    Without a dialogue it is the usual answer.
    """
    from llamaforge.wizard.draft import keep_draft
    from llamaforge.wizard.questions import taken

    if dialogue is None:
        if question.is_optional or question.kind.value == "yes_no":
            return draft, facts
        answer = _default(question, draft, facts)
        draft = draft.with_answers(**taken(question, answer, facts))
        facts = _looked(question.looks, draft, facts)
        _require_judged(question, draft, facts)
        return draft, facts
    while True:
        draft = draft.with_answers(**taken(question, dialogue.ask(question, draft, facts), facts))
        keep_draft(draft)
        facts = _looked(question.looks, draft, facts)
        problem = question.judged(draft, facts)
        if not problem:
            return draft, facts
        narrate(problem)


def _again(question: "Question", given: Any, facts: "Facts") -> "Mapping[str, Any]":
    """Return what an answer that was given before changes in the draft, now that more is known."""
    from llamaforge.wizard.questions import taken

    return taken(question, given, facts) if question.key == "goal" else {}


def _looked(name: str, draft: "Draft", facts: "Facts") -> "Facts":
    """Return the facts with what has to be looked at by now, and say what was seen."""
    from llamaforge.wizard.looking import due

    look = due(name, draft, facts)
    if look is None:
        return facts
    narrate(f"{look.words} …")
    seen = look.at(draft, facts, lambda what, rows: None)
    if name == "rows":
        _tell_rows(seen)
    return seen


def _show_row(draft: "Draft") -> None:
    """Print the first row as tokens; what cannot be shown keeps nothing from going on."""
    from llamaforge.cli.data_preview import LEGEND, preview_text
    from llamaforge.errors import LlamaForgeError
    from llamaforge.wizard.row_preview import token_row

    try:
        shown = token_row(draft, 1).previews
    except LlamaForgeError as error:
        narrate(f"{error.message} {error.hint}")
        return
    for preview in shown:
        narrate(f"{preview_text(preview, colour=False, width=_WIDTH)}\n{LEGEND}")


def _require_judged(question: "Question", draft: "Draft", facts: "Facts") -> None:
    problem = question.judged(draft, facts)
    if problem:
        raise UsageError(problem, f"Change {question.flag}.", code="bad_answer")


def _default(question: "Question", draft: "Draft", facts: "Facts") -> Any:
    """Return the answer that nobody gave; where there is no sensible one, say which option is."""
    answer = question.default(draft, facts)
    if not answer:
        raise UsageError(
            f"{question.title} is missing, and there is no terminal to ask on.",
            f"Give it with {question.flag}.",
            code="missing_answer",
        )
    return answer


def _require(question: "Question", answer: Any, draft: "Draft", facts: "Facts") -> None:
    problem = question.problem(answer, draft, facts)
    if problem:
        raise UsageError(problem, f"Change {question.flag}.", code="bad_answer")


def _tell_rows(facts: "Facts") -> None:
    report = facts.report
    if "rows" not in report:
        return
    rows = report["rows"]
    narrate(
        f"{rows['read']:,} rows: {rows['accepted'] + rows['repaired']:,} can be used, "
        f"{rows['rejected']:,} cannot."
    )
    for item in report["problems"]:
        narrate(f"{'✗' if item['level'] == 'stop' else '!'} {safe_line(item['message'])}")


def _checked(draft: "Draft", facts: "Facts", *, measures: bool) -> "list[Check]":
    """Say what stands for and against the run, with passes of the model where `measures` says so.

    A script measures with `llamaforge plan`.
    """
    from llamaforge.wizard.checks import checks
    from llamaforge.wizard.measured import measured_checks

    found = checks(draft, facts)
    narrate("\nBefore it begins")
    _tell_checks(found)
    if measures and not any(item.verdict == "fail" for item in found):
        measured = measured_checks(draft, facts, lambda words: narrate(f"  {words} …"))
        _tell_checks(measured)
        titles = {item.title for item in measured}
        found = [*(item for item in found if item.title not in titles), *measured]
    return found


def _tell_checks(found: "list[Check]") -> None:
    for item in found:
        narrate(f"{_SIGNS[item.verdict]} {item.title}: {safe_line(item.message, limit=300)}")
        if item.hint and item.verdict != "pass":
            narrate(f"    {safe_line(item.hint, limit=300)}")


def _finished(
    arguments: argparse.Namespace,
    draft: "Draft",
    facts: "Facts",
    dialogue: "_Dialogue | None",
) -> ExitCode:
    """Show all of it, write the recipe, and begin the run if that is wanted."""
    from llamaforge.cli.launching import carry_out, note
    from llamaforge.data.sources import absolute_source
    from llamaforge.wizard.beginning import automatic_name, create, prepare
    from llamaforge.wizard.draft import write_recipe
    from llamaforge.wizard.questions import advice_for

    named = draft.with_answers(
        sources=tuple(map(absolute_source, draft.sources)),
        name=draft.name or automatic_name(draft.model),
    )
    advice = advice_for(named, facts)
    text = named.yaml(advice)
    path: Path = (arguments.recipe or Path(f"{named.name}.yaml")).expanduser().absolute()
    narrate("\nThis is the recipe; nothing has been written yet.\n")
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        narrate(f"  {' ' * indent}{safe_line(line, limit=300)}")
    narrate("\nThe same as a command:")
    print_text(named.command(advice))
    if dialogue is not None and not arguments.yes and not dialogue.agreed(path):
        narrate("Nothing was written. Your answers are kept for the next time.")
        return ExitCode.INTERRUPTED
    if path.exists() and dialogue is None and not arguments.yes:
        raise UsageError(
            f"{safe_line(str(path))} is there already.", "Name another file with --recipe.",
            code="exists",
        )  # fmt: skip
    write_recipe(path, text)
    narrate(f"The recipe is {path}")
    begin = arguments.yes if dialogue is None else dialogue.wants_to_begin()
    if not begin:
        print_text(f"llamaforge train {path}")
        return ExitCode.DONE
    store = Path(draft.store) if draft.store else None
    prepared = prepare(named.recipe(advice), store=store, numbered=not draft.name, on_note=note)
    return carry_out(create(prepared), detach=False, as_json=False)


def _without_training(arguments: argparse.Namespace, draft: "Draft") -> ExitCode:
    from llamaforge.wizard.no_training import write_modelfile

    name = draft.publish or f"{draft.model.split(':')[0].rsplit('/', 1)[-1]}-mine"
    path: Path = (arguments.recipe or Path("Modelfile")).expanduser().absolute()
    if path.exists() and not arguments.yes:
        raise UsageError(
            f"{safe_line(str(path))} is there already.",
            "Name another file with --recipe, or say --yes to replace it.",
            code="exists",
        )
    commands = write_modelfile(path, draft.model, draft.system, draft.sources, name)
    narrate(f"The Modelfile is {path}. Make the model and talk to it with:")
    for command in commands:
        print_text(command)
    return ExitCode.DONE


def _list_settings(draft: "Draft", facts: "Facts") -> None:
    """Print every setting with its value, its bounds and what it costs."""
    from llamaforge.wizard.effects import effect_words
    from llamaforge.wizard.questions import advice_for
    from llamaforge.wizard.settings import SETTINGS, value_words

    recipe = draft.recipe(advice_for(draft, facts))
    for setting in SETTINGS:
        value = safe_line(value_words(setting.value(recipe)), limit=60) or "–"
        narrate(
            f"{setting.key} = {value}   ({' '.join(filter(None, (setting.bounds, setting.unit)))})"
        )
        narrate(f"    {setting.help} Larger: {setting.cost}.")
    narrate(f"As it stands, {safe_line(effect_words(draft, facts), limit=300)}.")


def _rows_of(draft: "Draft") -> str:
    """Return the rows of a draft in a few words."""
    first, *others = draft.sources or ("no rows yet",)
    return f"{Path(first).name} and {len(others)} more" if others else Path(first).name


def _require_all(draft: "Draft", facts: "Facts") -> None:
    """Name the options of all answers that nobody gave and that have no usual one.

    Raises:
        UsageError: there are such (`missing_answer`).
    """
    from llamaforge.wizard.questions import open_questions

    missing = [item for item in open_questions(draft, facts) if not item.default(draft, facts)]
    if missing:
        names = ", ".join(f"{item.title.lower()} ({item.flag})" for item in missing)
        flags = " ".join(f"{item.flag} …" for item in missing)
        raise UsageError(
            f"There is no terminal to ask on, and these answers are missing: {names}.",
            f"Give them: llamaforge wizard {flags}",
            code="missing_answer",
        )


class _Dialogue:
    """Asks a person at a terminal, with questionary."""

    def offered(self, draft: "Draft") -> "Draft":
        """Return the draft to begin with: one that was left behind, if the person wants it."""
        import questionary

        from llamaforge.wizard.draft import Draft, kept_drafts

        kept = [item for item in kept_drafts() if item.store == draft.store]
        if not kept or draft != Draft(store=draft.store):
            return draft
        choices = [
            questionary.Choice(
                safe_line(f"{item.model or 'no model yet'} with {_rows_of(item)}", limit=_WIDTH),
                value=number,
            )
            for number, item in enumerate(kept)
        ]
        choices.append(questionary.Choice("No, begin anew", value=len(kept)))
        title = "Go on with what you answered before?"
        number = self._answer("select", title, choices=choices)
        return kept[number] if number < len(kept) else draft

    def ask(self, question: "Question", draft: "Draft", facts: "Facts") -> Any:
        """Return a person's answer that nothing speaks against."""
        from llamaforge.wizard.question import Kind
        from llamaforge.wizard.questions import places

        for label, text in question.known(draft, facts):
            narrate(f"  {label:<13}{text}")
        while True:
            if question.kind in {Kind.CHOICE, Kind.COLUMNS}:
                answer: Any = self._choice(question, draft, facts)
            elif question.kind is Kind.YES_NO:
                answer = self._answer(
                    "confirm", question.title, default=bool(question.default(draft, facts))
                )
            elif question.kind is Kind.LINES:
                answer = self._lines(question, draft, facts)
            else:
                narrate(f"  {question.help}")
                if question.kind is Kind.SETTINGS:
                    narrate("  Such as learning_rate=1e-4 seed=7; ? lists them; Enter keeps all.")
                asks = "path" if question.kind is Kind.SOURCES else "text"
                answer = self._answer(asks, question.title)
                if question.kind is Kind.SOURCES:
                    answer = places(answer)
                if question.kind is Kind.SETTINGS and answer == "?":
                    _list_settings(draft, facts)
                    continue
            problem = question.problem(answer, draft, facts)
            if not problem and (answer or question.is_optional or answer is False):
                return answer
            narrate(problem or "This one is needed.")

    def _lines(self, question: "Question", draft: "Draft", facts: "Facts") -> tuple[str, ...]:
        narrate(f"  {question.help} Enter alone goes on.")
        proposed = [option.value for option in question.options(draft, facts)]
        for text in proposed:
            narrate(f"  Such as: {safe_line(text, limit=120)}")
        found: list[str] = []
        while text := self._answer("text", f"{question.title} ({len(found)} so far)"):
            found.append(text)
        return tuple(found)

    def mended(self, found: "list[Check]") -> "Fix | None":
        """Return the way out of what keeps the run from beginning that the person takes."""
        for item in found:
            fix = item.fix
            if item.verdict == "fail" and fix is not None and not fix.fetches:
                words = f"{item.title}: {fix.title}?"
                if self._answer("confirm", safe_line(words, limit=200), default=True):
                    return fix
        return None

    def agreed(self, path: Path) -> bool:
        """Return whether the recipe may be written to `path`."""
        verb = "Replace" if path.exists() else "Write"
        shown = path.name if path.parent == Path.cwd() else str(path)
        return bool(self._answer("confirm", f"{verb} {safe_line(shown)}?", default=True))

    def wants_to_see(self) -> bool:
        """Return whether the first row shall be shown as the model sees it."""
        words = "See the first row as the model sees it?"
        return bool(self._answer("confirm", words, default=False))

    def wants_to_begin(self) -> bool:
        """Return whether the run shall begin now."""
        return bool(self._answer("confirm", "Begin the run now?", default=True))

    def _choice(self, question: "Question", draft: "Draft", facts: "Facts") -> str:
        import questionary

        from llamaforge.wizard.question import Kind

        options = question.options(draft, facts)
        if question.kind is Kind.CHOICE and all(option.refusal for option in options):
            raise UsageError(
                "There is nothing to choose: no model can be trained.",
                "Pull one with: ollama pull qwen2.5:3b, or try: llamaforge demo",
                code="no_models",
            )
        is_told = any(len(f"{o.title}  {o.explanation}") > _WIDTH for o in options)
        if is_told:  # the menu would cut them
            for option in options:
                narrate(f"  {option.title}: {option.explanation}")
        choices = [
            questionary.Choice(
                option.title if is_told else f"{option.title}  {option.explanation}".rstrip(),
                value=option.value,
                disabled=option.refusal or None,
            )
            for option in options
        ]
        if question.kind is Kind.COLUMNS:
            choices.append(questionary.Choice("Something else: write it", value=""))
        usual = question.default(draft, facts)
        answer = self._answer("select", question.title, choices=choices, default=usual or None)
        if not answer and question.kind is Kind.COLUMNS:
            narrate("  Such as: prompt=question,completion=answer")
            answer = self._answer("text", question.title)
        return str(answer)

    @staticmethod
    def _answer(kind: str, title: str, **more: Any) -> Any:
        import questionary

        answer = getattr(questionary, kind)(title, **more).unsafe_ask()
        return answer.strip() if isinstance(answer, str) else answer
