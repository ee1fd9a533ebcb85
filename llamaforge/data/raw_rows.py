"""One row as its file holds it: named values, not yet judged; and what all readers share."""

import re
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.json_row import parse_json
from llamaforge.data.records import RowError

MAX_ROW_BYTES: Final = 16 * 1024 * 1024
TOO_LONG: Final = f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB"

LIST_COLUMNS: Final = frozenset({"messages", "conversations", "history"})
"""Columns that hold lists: a text in them that begins as JSON has to be JSON."""
JSON_COLUMNS: Final = LIST_COLUMNS | {"chosen", "rejected", "prompt", "completion"}
"""Columns whose text may be messages written as JSON."""
_MESSAGE_KEYS: Final = ({"role", "content"}, {"from", "value"})
"""What a message that stands alone has; a list of them is told by less."""

_OPENING: Final = ("[", "{")
_BAD_BYTE: Final = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its 1-based line or position, and its fields."""

    row: int
    """The line of a text file on which the row begins; else its position in the file."""
    fields: dict[str, Any]


def cell_value(column: str, text: str) -> Any:
    """Return what a cell holds: its text or, in a column of `JSON_COLUMNS`, messages as JSON.

    A prompt that begins with a bracket and is no JSON is a text like any other, and so is an answer
    that is JSON but no messages.

    Raises:
        RowError: the column has to hold a list, and the cell is broken JSON.
    """
    if column not in JSON_COLUMNS or not text.lstrip()[:1].startswith(_OPENING):
        return text
    try:
        value = parse_json(text)
    except RowError as error:
        if column in LIST_COLUMNS:
            raise RowError(f"the cell {column} does not hold JSON: {error}") from None
        return text
    return value if column in LIST_COLUMNS or _are_messages(value) else text


def _are_messages(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict) and item.keys() & {"role", "from"} for item in value)
    return isinstance(value, dict) and any(keys <= value.keys() for keys in _MESSAGE_KEYS)


def require_unicode(text: str) -> None:
    """Check a text that was decoded with the error handler `surrogateescape`.

    Raises:
        RowError: it holds a byte that is not UTF-8.
    """
    if not text.isascii() and (found := _BAD_BYTE.search(text)):
        raise RowError(f"byte 0x{ord(found.group()) - 0xDC00:02x} is not UTF-8")
