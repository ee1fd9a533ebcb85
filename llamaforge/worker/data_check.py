"""`python -m llamaforge.worker.data_check`: looks through the rows that a person has.

Rows are rendered with a chat template, which is a program from outside, so this is a process of its
own. One request stands on standard input as JSON; answers follow on standard output as JSON lines:
`progress`, and last `report` or `error`. `runs.data_checks` is the other side.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from llamaforge.catalog.inventory import Inventory
from llamaforge.data.chat import ChatRenderer
from llamaforge.data.check import Watch, judge, source_files, streamed, take_in_nothing
from llamaforge.data.lengths import RowLength, by_text
from llamaforge.data.records import Message, Record, RowError
from llamaforge.data.row_refs import Example, ref_of
from llamaforge.data.templates import choose_template
from llamaforge.errors import ExitCode, LlamaForgeError, NotFoundError
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.runs.hub_fetch import fetch_dataset
from llamaforge.safe_text import safe_line
from llamaforge.worker.limits import TooSlow, time_limit

_RENDERED_ROWS: Final = 20_000
"""Rows that are measured as the template renders them; the rest are counted by their texts."""
_EXAMPLES: Final = 5


def main() -> int:
    """Answer the request on standard input, and return an exit code."""
    try:
        request = CheckRequest.model_validate_json(sys.stdin.buffer.read())
        _say("report", report(request))
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
    return int(ExitCode.DONE)


def report(request: CheckRequest) -> dict[str, Any]:
    """Return what the rows show, and what stands in the way of training on them.

    Raises:
        LlamaForgeError: the rows or the model cannot be read at all.
    """
    from llamaforge.data.analysis import analyse

    data = request.data
    measure, context = _measure(request)
    intake = take_in_nothing(data.sources, choices=data.choices, fetch=fetch_dataset, brief=True)
    watch = Watch(lambda what, rows: _say("progress", {"what": what, "rows": rows}))
    analysis = analyse(
        streamed(intake, choices=data.choices, seed=data.split_seed, watch=watch),
        measure=measure,
        max_length=data.max_length,
        context=context,
        allow_secrets=data.allow_secrets,
    )
    problems = [
        *({"level": "warn", "code": "sources", "message": text} for text in intake.warnings),
        *(item for item in analysis.problems()),
        *(measure.problems() if measure else ()),
    ]
    try:
        judge(intake, data.max_rejected_fraction)
    except LlamaForgeError as error:
        problems.append({"level": "stop", "code": error.code, "message": error.message})
    files = source_files(intake)
    return {
        "sources": [
            asdict(found) | {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
            for file, found in zip(files, intake.detections, strict=True)
        ],
        "rows": {
            "read": intake.read,
            "accepted": analysis.rows - intake.repaired,
            "repaired": intake.repaired,
            "rejected": intake.bad,
            "left_out": intake.left_out,
            "repeated": intake.repeated,
        },
        "repairs": dict(intake.repairs),
        "rejected": [
            {"source": row.source, "line": row.row, "reason": row.reason} for row in intake.rejected
        ],
        "model": measure.facts() if measure else None,
        "analysis": analysis.to_json(),
        "problems": problems,
        "can_train": not any(item["level"] == "stop" for item in problems),
    }


@dataclass
class _Rendered:
    """Measures rows as the model will see them, and remembers those that it cannot be shown."""

    name: str
    renderer: ChatRenderer
    row_seconds: float
    context: int
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    unterminated: int = 0

    def __post_init__(self) -> None:
        tokenizer = self.renderer.tokenizer
        self._by_text = by_text(lambda text: len(tokenizer.encode_with_offsets(text)[0]))

    def __call__(self, record: Record) -> RowLength:
        """Return the length of a row in tokens."""
        self.done += 1
        if self.done > _RENDERED_ROWS:
            return self._by_text(record)
        with suppress(RowError, TooSlow), time_limit(self.row_seconds):
            return self._rendered(record)
        return self._by_text(record)

    def _rendered(self, record: Record) -> RowLength:
        messages = (*record.messages, *record.chosen)
        try:
            row = self.renderer.encode(messages)
        except RowError as error:
            self.refused[safe_line(str(error), limit=120)] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(Example(ref_of(record), safe_line(str(error), limit=120)))
            raise
        self.unterminated += not row.terminated
        last = _last_exchange(messages)
        if len(last) == len(messages):
            return RowLength(len(row.ids), len(row.ids))
        return RowLength(len(row.ids), len(self.renderer.encode(last).ids))

    def problems(self) -> Iterator[dict[str, str]]:
        """Yield what stands in the way of training on rows as this model is shown them."""
        measured = min(self.done, _RENDERED_ROWS)
        if self.refused:
            total, first = sum(self.refused.values()), self.refused.most_common(1)[0][0]
            yield {
                "level": "stop" if total == measured else "warn",
                "code": "template_refuses",
                "message": f"{total:,} of {measured:,} rows cannot be rendered for {self.name}; "
                f"most often: {first}.",
            }
        if self.unterminated:
            yield {
                "level": "stop",
                "code": "untrained_end",
                "message": f"In {self.unterminated:,} rows the template does not end the "
                "assistant's turn with a token at which the model stops: it would never stop. Give "
                "another one with --set chat_template=chatml.",
            }

    def facts(self) -> dict[str, Any]:
        """Return what scripts are told of the model."""
        return {
            "name": self.name,
            "template": self.renderer.template.source,
            "context": self.context,
            "rendered_rows": min(self.done, _RENDERED_ROWS),
            "refused": dict(self.refused.most_common(_EXAMPLES)),
            "refused_examples": [example.to_json() for example in self.examples],
            "unterminated": self.unterminated,
        }


def _measure(request: CheckRequest) -> tuple[_Rendered | None, int | None]:
    if request.model is None:
        return None, None
    model = Inventory.open([request.store] if request.store else []).find(request.model)
    if model.blob is None:
        raise NotFoundError(
            f"{safe_line(model.name)} has no weights in the store.",
            "Pull the model again.",
            code="missing_blob",
        )
    tokenizer = GgufTokenizer(read_header(model.blob))
    template = choose_template(
        request.chat_template, tokenizer.chat_template, tokenizer.special_ids
    )
    renderer = ChatRenderer(tokenizer, template, datetime.now(UTC))
    context = model.context_length
    return _Rendered(safe_line(model.name), renderer, request.row_seconds, context), context or None


def _last_exchange(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the system messages and the last question with its answer."""
    asked = max((n for n, turn in enumerate(messages) if turn.role == "user"), default=0)
    return tuple(t for n, t in enumerate(messages) if t.role == "system" or n >= asked)


def _say(kind: str, body: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind} | body, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
