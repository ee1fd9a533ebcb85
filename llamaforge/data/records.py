"""The canonical row: a conversation with normalised roles, and where it came from."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SPLITS: Final = ("train", "validation", "test")

ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""What each known role is called from here on. Any other role rejects its row."""

RAW_TEXT: Final = "text"
"""The role of a message that is the whole row: a text without a question and an answer."""

LEARNED_ROLES: Final = frozenset({"assistant", RAW_TEXT})
"""What a model learns to write."""

HEAD_ROLES: Final = frozenset({"tools", "system"})
"""What stays in front of a conversation however much of it is left out."""

SPLIT_NAMES: Final = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
"""What a row's own `split` may say, in lower case, and the side that it means."""

_ASKING: Final = ("user", RAW_TEXT)
_OF_TOOLS: Final = ("calls", "name", "call_id")
_ID_CHARACTERS: Final = 16  # 64 bits: a chance of one in 300,000 for a clash in ten million rows


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is `system`, `user`, `assistant` or `tool`; `content` is as it was given.

    Raw text is one message of role `text`.

    What a conversation has on offer stands in front of it as a message of role `tools`, whose
    content is the JSON list of functions that chat templates are given.
    """

    role: str
    content: str
    trained: bool = True
    """Of an assistant's message: whether it is learned. OpenAI's files say no by a weight of 0."""
    calls: str = ""
    """Of an assistant's message: the tools it calls, as the JSON list that templates are given."""
    name: str = ""
    """Of a tool's message: which tool it is of, where the row says so."""
    call_id: str = ""
    """Of a tool's message: the id of the call that it answers, where the row says so."""

    @property
    def words(self) -> str:
        """All that the message says: its content and what it calls."""
        return f"{self.content}\n{self.calls}" if self.calls else self.content


@dataclass(frozen=True, slots=True)
class Record:
    """One row that can be trained on."""

    id: str
    """`record_id` of the messages: equal for exact duplicates, whatever file they are in."""
    source: str
    row: int
    """The 1-based line of a JSON Lines file, or the 1-based position in a JSON array; of a tree
    of messages, where its first message is."""
    messages: tuple[Message, ...]
    """The conversation; of a pair or a labelled answer, the part that answers follow."""
    split: str | None = None
    """The side that the row itself asks for: `train`, `validation`, `test` or none."""
    meta: dict[str, Any] = field(default_factory=dict)
    chosen: tuple[Message, ...] = ()
    """Of a preference pair, the better way to go on; empty for a row to learn from as it is. An
    answer that is labelled by itself stands here alone if it is good."""
    rejected: tuple[Message, ...] = ()
    """The worse way; an answer that is labelled bad by itself stands here alone."""
    repairs: tuple[str, ...] = ()
    """The rules of `repairs.RULES` that changed the row, in the order in which they did."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that cannot be used, and why. `reason` is safe to print."""

    source: str
    row: int
    reason: str


class RowError(Exception):
    """A row cannot be used. The text is the reason, one clause that is safe to print."""


def source_name(path: Path) -> str:
    """Return `path` as text that can be written as UTF-8, whatever bytes the name holds."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def record_id(
    messages: tuple[Message, ...],
    chosen: tuple[Message, ...] = (),
    rejected: tuple[Message, ...] = (),
) -> str:
    """Return 16 hexadecimal digits that are the same for the same conversation or pair.

    Differences in Unicode composition (NFC), line ends and outer white space do not count; which
    answers are learned does.
    """
    turns: object = _identity(messages)
    if chosen or rejected:
        turns = [turns, _identity(chosen), _identity(rejected)]
    return _sha256(json.dumps(turns, ensure_ascii=False))[:_ID_CHARACTERS]


def is_raw_text(messages: Sequence[Message]) -> bool:
    """Return whether a row is raw text, which no template is put around."""
    return len(messages) == 1 and messages[0].role == RAW_TEXT


def settled(text: str) -> str:
    """Return `text` without the differences that do not count: composition, line ends, margins."""
    text = unicodedata.normalize("NFC", text)
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _identity(messages: tuple[Message, ...]) -> list[list[str]]:
    return [
        [
            turn.role,
            settled(turn.content),
            *([] if turn.trained else ["untrained"]),
            *([_without_ids(turn.calls)] if turn.calls else []),
        ]
        for turn in messages
    ]


def _without_ids(calls: str) -> str:
    """Return calls without their ids, which are made up anew whenever a row is written."""
    return json.dumps([call["function"] for call in json.loads(calls)], ensure_ascii=False)


def prompt_key(messages: tuple[Message, ...]) -> str:
    """Return a key that is the same for rows that ask the same thing.

    It covers the text of all user messages, or raw text, with case and white space folded. Rows
    with equal `record_id` have equal keys, since this folding is the coarser one.
    """
    asked = [_folded(message.content) for message in messages if message.role in _ASKING]
    return _sha256(json.dumps(asked, ensure_ascii=False))


def canonical_line(record: Record) -> bytes:
    """Return `record` as one line of JSON: sorted keys, no spare white space, UTF-8, `\\n`."""
    body = {
        "id": record.id,
        "source": record.source,
        "row": record.row,
        "messages": _turns(record.messages),
        "split": record.split,
        "meta": record.meta,
    }
    if record.chosen or record.rejected:
        body["chosen"] = _turns(record.chosen)
        body["rejected"] = _turns(record.rejected)
    if record.repairs:
        body["repairs"] = list(record.repairs)
    return canonical_json(body) + b"\n"


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return messages as JSON; what is trained goes without saying, so older lines stay as is."""
    return [
        {"role": turn.role, "content": turn.content}
        | ({} if turn.trained else {"trained": False})
        | {key: value for key in _OF_TOOLS if (value := getattr(turn, key))}
        for turn in messages
    ]


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys and no spare white space, in UTF-8.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode("utf-8")


def _folded(text: str) -> str:
    # NFC once more: folding case can leave characters that compose (U+0130 becomes i and a dot).
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.split())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
