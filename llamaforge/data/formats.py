"""What a data file holds, told from its content, and its rows as canonical records."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from llamaforge.data.containers import Container, Row, container_of, rows
from llamaforge.data.json_row import kind
from llamaforge.data.records import (
    SPLIT_NAMES,
    Record,
    Rejection,
    RowError,
    canonical_json,
    record_id,
    source_name,
)
from llamaforge.data.shapes import SHAPES, UNKNOWN, key_list, messages_of, shape_of, understood
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line

SAMPLE_ROWS: Final = 1000
"""Rows at the head of a file that `detect` looks at; every row is looked at by `read_records`."""

_SAMPLE_KEYS: Final = 100  # a row: bounds what hostile rows can make the sample hold
_READABLE: Final = frozenset(shape.name for shape in SHAPES if shape.read is not None)


@dataclass(frozen=True, slots=True)
class Detection:
    """What a file was found to hold."""

    container: Container
    format: str
    """The format of most rows among those that can be read; else of most rows."""
    confidence: float
    """Part of the rows looked at that have this format, 0 to 1."""
    reason: str
    """One clause for people: what the rows looked at are."""
    keys: tuple[str, ...] = ()
    """The keys of the rows looked at, the most frequent first."""


def detect(path: Path) -> Detection:
    """Return what `path` holds, from its first `SAMPLE_ROWS` rows.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    container = container_of(path)
    formats: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    broken = 0
    for row in islice(rows(path), SAMPLE_ROWS):
        if isinstance(row, Rejection):
            broken += 1
        else:
            formats[shape_of(row.fields).name] += 1
            keys.update(islice(row.fields, _SAMPLE_KEYS))
    looked_at = formats.total() + broken
    if not looked_at:
        return Detection(container, UNKNOWN, 0.0, "no rows")
    readable = Counter({name: count for name, count in formats.items() if name in _READABLE})
    found = (readable or formats or Counter({UNKNOWN: 0})).most_common(1)[0]
    parts = [f"{count:,} {name}" for name, count in formats.most_common()]
    if broken:
        parts.append(f"{broken:,} not valid")
    return Detection(
        container,
        found[0],
        found[1] / looked_at,
        f"of {looked_at:,} rows looked at: {', '.join(parts)}",
        tuple(key for key, _ in keys.most_common()),
    )


def require_readable(path: Path, found: Detection) -> None:
    """Check that a file's rows can be trained on at all.

    A file whose rows are all broken passes: then the rows are what is wrong, not the format.

    Raises:
        UsageError: no row looked at has a format that can be read; the keys found and the formats
            that can be are named.
    """
    if found.format in _READABLE or not found.keys:
        return
    name = safe_line(source_name(path))
    hint = f"Formats that can be read: {understood()}."
    keys = key_list(list(found.keys))
    if found.format == UNKNOWN:
        raise UsageError(
            f"The rows of {name} have no known format: {keys}.", hint, code="unknown_format"
        )
    refusal = next(shape.refusal for shape in SHAPES if shape.name == found.format)
    raise UsageError(
        f"{name} cannot be trained on: {refusal} ({keys}).", hint, code="unsupported_format"
    )


def read_records(path: Path) -> Iterator[Record | Rejection]:
    """Yield every row of `path` in order: as a record, or with the reason why it is none.

    The formats of rows may differ within a file. Nothing but the row in work is held in memory.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    name = source_name(path)
    for row in rows(path):
        if isinstance(row, Rejection):
            yield row
            continue
        try:
            yield _record(row, name)
        except RowError as error:
            yield Rejection(name, row.row, str(error))


def _record(row: Row, source: str) -> Record:
    messages = messages_of(row.fields)
    split = _split(row.fields.get("split"))
    meta = _meta(row.fields.get("meta"))
    try:
        return Record(record_id(messages), source, row.row, messages, split, meta)
    except UnicodeEncodeError:
        raise RowError("a text holds half a character (a lone surrogate)") from None


def _split(value: object) -> str | None:
    if value is None:
        return None
    side = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if side is None:
        given = safe_line(repr(value), limit=40) if isinstance(value, str) else kind(value)
        raise RowError(f"split is {given}, not train, validation or test")
    return side


def _meta(value: object) -> dict[str, Any]:
    """Return a row's `meta`; what is not an object is kept under that name in a new one."""
    if value is None:
        return {}
    try:
        canonical_json(value)
    except UnicodeEncodeError:
        raise RowError("meta holds half a character (a lone surrogate)") from None
    return value if isinstance(value, dict) else {"meta": value}
