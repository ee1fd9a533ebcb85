"""How findings point at rows: where a row came from, and a few words of it that may be shown."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from llamaforge.data.records import LEARNED_ROLES, Message, Record
from llamaforge.safe_text import safe_line

EXCERPT_CHARACTERS: Final = 60


@dataclass(frozen=True, slots=True, order=True)
class RowRef:
    """One row of a data file."""

    source: str
    """The file as `Record.source` names it; not yet safe to print."""
    row: int
    """As `Record.row`: the 1-based line or position."""

    def to_json(self) -> dict[str, Any]:
        """Return `{"source", "line"}`."""
        return {"source": self.source, "line": self.row}


@dataclass(frozen=True, slots=True)
class Example:
    """One row that shows what a finding means."""

    ref: RowRef
    text: str = ""
    """A few words, masked and safe to print."""

    def to_json(self) -> dict[str, Any]:
        """Return `{"source", "line", "text"}`."""
        return self.ref.to_json() | {"text": self.text}


def ref_of(record: Record) -> RowRef:
    """Return where `record` came from."""
    return RowRef(record.source, record.row)


def is_pair(record: Record) -> bool:
    """Return whether `record` is a preference pair."""
    return bool(record.chosen and record.rejected)


def is_labelled(record: Record) -> bool:
    """Return whether `record` is one answer that is labelled good or bad by itself."""
    return bool(record.chosen) != bool(record.rejected)


def is_bad(record: Record) -> bool:
    """Return whether `record` is an answer to be unlearned."""
    return bool(record.rejected) and not record.chosen


def whole_conversation(record: Record) -> tuple[Message, ...]:
    """Return the conversation of a row; of a pair with the better answer, of a labelled answer with
    that, which alone is trained."""
    if not is_labelled(record):
        return record.messages + record.chosen
    prompt = tuple(replace(turn, trained=False) for turn in record.messages)
    return prompt + (record.chosen or record.rejected)


def answer_of(record: Record) -> str:
    """Return the text that is judged: the last answer, the better one of a pair, or raw text."""
    turns = record.chosen or record.rejected or record.messages
    return next((turn.words for turn in reversed(turns) if turn.role in LEARNED_ROLES), "")


def question_of(record: Record) -> str:
    """Return what the last user message asks; nothing where there is none."""
    turns = record.messages
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), "")


def all_turns(record: Record) -> Iterable[Message]:
    """Yield every message of `record`, those of both answers of a pair too."""
    yield from record.messages
    yield from record.chosen
    yield from record.rejected


def text_bytes(turns: Iterable[Message]) -> int:
    """Return how long the texts of `turns` are together, in bytes of UTF-8."""
    return sum(len(turn.words.encode("utf-8", "surrogatepass")) for turn in turns)


def excerpt(text: str, limit: int = EXCERPT_CHARACTERS) -> str:
    """Return the beginning of `text` on one line that is safe to print; mask it first."""
    line = " ".join(text[: 4 * limit].split())
    if len(line) <= limit and line.isprintable():  # as most are, and many are asked for
        return line
    cut = line[: limit - 1]
    return f"{cut}…" if cut.isprintable() and len(line) > limit else safe_line(line, limit=limit)
