"""Asking for a plan: what a run would take, from a process that tries some passes of its model."""

from collections.abc import Callable
from typing import Any, Final

from llamaforge.runs.asking import Question, answers

_SILENCE_SECONDS: Final = 1800.0
"""From one line to the next: a large file has to be read from its disk, and many rows."""


def plan(spec: str, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Return what a run would take, as `worker.plan.plan` describes it.

    Args:
        spec: a `recipe.spec.RunSpec` as JSON.
        on_progress: takes what is being done: `rows`, `model`, `trial` or `served`.

    Raises:
        LlamaForgeError: the model or the rows cannot be read at all, or the process died.
    """
    found: dict[str, Any] = {}
    question = Question(
        "llamaforge.worker.plan",
        spec,
        _SILENCE_SECONDS,
        each_line=True,
        code="plan",
        doing="trying the model",
        hint="Close other programs, or try smaller settings, such as --set max_length=512",
    )
    for body in answers(question):
        if body["type"] == "progress":
            on_progress(str(body["what"]))
        else:
            body.pop("type")
            found = body
    return found
