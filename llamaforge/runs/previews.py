"""Asking for previews of the process that renders rows, and reading what it answers."""

from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.preview import Preview, from_body
from llamaforge.data.preview_request import PreviewRequest
from llamaforge.data.served_template import TemplateComparison
from llamaforge.runs.asking import Question, answers

TIMEOUT_SECONDS: Final = 60.0
MOST_ANSWER_BYTES: Final = 256 * 1024 * 1024
_NOT_PASSED: Final = frozenset(
    {"HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
)
"""What a program that renders templates has no need of and may hold secrets."""


@dataclass(frozen=True, slots=True)
class PreviewAnswer:
    """What came back. All text is as the rows and the template have it, not yet safe to print."""

    model: str
    template: str
    """`file`, `given`, or the name of a known template."""
    max_length: int
    """Tokens a row may have."""
    previews: tuple[Preview, ...]
    comparisons: tuple[TemplateComparison, ...] = ()
    """Of a conversation with a system message and of one without, where that was asked for."""


def ask(request: PreviewRequest, *, timeout_seconds: float = TIMEOUT_SECONDS) -> PreviewAnswer:
    """Return the previews that `request` asks for, rendered in another process.

    Raises:
        LlamaForgeError: as that process says (no such model, row or file; a template that is no
            Jinja); or it took too long (`preview_timeout`), wrote too much (`preview_size`) or
            died (`preview_died`).
    """
    model: dict[str, Any] = {}
    previews: list[Preview] = []
    comparisons: list[TemplateComparison] = []
    question = Question(
        "llamaforge.worker.preview",
        request.model_dump_json(),
        timeout_seconds,
        most_bytes=MOST_ANSWER_BYTES,
        code="preview",
        not_passed=_NOT_PASSED,
    )
    for body in answers(question):
        kind = body.pop("type", None)
        if kind == "row":
            previews.append(from_body(body))
        elif kind == "model":
            model = body
        elif kind == "templates":
            body["left_out"] = tuple(body["left_out"])
            comparisons.append(TemplateComparison(**body))
    return PreviewAnswer(
        model["name"], model["template"], model["max_length"], tuple(previews), tuple(comparisons)
    )
