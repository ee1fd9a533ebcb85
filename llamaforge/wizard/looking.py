"""Looking through the rows of a draft: in a process of its own, and never with an exception."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamaforge.data.sources import absolute_source
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.recipe.spec import DataChoice, parse
from llamaforge.runs.data_checks import check
from llamaforge.wizard.draft import Draft


def report_on(draft: Draft, on_progress: Callable[[str, int], None]) -> dict[str, Any]:
    """Return the check of a draft's rows.

    It is as `worker.data_check.report` describes it; where there can be none, `code`, `message`
    and `hint` say why.
    """
    try:
        data = parse(
            DataChoice,
            {
                "sources": [absolute_source(text) for text in draft.sources],
                "map": draft.map or None,
                "preference": draft.preference,
                "allow_secrets": draft.allow_secrets,
            },
            "The rows",
        )
        request = CheckRequest(
            data=data,
            model=draft.model or None,
            store=Path(draft.store) if draft.store else None,
        )
        return check(request.model_dump_json(), on_progress)
    except LlamaForgeError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}
