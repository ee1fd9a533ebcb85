"""Conversations as token ids, with a mask of the tokens that are trained.

A template may do anything with a message, so where each content ended up is found by rendering
twice: once for real, once with a mark in place of each content. What a content says can then
never become a control token, and exactly the assistant's words and the end of its turn are trained.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llamaforge.data.privacy import masked_line
from llamaforge.data.records import Message, RowError
from llamaforge.data.templates import Template
from llamaforge.errors import InvalidFileError

# Two private-use characters around a number: no template looks for them, few texts hold them.
_OPEN, _CLOSE = "\uf8d0", "\uf8d1"
_OUTPUT_CHARACTERS: Final = 1_000_000
_LOOP_TURNS: Final = 100_000
_MARK: Final = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

TrainOn = Literal["all", "last"]
"""Which of the assistant's turns are trained: every one, or only the last."""


class UntrainedError(RowError):
    """Nothing of the row can be trained."""


class TooLongError(RowError):
    """Even the last exchange of the row has more tokens than are allowed."""


class Tokenizer(Protocol):
    """What rendering needs of a tokenizer; `gguf.tokenizer.GgufTokenizer` is one."""

    special_ids: dict[str, int]
    end_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None

    def encode_with_offsets(
        self, text: str, *, parse_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of `text` and the characters that each stands for."""

    def with_bos(self, ids: list[int]) -> list[int]:
        """Return `ids` with BOS in front where the model wants one."""

    def text_of(self, number: int | None) -> str:
        """Return one token's text."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One conversation as the model sees it."""

    ids: list[int]
    trained: list[bool]
    """For each id, whether it is a target of training."""
    terminated: bool
    """Whether the end of every trained turn is trained too; without it a model never stops."""
    shortened: int = 0
    """Messages that were left out in front, so that the row fits."""


@dataclass(frozen=True, slots=True)
class TracedRow:
    """One conversation as the model sees it, with the text that each token stands for."""

    text: str
    """The rendered conversation."""
    ids: list[int]
    offsets: list[tuple[int, int]]
    """For each id the characters [start, stop) of `text`; empty for a BOS that no template wrote.

    Tokens that share a character, each with some of its bytes, have equal offsets.
    """
    trained: list[bool]
    control: list[bool]
    """For each id, whether it is a control token and no text."""
    terminated: bool
    """As in `EncodedRow`."""
    answers: int
    """Turns of the assistant that were to be trained."""
    found: int
    """How many of them the template shows in a place that can be told."""


@dataclass(frozen=True, slots=True)
class FittedRow:
    """The newest part of a conversation that has room, traced."""

    row: TracedRow
    dropped: int
    """Messages left out in front, system messages not counted."""
    fits: bool
    """Whether the row has room; if not, it is the last exchange alone."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of rendered text: the template's own (`message` None), or one content."""

    text: str
    message: int | None


class ChatRenderer:
    """Renders conversations with one template and one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: Template, today: datetime) -> None:
        """Compile the template; `today` is the date that a template may show.

        Raises:
            InvalidFileError: the template is not valid Jinja.
        """
        self.template = template
        self._tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = today.strftime
        self._budget = _Budget()
        environment.globals["range"] = self._budget.range
        try:
            self._compiled = environment.from_string(template.text)
        # Beside its own errors Jinja lets through what Python says of the code made from it: blocks
        # nested too deep, numbers and texts that are too large.
        except Exception as error:
            raise InvalidFileError(
                f"The chat template cannot be read: {_reason(error, limit=160)}.",
                "Give another one: --set chat_template=chatml",
                code="chat_template",
            ) from error
        # Longest first: one token's text may begin with another's.
        texts = sorted(tokenizer.special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts the rendered text into tokens."""
        return self._tokenizer

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """Return the conversation as text; with `generation_prompt`, up to where an answer begins.

        Raises:
            RowError: the template refuses the conversation.
        """
        return self._render([message.content for message in messages], messages, generation_prompt)

    def encode(self, messages: Sequence[Message], *, train_on: TrainOn = "all") -> EncodedRow:
        """Return the whole conversation with its mask.

        Raises:
            RowError: the template refuses it, or does not show what the assistant says; or no
                answer in it is to be learned.
        """
        return _encoded(self._trained_trace(messages, train_on))

    def encode_within(
        self, messages: Sequence[Message], max_length: int, *, train_on: TrainOn = "all"
    ) -> EncodedRow:
        """Return `encode`, with the oldest exchanges left out until the row fits.

        System messages stay, and so do the last question and its answer: an answer is never cut.

        Raises:
            RowError: as `encode`, or even the last exchange has more than `max_length` tokens, or
                what is left holds no answer to be learned.
        """
        fitted = self.fit(messages, max_length, train_on=train_on)
        if not fitted.fits:
            raise TooLongError(
                f"its last exchange has {len(fitted.row.ids):,} tokens, more than the"
                f" {max_length:,} allowed"
            )
        return _encoded(fitted.row, fitted.dropped)

    def fit(
        self, messages: Sequence[Message], max_length: int, *, train_on: TrainOn = "all"
    ) -> FittedRow:
        """Return what `encode_within` is made of, also where it does not fit.

        Raises:
            RowError: as `encode`.
        """
        row = self._trained_trace(messages, train_on)
        head = [message for message in messages if message.role == "system"]
        turns = [message for message in messages if message.role != "system"]
        dropped = 0
        while len(row.ids) > max_length:
            later = [place for place in range(1, len(turns)) if turns[place].role == "user"]
            if not later:
                return FittedRow(row, dropped, fits=False)
            dropped += later[0]
            turns = turns[later[0] :]
            if not _targets(turns, train_on):
                raise UntrainedError(
                    f"no answer that is to be learned fits into the {max_length:,} tokens allowed"
                )
            row = self._trained_trace([*head, *turns], train_on)
        return FittedRow(row, dropped, fits=True)

    def trace(self, messages: Sequence[Message], *, train_on: TrainOn = "all") -> TracedRow:
        """Return the whole conversation with its mask and places, trained or not.

        Raises:
            RowError: the template refuses it.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        trained: list[bool] = []
        control: list[bool] = []
        pieces = self._pieces(messages, generation_prompt=False)
        targets = _targets(messages, train_on)
        spans = list(self._trained_spans(messages, pieces, targets))
        for part, start, special in self._segments(pieces):
            if special is not None:
                part_ids, part_offsets = [special], [(0, len(part))]
            else:
                part_ids, part_offsets = self._tokenizer.encode_with_offsets(
                    part, parse_special=False
                )
            ids += part_ids
            offsets += [(start + a, start + b) for a, b in part_offsets]
            control += [special is not None] * len(part_ids)
            trained += [_overlaps(spans, start + a, start + max(b, a + 1)) for a, b in part_offsets]
        with_bos = self._tokenizer.with_bos(ids)
        added = len(with_bos) - len(ids)
        return TracedRow(
            text="".join(piece.text for piece in pieces),
            ids=with_bos,
            offsets=[(0, 0)] * added + offsets,
            trained=[False] * added + trained,
            control=[True] * added + control,
            terminated=all(span.terminated for span in spans),
            answers=len(targets),
            found=len(spans),
        )

    def _trained_trace(self, messages: Sequence[Message], train_on: TrainOn) -> TracedRow:
        if not _targets(messages, train_on):
            raise UntrainedError("no answer in it is to be learned")
        row = self.trace(messages, train_on=train_on)
        if not any(row.trained):
            raise UntrainedError("the chat template leaves out everything the assistant says")
        return row

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids up to where the model's answer begins.

        Raises:
            RowError: the template refuses the conversation.
        """
        pieces = self._pieces(messages, generation_prompt=True)
        ids: list[int] = []
        for part, _, special in self._segments(pieces):
            if special is not None:
                ids.append(special)
            else:
                ids += self._tokenizer.encode_with_offsets(part, parse_special=False)[0]
        return self._tokenizer.with_bos(ids)

    def opening_tokens(self, messages: Sequence[Message]) -> set[str]:
        """Return the control tokens that the template puts around turns, those that end them aside.

        Raises:
            RowError: the template refuses the conversation.
        """
        literals = (
            p.text for p in self._pieces(messages, generation_prompt=True) if p.message is None
        )
        found = {token.group() for text in literals for token in self._special.finditer(text)}
        ends = {
            token
            for token in found
            if self._tokenizer.special_ids[token] in self._tokenizer.end_ids
        }
        return found - ends - {self._tokenizer.text_of(self._tokenizer.bos_id)}

    def spells_special(self, content: str) -> bool:
        """Return whether `content` holds the text of a control token."""
        return self._special.search(content) is not None

    def _render(
        self, contents: Sequence[str], messages: Sequence[Message], generation_prompt: bool
    ) -> str:
        turns = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        room = _OUTPUT_CHARACTERS + 8 * sum(map(len, contents))
        self._budget.refill()
        parts: list[str] = []
        try:
            for part in self._compiled.generate(
                messages=turns,
                add_generation_prompt=generation_prompt,
                bos_token=self._tokenizer.text_of(self._tokenizer.bos_id),
                eos_token=self._tokenizer.text_of(self._tokenizer.eos_id),
                tools=None,
            ):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    _raise("it writes without end")
        # A template is a program from outside: whatever it raises is a reason to leave the row out.
        except Exception as error:
            raise RowError(f"the chat template refuses it: {_reason(error, limit=120)}") from error
        return "".join(parts)

    def _pieces(self, messages: Sequence[Message], *, generation_prompt: bool) -> list[_Piece]:
        """Return the rendered text in pieces, each the template's own or one message's content."""
        contents = [message.content for message in messages]
        if any(_OPEN in content or _CLOSE in content for content in contents):
            raise RowError("it holds the private-use characters U+F8D0 or U+F8D1")
        text = self._render(contents, messages, generation_prompt)
        marks = [f"{_OPEN}{number}{_CLOSE}" for number in range(len(contents))]
        marked = self._render(marks, messages, generation_prompt)
        pieces = _aligned(text, marked, contents)
        if pieces is None:
            pieces = self._last_answer(text, messages, generation_prompt)
        return pieces

    def _last_answer(
        self, text: str, messages: Sequence[Message], generation_prompt: bool
    ) -> list[_Piece]:
        """Return pieces for a template that treats contents by what they say.

        Only the last answer is told apart then, as what follows the prompt that asks for it.
        """
        if any(self.spells_special(message.content) for message in messages):
            raise RowError("it holds a control token's text that the template would obey")
        if generation_prompt or messages[-1].role != "assistant":
            return [_Piece(text, None)]
        prompt = self._render(
            [message.content for message in messages[:-1]], messages[:-1], generation_prompt=True
        )
        answer = messages[-1].content.strip()
        place = text.rfind(answer)
        if not text.startswith(prompt) or place < len(prompt):
            raise RowError("the chat template changes what the assistant says")
        return [
            _Piece(text[:place], None),
            _Piece(answer, len(messages) - 1),
            _Piece(text[place + len(answer) :], None),
        ]

    def _segments(self, pieces: Sequence[_Piece]) -> Iterator[tuple[str, int, int | None]]:
        """Yield text between control tokens, and those tokens: text, its start, the token's id.

        Only the template's own text can hold control tokens. Text on both sides of a content is
        encoded together with it, since tokens reach over that border when it is served.
        """
        start = position = 0
        text = "".join(piece.text for piece in pieces)
        for piece in pieces:
            if piece.message is None:
                for found in self._special.finditer(piece.text):
                    if position + found.start() > start:
                        yield text[start : position + found.start()], start, None
                    start = position + found.end()
                    token = found.group()
                    yield token, position + found.start(), self._tokenizer.special_ids[token]
            position += len(piece.text)
        if start < len(text):
            yield text[start:], start, None

    def _trained_spans(
        self, messages: Sequence[Message], pieces: Sequence[_Piece], targets: frozenset[int]
    ) -> Iterator["_Span"]:
        """Yield the characters to train: each answer in `targets` and what ends it."""
        opening, lead = self._answer_opening(messages, pieces)
        position = 0
        for number, piece in enumerate(pieces):
            if piece.message in targets:
                # What a template puts between the prompt's end and the answer (an empty thinking
                # block) must come from the model when it is served, so it is trained too.
                before = pieces[number - 1].text if number else ""
                place = before.rfind(opening) if opening else -1
                extra = len(before) - place - len(opening) if place >= 0 else 0
                if lead and before.endswith(lead):
                    extra = len(lead)
                after = pieces[number + 1].text if number + 1 < len(pieces) else ""
                end = self._special.search(after)
                ends = end is not None and (
                    self._tokenizer.special_ids[end.group()] in self._tokenizer.end_ids
                )
                stop = end.end() if ends and end is not None else 0
                yield _Span(position - extra, position + len(piece.text) + stop, ends)
            position += len(piece.text)

    def _answer_opening(
        self, messages: Sequence[Message], pieces: Sequence[_Piece]
    ) -> tuple[str, str]:
        """Return what the template adds to ask for an answer, such as `<|im_start|>assistant`.

        Where it adds nothing, the second text is the white space that it writes in front of an
        answer, which the model has to write itself then.
        """
        asked = next(
            (place for place, message in enumerate(messages) if message.role == "assistant"), 0
        )
        if asked == 0:
            return "", ""
        question = messages[:asked]
        without = self.render(question)
        with_prompt = self.render(question, generation_prompt=True)
        if with_prompt != without:
            return with_prompt[len(without) :] if with_prompt.startswith(without) else "", ""
        before = "".join(piece.text for piece in _before(pieces, asked))
        lead = before.removeprefix(with_prompt)
        return "", lead if lead.isspace() and lead != before else ""


class _Budget:
    """How often the loops of one rendering may turn; templates from outside could turn for ever."""

    def __init__(self) -> None:
        self._left = 0

    def refill(self) -> None:
        """Begin another rendering."""
        self._left = _LOOP_TURNS

    def range(self, *bounds: int) -> range:
        """Return Python's `range`, if the budget has room for it."""
        wanted = range(*bounds)
        self._left -= len(wanted)
        if self._left < 0:
            _raise("it loops without end")
        return wanted


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    stop: int
    terminated: bool


def _before(pieces: Sequence[_Piece], message: int) -> Sequence[_Piece]:
    """Return the pieces in front of a message; all where it is not among them."""
    numbers = [piece.message for piece in pieces]
    return pieces[: numbers.index(message) if message in numbers else len(pieces)]


def _targets(messages: Sequence[Message], train_on: TrainOn) -> frozenset[int]:
    """Return the places of the messages that are trained."""
    answers = [place for place, turn in enumerate(messages) if turn.role == "assistant"]
    chosen = answers[-1:] if train_on == "last" else answers
    return frozenset(place for place in chosen if messages[place].trained)


def _encoded(row: TracedRow, shortened: int = 0) -> EncodedRow:
    return EncodedRow(row.ids, row.trained, row.terminated, shortened)


def _overlaps(spans: Sequence[_Span], start: int, stop: int) -> bool:
    return any(span.start < stop and start < span.stop for span in spans)


def _aligned(text: str, marked: str, contents: Sequence[str]) -> list[_Piece] | None:
    """Return `text` in pieces as `marked` shows them; None where the two do not fit together.

    A template may trim a content; anything else it does to one makes the two differ.
    """
    parts = _MARK.split(marked)  # literal, number, literal, number, …, literal
    if not text.startswith(parts[0]):
        return None
    pieces = [_Piece(parts[0], None)]
    position = len(parts[0])
    for number, literal in zip(parts[1::2], parts[2::2], strict=True):
        for variant in _variants(contents[int(number)]):
            end = position + len(variant)
            if text.startswith(variant, position) and text.startswith(literal, end):
                pieces += [_Piece(variant, int(number)), _Piece(literal, None)]
                position = end + len(literal)
                break
        else:
            return None
    return pieces if position == len(text) else None


def _variants(content: str) -> Iterator[str]:
    """Yield what trimming can make of a content, the least change first."""
    yield from dict.fromkeys(
        (content, content.rstrip(), content.lstrip(), content.strip(), content.strip("\n"),
         content.lstrip("\n"))
    )  # fmt: skip


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    known: Mapping[str, Any] = {
        key: options[key] for key in ("indent", "separators", "sort_keys") if key in options
    }
    return json.dumps(value, ensure_ascii=bool(options.get("ensure_ascii", False)), **known)


def _reason(error: Exception, limit: int) -> str:
    """Return what an error of a template says, safe to print."""
    if isinstance(error, MemoryError):
        return "it asks for too much memory"
    return masked_line(str(error), limit=limit) or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
