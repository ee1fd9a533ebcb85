"""Conversations as token ids, with a mask of the tokens that are trained.

What a content says never becomes a control token, and exactly the assistant's words and calls and
the end of its turn are trained.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Literal, Protocol

from llamaforge.data.answer_spans import AnswerSpans, Span
from llamaforge.data.pieces import ControlToken, ControlTokens, Piece, PieceCutter
from llamaforge.data.records import HEAD_ROLES, LEARNED_ROLES, Message, RowError, is_raw_text
from llamaforge.data.rendering import Bounded, CompiledTemplate
from llamaforge.data.templates import Template

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
    is_part: bool = False
    """Whether it is a part of raw text that does not fit into one row."""
    unlearned: tuple[Message, ...] = ()
    """As in `TracedRow`."""


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
    unlearned: tuple[Message, ...]
    """Those with words that are not trained, since the template leaves them out or changes them.

    The call of a tool beside such words may be trained nevertheless.
    """


@dataclass(frozen=True, slots=True)
class FittedRow:
    """The newest part of a conversation that has room, traced."""

    row: TracedRow
    dropped: int
    """Messages left out in front, system messages not counted."""
    fits: bool
    """Whether the row has room; if not, it is the last exchange alone."""


class ChatRenderer:
    """Renders conversations with one template and one tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        today: datetime,
        bounded: Bounded = nullcontext,
    ) -> None:
        """Compile the template; `today` is the date that a template may show.

        What the template does happens within `bounded`, as in `CompiledTemplate`.

        Raises:
            InvalidFileError: the template is not valid Jinja.
        """
        self.template = template
        self._tokenizer = tokenizer
        self._compiled = CompiledTemplate(template, tokenizer, today, bounded)
        self._control = ControlTokens(tokenizer)
        self._cutter = PieceCutter(self._compiled, self._control)
        self._spans = AnswerSpans(self._compiled, self._cutter, self._control)

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts the rendered text into tokens."""
        return self._tokenizer

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """Return the conversation as text; with `generation_prompt`, up to where an answer begins.

        Raises:
            RowError: the template refuses the conversation.
        """
        return self._compiled.render(messages, generation_prompt=generation_prompt)

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

    def encode_fitting(
        self, messages: Sequence[Message], max_length: int, *, train_on: TrainOn = "all"
    ) -> list[EncodedRow]:
        """Return `encode_within`, or raw text in as many parts as fit into `max_length` each.

        Raises:
            RowError: as `encode_within`.
        """
        if not is_raw_text(messages):
            return [self.encode_within(messages, max_length, train_on=train_on)]
        row = self._trained_trace(messages, train_on)
        if len(row.ids) <= max_length:
            return [_encoded(row)]
        bos = len(row.ids) - sum(row.trained)
        ids, size = row.ids[bos:], max(1, max_length - bos)
        parts = (self._tokenizer.with_bos(ids[at : at + size]) for at in range(0, len(ids), size))
        return [
            EncodedRow(part, [number >= bos for number in range(len(part))], True, is_part=True)
            for part in parts
        ]

    def fit(
        self, messages: Sequence[Message], max_length: int, *, train_on: TrainOn = "all"
    ) -> FittedRow:
        """Return what `encode_within` is made of, also where it does not fit.

        Raises:
            RowError: as `encode`.
        """
        row = self._trained_trace(messages, train_on)
        head = [message for message in messages if message.role in HEAD_ROLES]
        turns = [message for message in messages if message.role not in HEAD_ROLES]
        dropped = 0
        while len(row.ids) > max_length:
            if is_raw_text(messages):  # it is trained in parts
                break
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
        pieces = self._cutter.cut(messages, generation_prompt=False)
        targets = _targets(messages, train_on)
        spans = list(self._spans.find(messages, pieces, targets))
        for part, start, special in self._segments(pieces):
            if special is not None:
                part_ids, part_offsets = [special.id], [(0, len(part))]
            else:
                part_ids, part_offsets = self._tokenizer.encode_with_offsets(
                    part, parse_special=False
                )
            ids += part_ids
            offsets += [(start + a, start + b) for a, b in part_offsets]
            control += [special is not None] * len(part_ids)
            trained += _overlapping(spans, start, part_offsets)
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
            unlearned=_unlearned(messages, pieces, targets),
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
        pieces = self._cutter.cut(messages, generation_prompt=True)
        ids: list[int] = []
        for part, _, special in self._segments(pieces):
            if special is not None:
                ids.append(special.id)
            else:
                ids += self._tokenizer.encode_with_offsets(part, parse_special=False)[0]
        return self._tokenizer.with_bos(ids)

    def opening_tokens(self, messages: Sequence[Message]) -> set[str]:
        """Return the control tokens that the template puts around turns, those that end them aside.

        Raises:
            RowError: the template refuses the conversation.
        """
        pieces = self._cutter.cut(messages, generation_prompt=True)
        found = {
            token.text
            for piece in pieces
            if piece.message is None
            for token in self._control.within(piece.text)
            if not token.ends
        }
        return found - {self._tokenizer.text_of(self._tokenizer.bos_id)}

    def spells_special(self, content: str) -> bool:
        """Return whether `content` holds the text of a control token."""
        return self._control.spelled_in(content)

    def _segments(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, int, ControlToken | None]]:
        """Yield text between control tokens, and those tokens: text, its start, the token.

        Only the template's own text can hold control tokens. Text on both sides of a content is
        encoded together with it, since tokens reach over that border when it is served.
        """
        start = position = 0
        text = "".join(piece.text for piece in pieces)
        for piece in pieces:
            if piece.message is None:
                for token in self._control.within(piece.text):
                    if position + token.start > start:
                        yield text[start : position + token.start], start, None
                    start = position + token.stop
                    yield token.text, position + token.start, token
            position += len(piece.text)
        if start < len(text):
            yield text[start:], start, None


def _targets(messages: Sequence[Message], train_on: TrainOn) -> frozenset[int]:
    """Return the places of the messages that are trained."""
    answers = [place for place, turn in enumerate(messages) if turn.role in LEARNED_ROLES]
    chosen = answers[-1:] if train_on == "last" else answers
    return frozenset(place for place in chosen if messages[place].trained)


def _encoded(row: TracedRow, shortened: int = 0) -> EncodedRow:
    return EncodedRow(row.ids, row.trained, row.terminated, shortened, unlearned=row.unlearned)


def _unlearned(
    messages: Sequence[Message], pieces: Sequence[Piece], targets: frozenset[int]
) -> tuple[Message, ...]:
    """Return the answers in `targets` that say something of which no piece is found."""
    shown = {piece.message for piece in pieces}
    return tuple(
        messages[place] for place in sorted(targets - shown) if messages[place].content.strip()
    )


def _overlapping(
    spans: Sequence[Span], start: int, offsets: Sequence[tuple[int, int]]
) -> list[bool]:
    """Return which tokens of a text reach into one of `spans`.

    `offsets` are the characters of each, counted from `start`, in ascending order.
    """
    found = [False] * len(offsets)
    for span in spans:
        first = bisect_right(offsets, span.start - start, key=_end)
        last = bisect_left(offsets, span.stop - start, key=itemgetter(0))
        found[first:last] = [True] * max(0, last - first)
    return found


def _end(characters: tuple[int, int]) -> int:
    """Return where a token ends; one of no characters reaches into the next."""
    return max(characters[1], characters[0] + 1)
