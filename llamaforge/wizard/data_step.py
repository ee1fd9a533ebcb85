"""The step that asks what is learned from: files, columns, what is held back."""

from typing import Any, Final

from llamaforge.errors import LlamaForgeError
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Kind, Option, Question, Step
from llamaforge.words import plural

_USUAL_PART: Final = "0.1"
_PARTS: Final = (
    ("0.1", "A tenth", "the usual choice"),
    ("0.05", "A twentieth", "where there are thousands of rows"),
    ("0.2", "A fifth", "where there are few and the figures shall be steadier"),
    ("0", "None", "everything is learned, and nothing tells how well"),
)


def _sources_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    from llamaforge.data import library  # noqa: PLC0415 - asked late
    from llamaforge.data.sources import expand, parse_source  # noqa: PLC0415

    if not answer:
        return "Name at least one file."
    frozen = [text for text in answer if library.named(text)]
    try:
        if frozen and len(answer) > 1:
            return "Frozen rows are learned alone: they were divided when they were frozen."
        if frozen:
            library.find(library.named(frozen[0]))
            return ""
        found = [parse_source(text) for text in answer]
        expand([source for source in found if not source.is_on_the_hub])
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _map_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    from llamaforge.data.mapping import Mapping as Columns  # noqa: PLC0415

    if not answer:
        return ""
    try:
        Columns.parse(str(answer))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def needs_map(draft: Draft, facts: Facts) -> bool:
    """Return whether the columns have to be named by hand."""
    report = facts.report
    is_text = "--map text=" in str(report.get("hint", ""))
    is_unclear = report.get("code") in {"unknown_format", "ambiguous_format"}
    return bool(draft.map) or is_text or is_unclear


def are_pairs(facts: Facts) -> bool:
    """Return whether the rows are pairs of a better and a worse answer."""
    flags = (facts.report.get("analysis") or {}).get("flags") or {}
    sources = facts.report.get("sources", ())
    return bool(flags.get("pairs")) or any(
        source.get("format") == "preference" for source in sources
    )


def are_labelled(facts: Facts) -> bool:
    """Return whether the rows are answers that are labelled good or bad by themselves."""
    sources = facts.report.get("sources", ())
    return facts.rows.are_labelled or any(
        source.get("format") == "unpaired_preference" for source in sources
    )


def rows_problem(draft: Draft, facts: Facts) -> str:
    """Return why the rows cannot be looked through, unless the next question mends that."""
    report = facts.report
    if "rows" in report or (not draft.map and needs_map(draft, facts)):
        return ""
    if draft.map and report.get("code") == "unknown_format":  # another file than the mapped one
        return (
            f"{report['message']} One mapping is for all files: write this one anew with names "
            "that are known, for example: llamaforge data convert FILE --map prompt=COLUMN,"
            "completion=COLUMN --to chat --out rows.jsonl"
        )
    return f"{report['message']} {report['hint']}"


def _columns(draft: Draft, facts: Facts) -> list[Option]:
    del draft
    choices = facts.columns.choices if facts.columns is not None else ()
    return [Option(choice.map, choice.title, choice.example) for choice in choices]


def _first_columns(draft: Draft, facts: Facts) -> str:
    found = _columns(draft, facts)
    return found[0].value if found else ""


def _parts(draft: Draft, facts: Facts) -> list[Option]:
    del draft
    count = facts.rows.count
    return [
        Option(part, title, f"{round(float(part) * count):,} of {plural(count, 'row')}; {why}")
        for part, title, why in _PARTS
    ]


def _part_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    try:
        return "" if 0.0 <= float(str(answer)) <= 0.5 else "Hold back at most half: 0 to 0.5."
    except ValueError:
        return "Give a part of the rows, such as 0.1."


STEP: Final = Step(
    "data",
    "Rows",
    "What shall it learn from? Your rows stay on this machine.",
    (
        Question(
            "sources",
            "--data",
            "Files, folders or datasets",
            "JSON Lines, JSON, CSV, Parquet, text; a folder, a pattern or hf:OWNER/NAME; or rows "
            "that were frozen earlier.",
            Kind.SOURCES,
            problem=_sources_problem,
            looks="rows",
            judged=rows_problem,
        ),
        Question(
            "map",
            "--map",
            "What the columns are",
            "No known format fits these rows: say which column is the question and which the "
            "answer.",
            Kind.COLUMNS,
            options=_columns,
            default=_first_columns,
            problem=_map_problem,
            applies=needs_map,
            needs="columns",
            looks="rows",
            judged=rows_problem,
        ),
        Question(
            "allow_secrets",
            "--allow-secrets",
            "Train although some rows look like they hold keys or passwords?",
            "A model repeats what it learned. It is better to take them out.",
            Kind.YES_NO,
            default=lambda draft, facts: False,
            applies=lambda draft, facts: any(
                item.get("code") == "secrets" and item.get("level") == "stop"
                for item in facts.report.get("problems", ())
            ),
            looks="rows",
        ),
        Question(
            "held_out",
            "--held-out",
            "How many rows to hold back",
            "They are never learned: with them the run shows before and after. Rows that name "
            "their own side keep it.",
            Kind.CHOICE,
            options=_parts,
            default=lambda draft, facts: _USUAL_PART,
            problem=_part_problem,
            applies=lambda draft, facts: not draft.snapshot,
            needs="rows",
        ),
    ),
)
