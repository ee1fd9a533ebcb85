"""OASST files, whose rows are the messages of trees, as conversations and preference pairs.

Fields as documented by LAION for OpenAssistant: `message_id`, `parent_id`, `text`, `role`, `rank`
(0 is the best of siblings), `deleted`, `review_result`; in the nested files `prompt` with
`replies`. Messages are kept in a temporary database that SQLite moves to disk when it grows, so
that they may stand in any order and memory stays bounded. Nobody else can open it, and it goes with
the process.
"""

import json
import math
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

from llamaforge.data.json_row import kind
from llamaforge.data.preference import Pair
from llamaforge.data.privacy import masked_line
from llamaforge.data.records import ROLES, Message, RowError

Fields = Mapping[str, Any]
TREE_KEYS: Final = ("message_id", "parent_id", "text", "role")
MAX_TURNS: Final = 1000
"""Messages from a tree's root to a leaf. Longer chains are a mistake."""

_Values = tuple[str, str, float | None, bool]
_MAX_ID_CHARACTERS: Final = 200
_PLACED: Final = """
CREATE TABLE messages (
    place INTEGER PRIMARY KEY, row INTEGER, id TEXT UNIQUE, parent TEXT, role TEXT, text TEXT,
    rank REAL, usable INTEGER
);
CREATE INDEX children ON messages (parent, role, usable, rank, place);
"""
# A child is chosen by its rank; those that nobody ranked come last, in the order of the file.
_BEST_CHILD: Final = """
SELECT id, role, text FROM messages WHERE parent = ? AND usable AND role <> ?
ORDER BY rank IS NULL, rank, place LIMIT 1
"""
_RANKED: Final = """
SELECT text, rank FROM messages
WHERE parent = ? AND usable AND role = 'assistant' AND rank IS NOT NULL ORDER BY rank, place
"""
_ORPHANS: Final = """
WITH RECURSIVE reached (id) AS (
    SELECT id FROM messages WHERE parent IS NULL
    UNION SELECT messages.id FROM messages JOIN reached ON messages.parent = reached.id
)
SELECT row, parent, EXISTS (SELECT 1 FROM messages AS p WHERE p.id = messages.parent)
FROM messages WHERE id NOT IN (SELECT id FROM reached) ORDER BY place
"""


@dataclass(frozen=True, slots=True)
class TreeItem:
    """What one tree, or one message without a tree, comes to."""

    row: int
    """The row of the tree's first message."""
    tree: str
    """The id of that message."""
    found: list[Message] | Pair | RowError
    """A conversation, a pair, or why it is neither."""


def is_tree_message(fields: Fields) -> bool:
    """Return whether a row is one message of a tree."""
    return all(key in fields for key in TREE_KEYS)


def is_nested_tree(fields: Fields) -> bool:
    """Return whether a row is a whole tree."""
    prompt = fields.get("prompt")
    return isinstance(prompt, Mapping) and "replies" in prompt and "text" in prompt


class Forest:
    """The messages of one file, added row by row and then read tree by tree."""

    def __init__(self) -> None:
        # The name "" means a private file that is deleted as soon as it is open; 8 MiB stay in
        # memory. Whoever reads may be another thread than the one that made this, in its turn.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA cache_size = -8192")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_PLACED)
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Delete the messages."""
        self._database.close()

    def add(self, row: int, fields: Fields) -> None:
        """Add the message that stands in `row`.

        Raises:
            RowError: it is none, or its id is taken.
        """
        parent = fields["parent_id"]
        self._insert(
            row,
            _key(fields["message_id"], "message_id"),
            None if parent is None or parent == "" else _key(parent, "parent_id"),
            _message(fields),
        )

    def add_nested(self, row: int, fields: Fields) -> None:
        """Add all messages of the tree that stands in `row`; their ids count within it only.

        Raises:
            RowError: one of them is none; then nothing is added.
        """
        waiting: list[tuple[object, str | None]] = [(fields["prompt"], None)]
        found: list[tuple[str, str | None, _Values]] = []
        while waiting:
            message, parent = waiting.pop()
            number = len(found) + 1
            if not isinstance(message, Mapping) or not {"text", "role"} <= message.keys():
                raise RowError(f"message {number} of the tree has no text or no role")
            own = json.dumps([row, number])  # no id of another file is a list
            found.append((own, parent, _message(message)))
            replies = message.get("replies") or []
            if not isinstance(replies, list):
                raise RowError(f"the replies of message {number} are {kind(replies)}, not a list")
            waiting += [(reply, own) for reply in reversed(replies)]
        for own, parent, values in found:
            self._insert(row, own, parent, values)

    def _insert(self, row: int, key: str, parent: str | None, values: _Values) -> None:
        done = self._database.execute(
            "INSERT OR IGNORE INTO messages (row, id, parent, role, text, rank, usable)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row, key, parent, *values),
        )
        if not done.rowcount:
            raise RowError("another message before this one has its message_id")

    def items(self, want: Literal["conversation", "pairs"]) -> Generator[TreeItem, None, None]:
        """Yield what each tree comes to, in the order of their first messages, then the orphans.

        A conversation follows the best reply of each message, as far as there are answers. A pair
        is the best answer to a prompt and one that is ranked below it.
        """
        read = self._conversation if want == "conversation" else self._pairs
        with closing(self._database.cursor()) as roots:
            roots.execute(
                "SELECT row, id, role, text, usable FROM messages WHERE parent IS NULL"
                " ORDER BY place"
            )
            for row, key, role, text, usable in roots:
                root = _shown(key)
                if not usable:
                    reason = RowError("the first message of the tree was deleted or turned down")
                    yield TreeItem(row, root, reason)
                    continue
                for found in read(key, Message(role, json.loads(text))):
                    yield TreeItem(row, root, found)
        yield from self._orphans()

    def _conversation(self, root: str, first: Message) -> Iterator[list[Message] | Pair | RowError]:
        turns = [first]
        key = root
        while child := self._database.execute(_BEST_CHILD, (key, turns[-1].role)).fetchone():
            key = child[0]
            turns.append(Message(child[1], json.loads(child[2])))
            if len(turns) > MAX_TURNS:
                yield RowError(f"the tree is deeper than {MAX_TURNS:,} messages")
                return
        if turns[-1].role == "user" and len(turns) > 1:
            turns.pop()  # a question that nobody answered is how most trees end
        yield turns if len(turns) > 1 else RowError("nobody answered in this tree")

    def _pairs(self, root: str, first: Message) -> Iterator[list[Message] | Pair | RowError]:
        """Yield the pairs below every question of a tree, by a walk that keeps one path."""
        found = False
        path = [first]
        below = [self._children(root)] if first.role == "user" else []
        if below:
            for pair in self._pairs_below(root, path):
                found = True
                yield pair
        while below:
            child = next(below[-1], None)
            if child is None:
                below.pop()
                path.pop()
                continue
            key, role, text = child
            if len(path) >= MAX_TURNS:
                yield RowError(f"the tree is deeper than {MAX_TURNS:,} messages")
                return
            path.append(Message(role, json.loads(text)))
            below.append(self._children(key))
            if role == "user":
                for pair in self._pairs_below(key, path):
                    found = True
                    yield pair
        if not found:
            yield RowError("no two answers to one question of this tree have different ranks")

    def _children(self, key: str) -> Iterator[tuple[str, str, str]]:
        return self._database.execute(
            "SELECT id, role, text FROM messages WHERE parent = ? AND usable ORDER BY place", (key,)
        )

    def _pairs_below(self, key: str, path: list[Message]) -> Iterator[Pair]:
        ranked = self._database.execute(_RANKED, (key,))
        best = ranked.fetchone()
        if best is None:
            return
        chosen = Message("assistant", json.loads(best[0]))
        for text, rank in ranked:
            if rank > best[1]:
                yield Pair(list(path), [chosen], [Message("assistant", json.loads(text))])

    def _orphans(self) -> Iterator[TreeItem]:
        for row, parent, has_parent in self._database.execute(_ORPHANS):
            shown = _shown(parent)
            reason = (
                f"the message follows {shown}, which no first message leads to"
                if has_parent
                else f"the message follows {shown}, which is not in the file"
            )
            yield TreeItem(row, "", RowError(reason))


def _message(fields: Fields) -> _Values:
    """Return role, text, rank and whether the message may be used.

    Half characters cannot be stored as they are; JSON's escapes for them can.
    """
    usable = fields.get("deleted") is not True and fields.get("review_result") is not False
    text = json.dumps(_text(fields["text"]))
    return _role(fields["role"]), text, _rank(fields.get("rank")), usable


def _key(value: object, name: str) -> str:
    """Return an id as text that tells numbers and texts apart and holds ASCII only."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"{name} is {kind(value)}, not an id")
    key = json.dumps(value)
    if not value and value != 0:
        raise RowError(f"{name} is empty")
    if len(key) > _MAX_ID_CHARACTERS:
        raise RowError(f"{name} is longer than {_MAX_ID_CHARACTERS} characters")
    return key


def _shown(key: str) -> str:
    return masked_line(str(json.loads(key)), limit=60)


def _role(role: object) -> str:
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known not in {"user", "assistant"}:
        shown = masked_line(repr(role), limit=40) if isinstance(role, str) else kind(role)
        raise RowError(f"the role of the message is {shown}, not prompter or assistant")
    return known


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise RowError(f"text is {kind(text)}, not a text")
    return text


def _rank(rank: object) -> float | None:
    if rank is None or rank == "":
        return None
    try:
        if isinstance(rank, bool) or not isinstance(rank, int | float | str):
            raise ValueError
        value = float(rank)
    except (ValueError, OverflowError):
        raise RowError("rank is not a number") from None
    return None if math.isnan(value) else value  # tables write NaN for what is missing
