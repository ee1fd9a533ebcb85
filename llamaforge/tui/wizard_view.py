"""The wizard's screens in words: where one is, what the rows are, the whole of it to look over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from textual.content import Content

from llamaforge import paths
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, facts, hanging
from llamaforge.wizard.answers import said
from llamaforge.wizard.checks import Check
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Question
from llamaforge.wizard.questions import STEPS
from llamaforge.words import percent_words, whole_words

MARKS: Final = {
    "pass": ("✓", "$text-success"),
    "warn": ("!", "$text-warning"),
    "fail": ("✗", "$text-error"),
}
_SHOWN_PROBLEMS: Final = 6
_BESIDE_ROWS: Final = frozenset({"sources", "map", "allow_secrets", "held_out", "goal", "preset"})
"""Questions beside which the report on the rows is shown."""


def trail_lines(draft: Draft, known: Facts, key: str, width: int) -> list[Content]:
    """Return the steps with what was answered; `key` is the question that is asked."""
    lines: list[Content] = []
    for step in STEPS:
        here = any(question.key == key for question in step.questions)
        style = "bold $primary" if here else "bold"
        lines.append(Content.styled(f"{'▸' if here else ' '} {step.title}", style))
        for question in step.questions:
            answer = said(question, draft, known)
            if answer and question.applies(draft, known) and answer != "refuse":
                text = Content.styled(safe_line(answer, limit=60), MUTED)
                lines += hanging(Content(""), text, indent=2, width=width)
        lines.append(Content(""))
    return lines


def question_lines(question: Question, width: int) -> list[Content]:
    """Return a question in words: its title, and what it is about."""
    return [
        *Content.styled(question.title, "bold $primary").wrap(width),
        *hanging(Content(""), Content.styled(question.help, MUTED), indent=0, width=width),
        Content(""),
    ]


def known_lines(question: Question, draft: Draft, known: Facts, width: int) -> list[Content]:
    """Return what is shown beside a question: what is known of its subject, and of the rows."""
    pairs = [(label, text) for label, text in question.known(draft, known)]
    lines = facts(pairs, width)
    if question.key in _BESIDE_ROWS:
        lines += report_lines(known, width)
    return lines


def report_lines(known: Facts, width: int) -> list[Content]:
    """Return what the rows are."""
    report = known.report
    if "rows" not in report:  # not looked through yet, or that failed
        return []
    counts = report["rows"]
    lines = [Content.styled("Your rows", "bold")]
    pairs: list[tuple[str, str | Content]] = [
        (
            Path(source["path"]).name if len(report["sources"]) > 1 else "found",
            f"{source['container']}, read as you said"
            if source["format"] == "unknown"
            else f"{source['container']}, {source['format']}, "
            f"{percent_words(source['confidence'])} sure",
        )
        for source in report["sources"][:_SHOWN_PROBLEMS]
    ]
    pairs.append(
        (
            "rows",
            f"{counts['accepted'] + counts['repaired']:,} can be used"
            + (f", {counts['repaired']:,} of them repaired" if counts["repaired"] else "")
            + (f"; {counts['rejected']:,} cannot" if counts["rejected"] else ""),
        )
    )
    lengths = (report.get("analysis") or {}).get("lengths")
    if lengths:
        tokens = lengths["tokens"]
        pairs.append(
            (
                "tokens",
                f"half up to {whole_words(tokens['p50'])}, the longest "
                f"{whole_words(tokens['max'])}",
            )
        )
    safe = [(safe_line(label, limit=24), safe_line(str(text))) for label, text in pairs]
    lines += facts(safe, width)
    for item in report["problems"][:_SHOWN_PROBLEMS]:
        mark, style = MARKS["fail" if item["level"] == "stop" else "warn"]
        text = Content(safe_line(item["message"], limit=300))
        lines += hanging(Content.styled(mark, style), text, indent=2, width=width)
    return lines


def review_lines(
    draft: Draft, found: Sequence[Check] | None, recipe: str, command: str, width: int
) -> list[Content]:
    """Return everything at once: the checks, the recipe with its reasons, the command."""
    if any(item.verdict == "fail" for item in found or ()):
        head = "It cannot begin like this; Esc goes back to where that is mended."
    else:
        head = "Look it over, then press b to begin. Nothing has been written yet."
    lines = [*Content.styled(head, "bold").wrap(width), Content("")]
    lines.append(Content.styled("Before it begins", "bold $primary"))
    if found is None:
        lines.append(Content.styled("looking …", MUTED))
    for item in found or ():
        mark, style = MARKS[item.verdict]
        text = Content.assemble(
            (f"{safe_line(item.title, limit=80)}: ", "bold"),
            safe_line(item.message, limit=300),
            (f"  {safe_line(item.hint, limit=300)}" if item.verdict != "pass" else "", MUTED),
        )
        lines += hanging(Content.styled(mark, style), text, indent=2, width=width)
    if found and not any(item.title == "Time" or item.verdict == "fail" for item in found):
        words = (
            "How long it takes was not measured to its end: Esc goes back to where that is done."
        )
        lines += hanging(Content.styled("·", MUTED), Content.styled(words, MUTED), indent=2,
                         width=width)  # fmt: skip
    lines += [Content(""), Content.styled("Where it goes", "bold $primary")]
    lines += facts(
        [
            ("the run", safe_line(f"{paths.runs_folder()}/{draft.name}", limit=200)),
            ("in Ollama", safe_line(draft.publish) or "nothing is published for now"),
        ],
        width,
    )
    if recipe:
        lines += [Content(""), Content.styled("The recipe", "bold $primary")]
        for line in recipe.splitlines()[1:]:
            setting, sharp, reason = line.partition("  # ")
            indent = len(setting) - len(setting.lstrip())
            why = f"  {safe_line(reason)}" if sharp else ""
            body = Content.assemble(safe_line(setting), (why, MUTED))
            lines += hanging(Content(""), body, indent=indent, width=width)
    if command:
        lines += [Content(""), Content.styled("The same as a command", "bold $primary")]
        lines += Content(safe_line(command, limit=4_000)).wrap(width)
        if draft.needs_file:
            words = "No flags can say all of it: w writes the recipe, which the command reads."
            lines += Content.styled(words, MUTED).wrap(width)
    return lines
