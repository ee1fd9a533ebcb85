"""From what was given to a draft with every answer: asked line by line, or as is usual."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.data_preview import LEGEND, preview_text
from llamaforge.cli.output import narrate, narrate_folded
from llamaforge.errors import LlamaForgeError, UsageError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.answers import said
from llamaforge.wizard.draft import Draft, keep_draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.looking import due
from llamaforge.wizard.question import Question
from llamaforge.wizard.questions import STEPS, open_questions, taken
from llamaforge.wizard.row_files import files_for
from llamaforge.wizard.row_preview import token_row
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.cli.wizard_dialogue import Dialogue

_WIDTH: Final = 74
"""Characters of a line of tokens in a terminal of 80."""
_SHOWN_FILES: Final = 3


def require_all(draft: Draft, facts: Facts) -> None:
    """Name the options of all answers that nobody gave and that have no usual one.

    Raises:
        UsageError: there are such (`missing_answer`).
    """
    missing = [item for item in open_questions(draft, facts) if not item.default(draft, facts)]
    if missing:
        names = ", ".join(f"{item.title.lower()} ({item.flag})" for item in missing)
        flags = " ".join(f"{item.flag} …" for item in missing)
        raise UsageError(
            f"There is no terminal to ask on, and these answers are missing: {names}.",
            f"Give them: llamaforge wizard {flags}",
            code="missing_answer",
        )


def answered(draft: Draft, facts: Facts, dialogue: "Dialogue | None") -> tuple[Draft, Facts]:
    """Return the draft with every question answered, and the facts with the rows' report.

    Raises:
        UsageError: there is nobody to ask, and an answer is missing or cannot be (its option is
            named).
    """
    for step in STEPS:
        if dialogue is not None:
            narrate("")
            narrate_folded(f"{step.title}. {step.purpose}")
        for question in step.questions:
            if not question.applies(draft, facts):
                continue
            facts = looked(question.needs, draft, facts)
            given = getattr(draft, question.key)
            if given and question.kind.value != "yes_no":
                _require(question, given, draft, facts)
                if dialogue is not None:
                    words = safe_line(said(question, draft, facts), limit=200)
                    narrate_folded(f"{question.title}: {words}", indent=2)
                draft = draft.with_answers(**_again(question, given, draft, facts))
                facts = looked(question.looks, draft, facts)
                _require_judged(question, draft, facts)
                continue
            draft, facts = _ask(question, draft, facts, dialogue)
            if question.key == "held_out" and dialogue is not None:
                words = "See the first row as the model sees it?"
                if dialogue.agrees(words, default=False):
                    _show_rows(draft, facts)
    return draft, facts


def _ask(
    question: Question, draft: Draft, facts: Facts, dialogue: "Dialogue | None"
) -> tuple[Draft, Facts]:
    """Return the draft with one more answer, and the facts with what was looked at because of it.

    Without a dialogue it is the usual answer.
    """
    if dialogue is None:
        if question.is_optional or question.kind.value == "yes_no":
            return draft, facts
        if question.kind.value == "columns":  # a guess that nobody looks at is no answer
            raise UsageError(
                str(facts.report.get("message", "")) or f"{question.title} is missing.",
                str(facts.report.get("hint", "")) or f"Give it with {question.flag}.",
                code="missing_answer",
            )
        answer = _default(question, draft, facts)
        draft = draft.with_answers(**taken(question, answer, draft, facts))
        facts = looked(question.looks, draft, facts)
        _require_judged(question, draft, facts)
        return draft, facts
    while True:
        answer = dialogue.ask(question, draft, facts)
        draft = draft.with_answers(**taken(question, answer, draft, facts))
        keep_draft(draft)
        facts = looked(question.looks, draft, facts)
        problem = question.judged(draft, facts)
        if not problem:
            return draft, facts
        narrate_folded(problem)


def _again(question: Question, given: Any, draft: Draft, facts: Facts) -> Mapping[str, Any]:
    """Return what an answer that was given before changes in the draft, now that more is known."""
    return taken(question, given, draft, facts) if question.key == "goal" else {}


def looked(name: str, draft: Draft, facts: Facts) -> Facts:
    """Return the facts with what has to be looked at by now, and say what was seen."""
    look = due(name, draft, facts)
    if look is None:
        return facts
    narrate(f"{look.words} …")
    seen = look.at(draft, facts, lambda what, rows: None)
    if name == "rows":
        _tell_rows(seen)
    return seen


def _show_rows(draft: Draft, facts: Facts) -> None:
    """Print the first row of each file as tokens; what cannot be shown keeps nothing up."""
    files = files_for(draft, facts.files)
    for number in range(max(min(len(files.paths), _SHOWN_FILES), 1)):
        try:
            shown = token_row(draft, files, number, 1).previews
        except LlamaForgeError as error:
            narrate_folded(f"{error.message} {error.hint}")
            continue
        for preview in shown:
            narrate(preview_text(preview, colour=False, width=_WIDTH))
    narrate(LEGEND)


def _require_judged(question: Question, draft: Draft, facts: Facts) -> None:
    problem = question.judged(draft, facts)
    if problem:
        is_mapping = facts.report.get("code") in {"unknown_column", "bad_mapping"}
        flag = "--map" if is_mapping else question.flag
        raise UsageError(problem, f"Change {flag}.", code="bad_answer")


def _default(question: Question, draft: Draft, facts: Facts) -> Any:
    """Return the answer that nobody gave; where there is no sensible one, say which option is."""
    answer = question.default(draft, facts)
    if not answer:
        raise UsageError(
            f"{question.title} is missing, and there is no terminal to ask on.",
            f"Give it with {question.flag}.",
            code="missing_answer",
        )
    return answer


def _require(question: Question, answer: Any, draft: Draft, facts: Facts) -> None:
    problem = question.problem(answer, draft, facts)
    if problem:
        raise UsageError(problem, f"Change {question.flag}.", code="bad_answer")


def _tell_rows(facts: Facts) -> None:
    report = facts.report
    if "rows" not in report:
        return
    rows = report["rows"]
    narrate(
        f"{plural(rows['read'], 'row')}: {rows['accepted'] + rows['repaired']:,} can be used, "
        f"{rows['rejected']:,} cannot."
    )
    for item in report["problems"]:
        mark = "✗" if item["level"] == "stop" else "!"
        narrate_folded(f"{mark} {safe_line(item['message'])}")
