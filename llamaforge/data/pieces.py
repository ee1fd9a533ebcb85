"""Rendered conversations cut into the template's own text and what each message says.

A template may do anything with a message, so where each content ended up is found by rendering
twice: once for real, once with a mark in place of each content.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from llamaforge.data.records import Message, RowError
from llamaforge.data.rendering import CompiledTemplate
from llamaforge.data.tool_calls import tool_names, tool_texts

# Two private-use characters around a number: no template looks for them, few texts hold them.
_OPEN, _CLOSE = "\uf8d0", "\uf8d1"
_MARK: Final = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class ControlIds(Protocol):
    """What is to be known of a tokenizer's control tokens."""

    special_ids: dict[str, int]
    end_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of rendered text: the template's own (`message` None), or one content."""

    text: str
    message: int | None


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A control token within a text."""

    text: str
    start: int
    id: int
    ends: bool
    """Whether a model that writes it has ended its turn."""

    @property
    def stop(self) -> int:
        """The first character behind it."""
        return self.start + len(self.text)


class ControlTokens:
    """Finds a tokenizer's control tokens in text."""

    def __init__(self, tokenizer: ControlIds) -> None:
        self._tokenizer = tokenizer
        # Longest first: one token's text may begin with another's.
        texts = sorted(tokenizer.special_ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def within(self, text: str, start: int = 0) -> Iterator[ControlToken]:
        """Yield the control tokens in `text` from the character `start` on."""
        for found in self._pattern.finditer(text, start):
            number = self._tokenizer.special_ids[found.group()]
            ends = number in self._tokenizer.end_ids
            yield ControlToken(found.group(), found.start(), number, ends)

    def spelled_in(self, text: str) -> bool:
        """Return whether `text` holds the text of a control token."""
        return self._pattern.search(text) is not None


class PieceCutter:
    """Renders with one template, and tells what in the text is whose."""

    def __init__(self, template: CompiledTemplate, control: ControlTokens) -> None:
        self._template = template
        self._control = control

    def cut(self, messages: Sequence[Message], *, generation_prompt: bool) -> list[Piece]:
        """Return the rendered text in pieces, each the template's own or one message's content.

        Raises:
            RowError: the template refuses the conversation, changes what is said in it, or does
                not show its tools.
        """
        contents = [message.content for message in messages]
        if any(_OPEN in content or _CLOSE in content for content in contents):
            raise RowError("it holds the private-use characters U+F8D0 or U+F8D1")
        with_tools = self._require_plain_tools(messages)
        text = self._template.render(messages, generation_prompt=generation_prompt)
        # Whether a call stands beside words or alone, templates write it in two ways.
        marks = [
            "" if message.calls and not message.content else f"{_OPEN}{number}{_CLOSE}"
            for number, message in enumerate(messages)
        ]
        marked = self._template.render(
            messages, contents=marks, generation_prompt=generation_prompt
        )
        pieces = _aligned(text, marked, contents)
        if pieces is None and with_tools:
            raise RowError("the chat template changes what is said in a row with tools")
        if pieces is None:
            pieces = self._last_answer(text, messages, generation_prompt)
        hidden = [name for name in tool_names(messages) if name not in text]
        if hidden:
            raise RowError("the chat template does not show the tools that the row offers")
        return pieces

    def _require_plain_tools(self, messages: Sequence[Message]) -> bool:
        """Return whether a conversation has to do with tools.

        They are written by the template, whose own text may hold control tokens, so theirs may not.
        """
        texts = [text for text in tool_texts(messages) if text]
        if any(self._control.spelled_in(text) for text in texts):
            raise RowError("a tool or a call spells a control token")
        return bool(texts)

    def _last_answer(
        self, text: str, messages: Sequence[Message], generation_prompt: bool
    ) -> list[Piece]:
        """Return pieces for a template that treats contents by what they say.

        Only the last answer is told apart then, as what follows the prompt that asks for it.
        """
        if any(self._control.spelled_in(message.content) for message in messages):
            raise RowError("it holds a control token's text that the template would obey")
        if generation_prompt or messages[-1].role != "assistant":
            return [Piece(text, None)]
        prompt = self._template.render(messages[:-1], generation_prompt=True)
        answer = messages[-1].content.strip()
        place = text.rfind(answer)
        if not text.startswith(prompt) or place < len(prompt):
            raise RowError("the chat template changes what the assistant says")
        return [
            Piece(text[:place], None),
            Piece(answer, len(messages) - 1),
            Piece(text[place + len(answer) :], None),
        ]


def before(pieces: Sequence[Piece], message: int) -> Sequence[Piece]:
    """Return the pieces in front of a message; all where it is not among them."""
    numbers = [piece.message for piece in pieces]
    return pieces[: numbers.index(message) if message in numbers else len(pieces)]


def _aligned(text: str, marked: str, contents: Sequence[str]) -> list[Piece] | None:
    """Return `text` in pieces as `marked` shows them; None where the two do not fit together.

    A template may trim a content; anything else it does to one makes the two differ.
    """
    parts = _MARK.split(marked)  # literal, number, literal, number, …, literal
    if not text.startswith(parts[0]):
        return None
    pieces = [Piece(parts[0], None)]
    position = len(parts[0])
    for number, literal in zip(parts[1::2], parts[2::2], strict=True):
        for variant in _variants(contents[int(number)]):
            end = position + len(variant)
            if text.startswith(variant, position) and text.startswith(literal, end):
                pieces += [Piece(variant, int(number)), Piece(literal, None)]
                position = end + len(literal)
                break
        else:
            return None
    return pieces if position == len(text) else None


def _variants(content: str) -> Iterator[str]:
    """Yield what trimming can make of a content, the least change first, and it within JSON."""
    yield from dict.fromkeys(
        (content, content.rstrip(), content.lstrip(), content.strip(), content.strip("\n"),
         content.lstrip("\n"), json.dumps(content, ensure_ascii=False)[1:-1])
    )  # fmt: skip
