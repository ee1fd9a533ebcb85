"""How one row looks to the model: its tokens as text, which of them are trained, and why not.

Nothing here prints: `to_body` and `from_body` carry a preview from the process that renders it to
the one that shows it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from llamaforge.data.chat import ChatRenderer, Tokenizer, TracedRow, TrainOn, UntrainedError
from llamaforge.data.records import HEAD_ROLES, Message, RowError
from llamaforge.words import plural

MOST_TOKENS: Final = 20_000
"""Tokens of one row that a preview shows; the rest is counted."""

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE: Final = "▁"


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token. All text is as the row and the template have it: make it safe before printing."""

    id: int
    text: str
    """The characters it stands for. A token that holds only some bytes of a character shows those
    as `\\xf0`; one that stands for none (a space that the vocabulary adds) shows as `▁`."""
    start: int
    """Its first character in the rendered text."""
    stop: int
    """The character after its last; tokens that share a character overlap."""
    trained: bool
    special: bool
    """Whether it is a control token; a content that spells one is only text."""
    whole: bool = True
    """Whether `text` is exactly the characters from `start` to `stop`."""


@dataclass(frozen=True, slots=True)
class PreviewProblem:
    """What is to be said of a row: an `error` keeps it from being trained, a `note` does not."""

    level: str
    code: str
    """`refused`, `too_long`, `no_trained_token`, `untrained_end`, `unreadable`, or of a note
    `shortened`, `answers_left_out`, `words_left_out`, `control_text`, `cut_preview`."""
    message: str
    """A clause that is safe to print."""


@dataclass(frozen=True, slots=True)
class Preview:
    """One row as the model sees it."""

    text: str
    """The rendered conversation; empty where the template refuses it."""
    tokens: tuple[PreviewToken, ...] = ()
    token_count: int = 0
    """Of the whole row, also where `tokens` shows less."""
    trained_count: int = 0
    shortened: int = 0
    """Messages left out so that the row fits."""
    left_out: tuple[Message, ...] = ()
    """Those messages."""
    problems: tuple[PreviewProblem, ...] = ()
    source: str = ""
    row: int = 0
    """The 1-based row of `source`; 0 for a conversation that is in no file."""

    @property
    def trainable(self) -> bool:
        """Whether a run would train on this row."""
        return all(problem.level != "error" for problem in self.problems)

    @property
    def truncated(self) -> bool:
        """Whether a part of the conversation is left out, or would have to be."""
        return self.shortened > 0 or any(item.code == "too_long" for item in self.problems)


def preview(
    messages: Sequence[Message],
    renderer: ChatRenderer,
    max_length: int,
    *,
    train_on: TrainOn = "all",
    source: str = "",
    row: int = 0,
    most_tokens: int = MOST_TOKENS,
) -> Preview:
    """Return how `messages` look to the model when rows have at most `max_length` tokens.

    A row that cannot be trained has a preview too, with the reason among its problems.
    """
    try:
        fitted = renderer.fit(messages, max_length, train_on=train_on)
    except UntrainedError as error:
        return _untrained(messages, renderer, train_on, str(error), (source, row), most_tokens)
    except RowError as error:
        return refused(str(error), source, row)
    traced = fitted.row
    problems: list[PreviewProblem] = []
    if not fitted.fits:
        problems.append(
            PreviewProblem(
                "error",
                "too_long",
                f"its last exchange has {len(traced.ids):,} tokens, more than the {max_length:,}"
                " allowed",
            )
        )
    if not traced.terminated:
        problems.append(
            PreviewProblem(
                "error",
                "untrained_end",
                "the template does not end an answer with a token at which the model stops, so it"
                " would never learn to stop",
            )
        )
    turns = [message for message in messages if message.role not in HEAD_ROLES]
    left_out = tuple(turns[: fitted.dropped])
    if left_out:
        problems.append(
            PreviewProblem(
                "note",
                "shortened",
                f"{plural(len(left_out), 'message')} in front {_is(len(left_out))} left out, so"
                f" that the row has at most {max_length:,} tokens",
            )
        )
    problems += _notes(messages, traced, renderer)
    return _shown(traced, renderer.tokenizer, tuple(problems), left_out, (source, row), most_tokens)


def refused(reason: str, source: str = "", row: int = 0, *, code: str = "refused") -> Preview:
    """Return the preview of a row that cannot be rendered at all; `reason` is safe to print."""
    return Preview("", problems=(PreviewProblem("error", code, reason),), source=source, row=row)


def to_body(shown: Preview) -> dict[str, Any]:
    """Return a preview as JSON values; `tokens` are objects with the fields of `PreviewToken`."""
    return asdict(shown) | {"trainable": shown.trainable, "truncated": shown.truncated}


def from_body(body: Mapping[str, Any]) -> Preview:
    """Return the preview that `to_body` gave.

    Raises:
        KeyError, TypeError: `body` is none.
    """
    names = ("text", "token_count", "trained_count", "shortened", "source", "row")
    return Preview(
        **{name: body[name] for name in names},
        tokens=tuple(PreviewToken(**token) for token in body["tokens"]),
        left_out=tuple(Message(**turn) for turn in body["left_out"]),
        problems=tuple(PreviewProblem(**problem) for problem in body["problems"]),
    )


def _untrained(
    messages: Sequence[Message],
    renderer: ChatRenderer,
    train_on: TrainOn,
    reason: str,
    place: tuple[str, int],
    most_tokens: int,
) -> Preview:
    """Return the preview of a row in which nothing is trained: the text shows why."""
    problem = PreviewProblem("error", "no_trained_token", reason)
    try:
        traced = renderer.trace(messages, train_on=train_on)
    except RowError as error:  # it is refused by another part of the conversation
        return refused(str(error), *place)
    return _shown(traced, renderer.tokenizer, (problem,), (), place, most_tokens)


def _shown(
    traced: TracedRow,
    tokenizer: Tokenizer,
    problems: tuple[PreviewProblem, ...],
    left_out: tuple[Message, ...],
    place: tuple[str, int],
    most_tokens: int,
) -> Preview:
    if len(traced.ids) > most_tokens:
        text = f"only the first {most_tokens:,} of {len(traced.ids):,} tokens are shown"
        problems += (PreviewProblem("note", "cut_preview", text),)
    tokens = tuple(preview_tokens(traced, tokenizer, most_tokens))
    cut = len(traced.ids) > most_tokens
    return Preview(
        text=traced.text[: max((token.stop for token in tokens), default=0)]
        if cut
        else traced.text,
        tokens=tokens,
        token_count=len(traced.ids),
        trained_count=sum(traced.trained),
        shortened=len(left_out),
        left_out=left_out,
        problems=problems,
        source=place[0],
        row=place[1],
    )


def _notes(
    messages: Sequence[Message], traced: TracedRow, renderer: ChatRenderer
) -> Iterator[PreviewProblem]:
    beside = sum(bool(turn.calls) for turn in traced.unlearned)
    if beside:
        yield PreviewProblem(
            "note",
            "words_left_out",
            "the template leaves out what the assistant says beside "
            f"{plural(beside, 'call')} of a tool, so these words are not trained",
        )
    missing = traced.answers - traced.found
    if missing > 0:
        yield PreviewProblem(
            "note",
            "answers_left_out",
            f"the template changes or hides {plural(missing, 'earlier answer')}, which"
            f" {_is(missing)} not trained",
        )
    if any(renderer.spells_special(message.content) for message in messages):
        yield PreviewProblem(
            "note", "control_text", "a content spells a control token; it is encoded as plain text"
        )


def preview_tokens(
    traced: TracedRow, tokenizer: Tokenizer, most: int = MOST_TOKENS
) -> Iterator[PreviewToken]:
    """Yield the first `most` tokens of `traced` with the text that each stands for."""
    parts = _Parts(traced.text, in_bytes=_is_written_in_bytes(tokenizer))
    count = len(traced.ids)
    for number, token in enumerate(traced.ids[:most]):
        start, stop = traced.offsets[number]
        known = tokenizer.text_of(token)
        is_control = traced.control[number]
        shares = (number > 0 and traced.offsets[number - 1][1] > start) or (
            number + 1 < count and traced.offsets[number + 1][0] < stop
        )
        if start == stop:
            text, whole = known if is_control else _SPACE, False
        elif is_control or not shares:
            text, whole = traced.text[start:stop], True
        else:
            text, whole = parts.next(start, stop, known)
        yield PreviewToken(token, text, start, stop, traced.trained[number], is_control, whole)


class _Parts:
    """Tells which bytes each of several tokens stands for that share characters."""

    def __init__(self, text: str, *, in_bytes: bool) -> None:
        self._text = text
        self._in_bytes = in_bytes
        self._character = 0  # the first that is not told whole
        self._told = 0  # its bytes that are

    def next(self, start: int, stop: int, known: str) -> tuple[str, bool]:
        """Return what the next token shows as, and whether that is all of its characters.

        Args:
            start: its first character.
            stop: the character after its last.
            known: how the vocabulary writes it.
        """
        stretch = self._text[start:stop].encode("utf-8", "surrogatepass")
        skipped = self._told if self._character == start else 0
        for piece in _spellings(known, in_bytes=self._in_bytes):
            if piece and stretch.startswith(piece, skipped):
                told = skipped + len(piece)
                ends = [
                    place
                    for place in range(1, told + 1)
                    if place == len(stretch) or stretch[place] & 0xC0 != 0x80
                ]
                self._character, self._told = start + len(ends), told - max(ends, default=0)
                if piece == stretch:
                    return self._text[start:stop], True
                return piece.decode("utf-8", "backslashreplace"), False
        return known, False  # it stands for none of them: a space that the vocabulary adds


def _is_written_in_bytes(tokenizer: Tokenizer) -> bool:
    """Return whether the vocabulary writes each byte as a character, as GPT-2's does."""
    ids, _ = tokenizer.encode_with_offsets("\n", parse_special=False)
    return [tokenizer.text_of(number) for number in ids] == ["Ċ"]


def _spellings(known: str, *, in_bytes: bool) -> Iterator[bytes]:
    """Yield the bytes that a vocabulary may mean by how it writes a token."""
    if in_bytes and all(char in _BYTE_OF for char in known):
        yield bytes(_BYTE_OF[char] for char in known)
        return
    found = _BYTE_TOKEN.fullmatch(known)
    if found:
        yield bytes([int(found[1], 16)])
    spaced = known.replace(_SPACE, " ").encode("utf-8", "surrogatepass")
    yield spaced
    yield spaced.removeprefix(b" ")  # the space in front that such a vocabulary adds


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on, in order.
    Source: `bytes_to_unicode` of GPT-2's `encoder.py`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF: Final = _byte_alphabet()


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
