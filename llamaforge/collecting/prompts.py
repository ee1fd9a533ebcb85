"""Prompts out of files: rows of data files, or the lines of a text file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import whole_text
from llamaforge.data.containers import Row, reading, require_file, rows
from llamaforge.data.json_row import kind
from llamaforge.data.records import ROLES, Message, Rejection, RowError, source_name
from llamaforge.safe_text import safe_line

TEXT_SUFFIXES: Final = frozenset({".txt", ".text", ".md", ".markdown"})
MAX_PROMPT_CHARACTERS: Final = 1_000_000

_CONVERSATIONS: Final = ("messages", "conversations")
_TEXTS: Final = ("prompt", "question", "instruction", "query", "q", "user", "input", "text")
"""Where a row's prompt is looked for, in this order."""
_EXTRAS: Final = ("input", "context")
"""What an instruction is about, in the words of Alpaca and Dolly."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: messages of which the last is the user's, and where it stands."""

    source: str
    row: int
    messages: tuple[Message, ...]


def read_prompts(
    sources: Sequence[Path], *, system: str = "", column: str | None = None
) -> Iterator[Prompt | Rejection]:
    """Yield the prompt of every row of data files and of every line of text files, in order.

    A row's prompt is its conversation up to the last user message, or else its first text of
    `prompt`, `question`, `instruction` (with `input` or `context` below it), `query`, `q`, `user`,
    `input` and `text`. Answers that it may have are not looked at.

    Args:
        sources: the files.
        system: the system text of every prompt that has none of its own.
        column: the key that holds the prompt, where it is another one.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    for path in sources:
        name = source_name(path)
        for row in text_lines(path) if is_text(path) else rows(path):
            if isinstance(row, Rejection):
                yield row
                continue
            try:
                yield Prompt(name, row.row, _prompt(row.fields, system, column))
            except RowError as error:
                yield Rejection(name, row.row, str(error))


def is_text(path: Path) -> bool:
    """Return whether the name is that of a text file, whose lines are the rows."""
    return path.suffix.lower() in TEXT_SUFFIXES


def text_lines(path: Path) -> Iterator[Row | Rejection]:
    """Yield each line of a UTF-8 text file that is not blank, as a row with a `text`.

    Raises:
        NotFoundError, RefusedError: as `require_file`.
    """
    require_file(path)
    name = source_name(path)
    with reading(path), path.open("rb") as file:
        number = 0
        while line := file.readline(4 * MAX_PROMPT_CHARACTERS + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError:
                yield Rejection(name, number, "the line is not UTF-8, or far too long")
                continue
            if text:
                yield Row(number, {"text": text})


def _prompt(fields: Mapping[str, Any], system: str, column: str | None) -> tuple[Message, ...]:
    messages = _found(fields, column)
    own = fields.get("system")
    if isinstance(own, str) and own.strip():
        system = own
    if system.strip() and not any(turn.role == "system" for turn in messages):
        messages.insert(0, Message("system", system))
    if sum(len(turn.content) for turn in messages) > MAX_PROMPT_CHARACTERS:
        raise RowError(f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters")
    return tuple(Message(turn.role, whole_text(turn.content)) for turn in messages)


def _found(fields: Mapping[str, Any], column: str | None) -> list[Message]:
    if column is not None:
        if column not in fields:
            raise RowError(f"the row has no {safe_line(column, limit=40)}")
        return _as_messages(fields[column], safe_line(column, limit=40))
    for key in (*_CONVERSATIONS, *_TEXTS):
        if fields.get(key) is None:
            continue
        if key == "instruction":
            return [Message("user", _instruction(fields))]
        return _as_messages(fields[key], key)
    raise RowError("the row has no prompt: name the key that holds it with --column")


def _as_messages(value: object, key: str) -> list[Message]:
    if isinstance(value, list):
        return _conversation(value, key)
    if not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not a text")
    if not value.strip():
        raise RowError(f"the prompt is empty: {key}")
    return [Message("user", value)]


def _instruction(fields: Mapping[str, Any]) -> str:
    asked = fields["instruction"]
    if not isinstance(asked, str) or not asked.strip():
        raise RowError("the prompt is empty: instruction")
    for key in _EXTRAS:
        extra = fields.get(key)
        if isinstance(extra, str) and extra.strip():
            return f"{asked}\n\n{extra}"
    return asked


def _conversation(turns: list[Any], key: str) -> list[Message]:
    messages = [_turn(turn, f"message {number} of {key}") for number, turn in enumerate(turns, 1)]
    while messages and messages[-1].role != "user":
        messages.pop()
    if not messages or not messages[-1].content.strip():
        raise RowError(f"the prompt is empty: {key} has no user message with text")
    return messages


def _turn(turn: object, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"{where} is {kind(turn)}, not an object")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError(f"{where} has no known role")
    if not isinstance(content, str):
        raise RowError(f"the content of {where} is {kind(content)}, not a text")
    return Message(known, content)
