"""How long rows are for a model: rendered with its template, as far as that may take."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from llamaforge.catalog.inventory import Inventory
from llamaforge.data.chat import ChatRenderer
from llamaforge.data.lengths import RowLength, by_text
from llamaforge.data.records import HEAD_ROLES, Message, Record, RowError, is_raw_text
from llamaforge.data.row_refs import Example, ref_of, text_bytes
from llamaforge.data.templates import choose_template
from llamaforge.data.unlearned import unlearned_example, unlearned_sentence
from llamaforge.errors import InvalidFileError, NotFoundError
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.safe_text import safe_line
from llamaforge.words import plural
from llamaforge.worker.limits import MOST_RENDERED_BYTES, TooSlow, program_limits

_RENDERED_ROWS: Final = 20_000
"""Rows that are measured as the template renders them; the rest are counted by their texts."""
_RENDERING_SECONDS: Final = 300.0
"""The same, in seconds."""
_MOST_GIVEN_UP: Final = 10
"""Rows that the template may take too long for; no more are rendered then."""
_PIECE: Final = 200_000
"""Characters of a text that are cut into tokens at once, where only their number is asked for."""
_EXAMPLES: Final = 5


@dataclass
class RenderedRows:
    """Measures rows as the model will see them, and remembers those that it cannot be shown."""

    name: str
    renderer: ChatRenderer
    row_seconds: float
    context: int
    rendered: int = 0
    seconds: float = 0.0
    given_up: int = 0
    """Rows that rendering takes too long or too much memory for."""
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    unterminated: int = 0
    unlearned: list[Example] = field(default_factory=list)
    """The first rows with words that the template keeps from being learned."""
    unlearned_rows: int = 0
    unlearned_beside: int = 0
    """Those in which they stand beside a call of a tool."""

    def __post_init__(self) -> None:
        tokenizer = self.renderer.tokenizer

        def count(text: str) -> int:
            """Return about how many tokens `text` has, in pieces that memory has room for."""
            pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
            return sum(len(tokenizer.encode_with_offsets(piece)[0]) for piece in pieces)

        self._by_text = by_text(count)

    def __call__(self, record: Record) -> RowLength:
        """Return the length of a row in tokens."""
        if (
            text_bytes(record.messages + record.chosen + record.rejected) <= MOST_RENDERED_BYTES
            and self.rendered < _RENDERED_ROWS
            and self.given_up < _MOST_GIVEN_UP
            and self.seconds < _RENDERING_SECONDS
        ):
            self.rendered += 1
            started = time.monotonic()
            try:
                with program_limits(self.row_seconds):
                    length, unlearned = self._rendered(record)
                self._note(record, unlearned)
                return length
            except (TooSlow, MemoryError):
                self.given_up += 1
            except RowError:
                pass
            finally:
                self.seconds += time.monotonic() - started
        return self._by_text(record)

    def _note(self, record: Record, unlearned: tuple[Message, ...]) -> None:
        if not unlearned:
            return
        self.unlearned_rows += 1
        self.unlearned_beside += any(turn.calls for turn in unlearned)
        if len(self.unlearned) < _EXAMPLES:
            self.unlearned.append(unlearned_example(ref_of(record), unlearned))

    def _rendered(self, record: Record) -> tuple[RowLength, tuple[Message, ...]]:
        """Return the length of a row, of a pair of its longer side, and what is not learned."""
        if not (record.chosen or record.rejected):
            return self._side(record, record.messages)
        prompt = tuple(replace(turn, trained=False) for turn in record.messages)
        answers = filter(None, (record.chosen, record.rejected))
        sides = [self._side(record, prompt + turns) for turns in answers]
        return RowLength(
            max(side.tokens for side, _ in sides), max(side.last_exchange for side, _ in sides)
        ), tuple(turn for _, unlearned in sides for turn in unlearned)

    def _side(
        self, record: Record, messages: tuple[Message, ...]
    ) -> tuple[RowLength, tuple[Message, ...]]:
        try:
            row = self.renderer.encode(messages)
        except RowError as error:
            if isinstance(error.__cause__, TooSlow | MemoryError):
                raise TooSlow(str(error)) from error
            self.refused[safe_line(str(error), limit=120)] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(Example(ref_of(record), safe_line(str(error), limit=120)))
            raise
        self.unterminated += not row.terminated
        if is_raw_text(messages):  # it is cut into rows that fit
            return RowLength(len(row.ids), 0), ()
        last = _last_exchange(messages)
        last_ids = row.ids if len(last) == len(messages) else self.renderer.encode(last).ids
        return RowLength(len(row.ids), len(last_ids)), row.unlearned

    def problems(self) -> Iterator[dict[str, str]]:
        """Yield what stands in the way of training on rows as this model is shown them."""
        measured = self.rendered
        if self.given_up:
            yield {
                "level": "stop" if self.given_up == measured else "warn",
                "code": "template_slow",
                "message": f"Of {plural(measured, 'row')} rendered for {self.name}, "
                f"{self.given_up:,} took more than {self.row_seconds:g} seconds or half a gigabyte "
                "of memory each. Shorten them, or give another template with "
                "--set chat_template=chatml.",
            }
        if self.refused:
            total, first = sum(self.refused.values()), self.refused.most_common(1)[0][0]
            yield {
                "level": "stop" if total == measured else "warn",
                "code": "template_refuses",
                "message": f"{total:,} of {plural(measured, 'row')} cannot be rendered for "
                f"{self.name}; "
                f"most often: {first}.",
            }
        if self.unlearned:
            yield {
                "level": "warn",
                "code": "unlearned_words",
                "message": unlearned_sentence(
                    self.unlearned_rows, self.unlearned_beside, measured, self.unlearned[0]
                ),
            }
        if self.unterminated:
            yield {
                "level": "stop",
                "code": "untrained_end",
                "message": f"In {plural(self.unterminated, 'row')} the template does not end the "
                "assistant's turn with a token at which the model stops: it would never stop. Give "
                "another one with --set chat_template=chatml.",
            }

    def facts(self) -> dict[str, Any]:
        """Return what scripts are told of the model."""
        return {
            "name": self.name,
            "template": self.renderer.template.source,
            "context": self.context,
            "rendered_rows": self.rendered,
            "given_up": self.given_up,
            "refused": dict(self.refused.most_common(_EXAMPLES)),
            "refused_examples": [example.to_json() for example in self.examples],
            "unterminated": self.unterminated,
            "unlearned": self.unlearned_rows,
            "unlearned_examples": [example.to_json() for example in self.unlearned],
        }


def rendered_rows(request: CheckRequest) -> tuple[RenderedRows | None, int | None]:
    """Return what measures rows for the model that is named, and its context in tokens.

    Raises:
        NotFoundError: there is no such model, or it has no weights.
        InvalidFileError: its template cannot be read.
    """
    if request.model is None:
        return None, None
    model = Inventory.open([request.store] if request.store else []).find(request.model)
    if model.blob is None:
        raise NotFoundError(
            f"{safe_line(model.name)} has no weights in the store.",
            "Pull the model again.",
            code="missing_blob",
        )
    tokenizer = GgufTokenizer(read_model(model.blob, model.files))
    template = choose_template(
        request.chat_template, tokenizer.chat_template, tokenizer.special_ids
    )
    try:
        with program_limits(request.row_seconds):
            renderer = ChatRenderer(tokenizer, template, datetime.now(UTC))
    except (TooSlow, MemoryError) as error:
        raise InvalidFileError(
            f"The chat template cannot be read: {error or 'it takes too much memory'}.",
            "Give another one: --set chat_template=chatml",
            code="chat_template",
        ) from error
    context = model.context_length
    return RenderedRows(
        safe_line(model.name), renderer, request.row_seconds, context
    ), context or None


def _last_exchange(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the system messages and the last question with its answer."""
    asked = max((n for n, turn in enumerate(messages) if turn.role == "user"), default=0)
    return tuple(t for n, t in enumerate(messages) if t.role in HEAD_ROLES or n >= asked)
