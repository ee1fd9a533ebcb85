"""`python -m llamaforge.worker.preview`: renders rows of a data file as a model would see them.

A chat template is a program from outside, so it runs here: in a process of its own, with limits on
time, memory and output. One request stands on standard input as JSON, the answers follow on
standard output as JSON lines: `model`, a `row` each, `templates`, and last `end` or `error`.
`runs.previews` is the other side.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import StoredModel
from llamaforge.data.chat import ChatRenderer
from llamaforge.data.formats import detect, read_records
from llamaforge.data.mapping import Mapping
from llamaforge.data.preview import Preview, preview, refused, to_body
from llamaforge.data.preview_request import MOST_REQUEST_BYTES, PreviewRequest, read_request
from llamaforge.data.records import Message, Record
from llamaforge.data.row_refs import text_bytes, whole_conversation
from llamaforge.data.served_template import SAMPLE, TemplateComparison, compare_templates
from llamaforge.data.shapes import LABELLED
from llamaforge.data.templates import choose_template
from llamaforge.errors import ExitCode, InvalidFileError, LlamaForgeError, NotFoundError
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.worker.limits import (
    MOST_RENDERED_BYTES,
    TEMPLATE_MEMORY_BYTES,
    TooSlow,
    limit_memory,
    time_limit,
)

_SHOWN_CHARACTERS: Final = 200_000
"""Of one prompt in a comparison."""

_Named = tuple[str, int, Sequence[Message] | str]
"""Source, row, and the conversation or the reason why there is none."""


def main() -> int:
    """Answer the request on standard input, and return an exit code."""
    try:
        request = read_request(sys.stdin.buffer.read(MOST_REQUEST_BYTES + 1))
        for kind, body in answers(request):
            _say(kind, body)
    except LlamaForgeError as error:
        _say(
            "error",
            {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            },
        )
        return int(error.exit_code)
    except MemoryError:
        _say(
            "error",
            {
                "code": "template_memory",
                "message": "Rendering the rows takes too much memory.",
                "hint": "Give another template: --set chat_template=chatml",
                "exit_code": int(ExitCode.REFUSED),
            },
        )
        return int(ExitCode.REFUSED)
    return int(ExitCode.DONE)


def answers(request: PreviewRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the kind and the body of each answer.

    Raises:
        LlamaForgeError: the model, its template or the data file cannot be used at all.
    """
    stores = [Path(request.store)] if request.store else []
    model = Inventory.open(stores).find(request.model)
    if model.blob is None:
        raise NotFoundError(
            f"{model.name} has no weights in the store: {model.reason or 'unknown'}.",
            "Pull the model again.",
            code="missing_blob",
        )
    tokenizer = GgufTokenizer(read_model(model.blob, model.files))
    template = choose_template(
        request.chat_template, tokenizer.chat_template, tokenizer.special_ids
    )
    today = datetime.fromisoformat(request.today) if request.today else datetime.now(UTC)
    limit_memory(TEMPLATE_MEMORY_BYTES)
    with time_limit(request.row_seconds):
        try:
            renderer = ChatRenderer(tokenizer, template, today)
        except TooSlow as error:
            raise _unreadable(str(error)) from error
    max_length = min(request.max_length, model.context_length or request.max_length)
    yield "model", {"name": model.name, "template": template.source, "max_length": max_length}
    count = 0
    for source, row, messages in _rows(request):
        if isinstance(messages, str):
            shown = refused(messages, source, row, code="unreadable")
        else:
            shown = _previewed(request, renderer, max_length, (source, row, messages))
        yield "row", to_body(shown)
        count += 1
    if request.compare:
        with time_limit(request.row_seconds):
            comparisons = list(_compared(renderer, model))
        for comparison in comparisons:
            yield "templates", _comparison_body(comparison)
    yield "end", {"rows": count}


def _previewed(
    request: PreviewRequest,
    renderer: ChatRenderer,
    max_length: int,
    named: tuple[str, int, Sequence[Message]],
) -> Preview:
    source, row, messages = named
    size = text_bytes(messages)
    if size > MOST_RENDERED_BYTES:
        return refused(f"it is too long to be shown: {size:,} bytes", source, row)
    reason = f"the chat template takes more than {request.row_seconds:g} seconds for it"
    try:
        with time_limit(request.row_seconds):
            return preview(
                messages,
                renderer,
                max_length,
                train_on=request.train_on,
                source=source,
                row=row,
                most_tokens=request.most_tokens,
            )
    except TooSlow:
        return refused(reason, source, row)


def _rows(request: PreviewRequest) -> Iterator[_Named]:
    """Yield the rows that are asked for: those in the request, then those of the data file."""
    for number, turns in enumerate(request.conversations, 1):
        yield "", number, turns
    if not request.data:
        return
    by_place = bool(request.positions)
    wanted = set(request.positions or request.rows)
    last = max(wanted, default=0)
    path = Path(request.data)
    mapping = None if request.map is None else Mapping.parse(request.map)
    if mapping is None or not mapping.columns:
        labelled = detect(path).format == LABELLED
    else:
        labelled = "label" in mapping.columns
    items = read_records(
        path,
        want="labelled" if labelled else "sft",
        preference=request.preference,
        images=request.images,
        mapping=mapping,
    )
    for place, item in enumerate(items, 1):
        number = place if by_place else item.row
        if number in wanted:
            wanted.discard(number)
            what = whole_conversation(item) if isinstance(item, Record) else item.reason
            yield item.source, item.row, what
        if number >= last or not wanted:
            break
    if wanted:
        numbers = ", ".join(f"{number:,}" for number in sorted(wanted)[:5])
        raise NotFoundError(
            f"The data file has no row {numbers}.", "Ask for a row that it has.", code="no_row"
        )


def _compared(renderer: ChatRenderer, model: StoredModel) -> Iterator[TemplateComparison]:
    """Yield how the templates compare with a system message in the chat, and with none."""
    for messages in (SAMPLE, SAMPLE[1:]):
        yield compare_templates(
            renderer,
            model.template,
            built_in=str(model.config.get("renderer") or ""),
            messages=messages,
            own_system=model.system or "",
        )


def _comparison_body(comparison: TemplateComparison) -> dict[str, Any]:
    return {
        "state": comparison.state,
        "reason": comparison.reason,
        "trained": comparison.trained[:_SHOWN_CHARACTERS],
        "served": comparison.served[:_SHOWN_CHARACTERS],
        "first_difference": comparison.first_difference,
        "left_out": list(comparison.left_out),
    }


def _unreadable(reason: str) -> InvalidFileError:
    return InvalidFileError(
        f"The chat template cannot be read: {reason}.",
        "Give another one: --set chat_template=chatml",
        code="chat_template",
    )


def _say(kind: str, body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind} | body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
