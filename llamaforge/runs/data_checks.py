"""Asking for a check of rows of the process that looks through them."""

from collections.abc import Callable
from typing import Any, Final

from llamaforge.runs.asking import Question, answers

_SILENCE_SECONDS: Final = 1800.0
"""From one line to the next: a dataset may be on its way from the Hub."""


def check(request: str, on_progress: Callable[[str, int], None]) -> dict[str, Any]:
    """Return the report on some rows, as `worker.data_check.report` describes it.

    Args:
        request: a `recipe.check_request.CheckRequest` as JSON.
        on_progress: takes what is going on and how many rows it has come to.

    Raises:
        LlamaForgeError: the rows or the model cannot be read at all, or the process died.
    """
    found: dict[str, Any] = {}
    question = Question(
        "llamaforge.worker.data_check",
        request,
        _SILENCE_SECONDS,
        each_line=True,
        code="check",
        doing="looking through the rows",
        hint="Check a part of them, as in FILE@0.1, or with another template: --chat-template",
    )
    for body in answers(question):
        if body["type"] == "progress":
            on_progress(str(body["what"]), int(body["rows"]))
        else:
            body.pop("type")
            found = body
    return found
