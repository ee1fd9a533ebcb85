"""What is looked at on the way, because of the answers before: the base, the rows.

It takes a while and never ends with an exception. A screen looks in a thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llamaforge.data.mapping import Mapping as Columns
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.recipe.documents import parse
from llamaforge.recipe.spec import DataChoice
from llamaforge.runs.data_checks import check
from llamaforge.wizard.bases import about, base_facts
from llamaforge.wizard.columns import column_facts
from llamaforge.wizard.draft import Draft, whole_sources
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.no_training import examples
from llamaforge.wizard.recent import remember_sources
from llamaforge.wizard.row_files import RowFiles, files_for, files_of_report

_LONGEST_PROMPT: Final = 200
"""Characters of a question that is proposed."""
_OF_ROWS: Final = ("chat_template", "max_length", "max_rejected_fraction", "images")
"""Settings on which the check of the rows depends."""
OnProgress = Callable[[str, int], None]
"""Takes what is going on and how many rows it has come to."""


def report_on(draft: Draft, on_progress: OnProgress) -> dict[str, Any]:
    """Return the check of a draft's rows.

    It is as `worker.data_check.report` describes it; where there can be none, `code`, `message`
    and `hint` say why.
    """
    try:
        data = parse(
            DataChoice,
            {
                **draft.with_whole_paths().rows(),
                "map": draft.map or None,
                "preference": draft.preference,
                "allow_secrets": draft.allow_secrets,
                **{
                    key: value
                    for key in _OF_ROWS
                    if key != "chat_template" and (value := draft.setting(key)) is not None
                },
            },
            "The rows",
        )
        request = CheckRequest(
            data=data,
            model=draft.model or None,
            store=Path(draft.store) if draft.store else None,
            chat_template=draft.setting("chat_template"),
        )
        return check(request.model_dump_json(), on_progress)
    except LlamaForgeError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}


@dataclass(frozen=True)
class Look:
    """One thing to look at."""

    words: str
    """What is said meanwhile."""
    is_due: Callable[[Draft, Facts], bool]
    """Whether the facts are not, or no longer, those of the draft."""
    at: Callable[[Draft, Facts, OnProgress], Facts]
    """Returns the facts with what was seen."""


def rows_about(draft: Draft) -> tuple[Any, ...]:
    """Return the answers on which the check of the rows depends."""
    return (
        draft.model, draft.store, draft.sources, draft.map, draft.preference, draft.allow_secrets,
        tuple(map(draft.setting, _OF_ROWS)),
    )  # fmt: skip


def _mapped_reading(draft: Draft) -> str | None:
    """Return how rows are read whose columns are mapped to what no conversation has."""
    try:
        columns = Columns.parse(draft.map).columns if draft.map else {}
    except LlamaForgeError:  # the check of the rows says so
        return None
    return "labelled" if "label" in columns else "pairs" if "chosen" in columns else None


def _other_reading(report: Mapping[str, Any]) -> str | None:
    """Return how rows that are no conversations can be read, by the words of the refusal."""
    if report.get("code") != "unsupported_format":
        return None
    if "labelled good or bad" in report["message"]:
        return "labelled"
    return "pairs" if "preference" in report["message"] else None


def _at_rows(draft: Draft, facts: Facts, on_progress: OnProgress) -> Facts:
    # What becomes of pairs and labels is asked with the goal; until then they are looked at as
    # they are.
    other = _mapped_reading(draft) if draft.preference == "refuse" else None
    report = report_on(replace(draft, preference=other or draft.preference), on_progress)
    if draft.preference == "refuse" and other is None:
        other = _other_reading(report)
        if other is not None:
            report = report_on(replace(draft, preference=other), on_progress)
    if "rows" in report and not draft.snapshot:
        remember_sources(draft.with_whole_paths().sources)
    files = files_of_report(draft, report) or facts.files
    return replace(
        facts,
        report=report,
        report_of=rows_about(draft),
        files=files,
        prompts=_prompts(draft, report, files),
    )


def _prompts(draft: Draft, report: Mapping[str, Any], files: RowFiles | None) -> tuple[str, ...]:
    """Return some short questions out of the rows, to be proposed."""
    if "rows" not in report:
        return ()
    try:
        found = examples(draft, files_for(draft, files), 3)
    except (LlamaForgeError, OSError):
        return ()
    asked = [turn["content"] for turn in found if turn["role"] == "user"]
    return tuple(text for text in asked if len(text) <= _LONGEST_PROMPT)


def _at_columns(draft: Draft, facts: Facts, on_progress: OnProgress) -> Facts:
    del on_progress
    files = files_for(draft, facts.files)
    return replace(facts, files=files, columns=column_facts(files))


def _at_base(draft: Draft, facts: Facts, on_progress: OnProgress) -> Facts:
    del on_progress
    return replace(facts, base=base_facts(draft))


LOOKS: Final[Mapping[str, Look]] = {
    "rows": Look(
        "Looking through the rows",
        lambda draft, facts: not facts.report or facts.report_of != rows_about(draft),
        _at_rows,
    ),
    "columns": Look(
        "Looking at the columns",
        lambda draft, facts: facts.columns is None or facts.columns.of != whole_sources(draft),
        _at_columns,
    ),
    "base": Look(
        "Looking for the full-precision weights",
        lambda draft, facts: facts.base is None or facts.base.of != about(draft),
        _at_base,
    ),
}


def due(name: str, draft: Draft, facts: Facts) -> Look | None:
    """Return what has to be looked at, by its name in `LOOKS`; None where nothing has to be."""
    look = LOOKS.get(name)
    return look if look is not None and look.is_due(draft, facts) else None
