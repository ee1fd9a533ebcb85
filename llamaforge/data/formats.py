"""What a data file holds, told from its content, and its rows as canonical records."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from llamaforge.data.containers import Container, Row, container_of, rows
from llamaforge.data.images import Images
from llamaforge.data.mapping import CHECKED_ROWS, Mapping, suggested_mapping
from llamaforge.data.privacy import mask_text, masked_line
from llamaforge.data.reading import CHOSEN_HINT, Preference, ReadChoices, RecordReader, Want
from llamaforge.data.records import Record, Rejection, source_name
from llamaforge.data.sample import SAMPLE_ROWS, Sampled, sample
from llamaforge.data.shapes import (
    LABELLED,
    PREFERENCE,
    SHAPES,
    TEXT,
    TREE,
    UNKNOWN,
    candidates,
    shape_of,
    understood,
)
from llamaforge.data.turns import key_list
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

__all__ = [
    "SAMPLE_ROWS",
    "Detection",
    "MappedRow",
    "detect",
    "is_mapped",
    "preview_mapping",
    "read_records",
    "require_readable",
]

AMBIGUOUS_PART: Final = 0.1
"""A second format, or a second reading of rows, is told from this part of the rows on."""

_SAMPLE_KEYS: Final = 100  # a row: bounds what hostile rows can make the sample hold
_CELL_CHARACTERS: Final = 80
_CONVERSATIONS: Final = frozenset(shape.name for shape in SHAPES if shape.read is not None)
_READABLE: Final = _CONVERSATIONS | {PREFERENCE, TREE}


@dataclass(frozen=True, slots=True)
class Detection:
    """What a file was found to hold."""

    container: Container
    format: str
    """The format of most rows among those that can be read; else of most rows."""
    confidence: float
    """Part of the file's rows, by those looked at, that have this format and no other, with values
    that fit it, 0 to 1; 0 for an unknown one. A row that could be two formats counts half."""
    reason: str
    """One clause for people: what the rows looked at are."""
    keys: tuple[str, ...] = ()
    """The keys of the rows looked at, the most frequent first."""
    ambiguous: tuple[str, ...] = ()
    """The formats that it could be, the most likely first; empty where there is no doubt."""
    advice: str = ""
    """A sentence on how to say what the columns mean; empty where there is no doubt."""


@dataclass(frozen=True, slots=True)
class MappedRow:
    """One row beside what a mapping makes of it."""

    row: int
    columns: tuple[tuple[str, str], ...]
    """Its keys and the beginnings of its values, safe to print."""
    outcome: Record | Rejection
    """The record, whose texts are as they were given, or why there is none."""


@dataclass(slots=True)
class _Tally:
    """What was seen in the rows looked at; the sums of weights are estimates for all rows."""

    formats: Counter[str] = field(default_factory=Counter)
    """Rows a format."""
    keys: Counter[str] = field(default_factory=Counter)
    weights: dict[str, float] = field(default_factory=dict)
    """By format."""
    sure: dict[str, float] = field(default_factory=dict)
    """By format: what is that format by its values too; rows of two readings count half."""
    doubts: dict[tuple[str, ...], float] = field(default_factory=dict)
    """By the readings that a row allows, where there are several."""
    total: float = 0.0
    broken: int = 0
    misfits: int = 0
    """Rows with the keys of their format and values of other types."""

    def add(self, row: Sampled) -> None:
        """Count one row."""
        self.total += row.weight
        if row.fields is None:
            self.broken += 1
            return
        shape = shape_of(row.fields)
        self.formats[shape.name] += 1
        self.keys.update(islice(row.fields, _SAMPLE_KEYS))
        _raise_by(self.weights, shape.name, row.weight)
        readings = candidates(row.fields)
        if len(readings) > 1:
            _raise_by(self.doubts, readings, row.weight)
        if shape.name == UNKNOWN:
            return
        if shape.fits(row.fields):
            _raise_by(self.sure, shape.name, row.weight / len(readings))
        else:
            self.misfits += 1


def detect(path: Path) -> Detection:
    """Return what `path` holds, from at most `SAMPLE_ROWS` rows all over it (see `sample`).

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    container = container_of(path)
    tally = _Tally()
    for row in sample(path):
        tally.add(row)
    looked_at = tally.formats.total() + tally.broken
    if not looked_at:
        return Detection(container, UNKNOWN, 0.0, "no rows")
    readable = {name: weight for name, weight in tally.weights.items() if name in _READABLE}
    weights = readable or tally.weights or {UNKNOWN: 0.0}
    found = max(weights, key=lambda name: weights[name])
    keys = tuple(mask_text(key) for key, _ in tally.keys.most_common())
    ambiguous = _ambiguous(tally, found)
    doubted = bool(ambiguous) or (found == UNKNOWN and bool(keys))
    return Detection(
        container,
        found,
        min(tally.sure.get(found, 0.0) / tally.total, 1.0),
        f"of {plural(looked_at, 'row')} looked at: {', '.join(_parts(tally))}",
        keys,
        ambiguous,
        _advice(keys, ambiguous) if doubted else "",
    )


def _raise_by(sums: dict[Any, float], key: object, weight: float) -> None:
    sums[key] = sums.get(key, 0.0) + weight


def _parts(tally: _Tally) -> Iterator[str]:
    """Yield clauses with what the rows looked at are."""
    for name, count in tally.formats.most_common():
        yield f"{count:,} {name}"
    if tally.broken:
        yield f"{tally.broken:,} not valid"
    if tally.misfits:
        yield f"{tally.misfits:,} with values of other types than their format has"


def _ambiguous(tally: _Tally, found: str) -> tuple[str, ...]:
    """Return the formats that a file could be, if more than one has its part of the rows."""
    enough = AMBIGUOUS_PART * tally.total
    shares = sorted(tally.weights.items(), key=lambda entry: -entry[1])
    names = [name for name, weight in shares if weight > enough and name != UNKNOWN]
    doubtful: dict[str, float] = {}
    for readings, weight in tally.doubts.items():
        for name in readings:
            _raise_by(doubtful, name, weight)
    names += [name for name, weight in doubtful.items() if weight > enough]
    names = list(dict.fromkeys(names))
    if found in names and len(names) > 1:
        names = [found, *(name for name in names if name != found)]
    # One reading named by its keys stands for the format itself.
    detailed = {name.partition(" (")[0] for name in names if " (" in name}
    names = [name for name in names if name not in detailed]
    return tuple(names) if len(names) > 1 else ()


def _advice(keys: tuple[str, ...], ambiguous: tuple[str, ...]) -> str:
    doubt = f"The rows could be {' or '.join(ambiguous)}: say" if ambiguous else "Say"
    # Keys come from the file, and a person may copy this into a shell.
    return f"{doubt} what the columns mean, such as: --map {shlex.quote(suggested_mapping(keys))}"


def require_readable(
    path: Path,
    found: Detection,
    *,
    want: Want = "sft",
    preference: Preference = "refuse",
    mapping: Mapping | None = None,
) -> None:
    """Check that a file's rows can be read for what they are wanted for at all.

    A file whose rows are all broken passes: then the rows are what is wrong, not the format. So
    does one whose columns are mapped by hand: `read_records` checks those.

    Raises:
        UsageError: no row looked at has a format that can be read so (`unknown_format`,
            `unsupported_format`); the keys found, what can be read and the way out are named.
    """
    if not found.keys or (mapping is not None and mapping.columns):
        return
    takes_pairs = want != "sft" or preference == "chosen"
    readable = {
        "sft": _CONVERSATIONS | {TREE},
        "preference": {PREFERENCE, TREE},
        "labelled": {LABELLED, PREFERENCE, TREE},
        "any": _READABLE,
    }
    if want == "labelled" and LABELLED in found.ambiguous:
        return
    if found.format in readable[want] or (found.format == PREFERENCE and takes_pairs):
        return
    name = safe_line(source_name(path))
    keys = key_list(found.keys)
    hint = f"Formats that can be read: {understood()}."
    if found.format == UNKNOWN:
        raise UsageError(
            f"The rows of {name} have no known format: {keys}.",
            f"{hint} {found.advice}".strip(),
            code="unknown_format",
        )
    if found.format == PREFERENCE:
        raise UsageError(
            f"{name} cannot be trained on: {_refusal(found.format)} ({keys}).",
            f"{CHOSEN_HINT} To learn from both, train with --method dpo (data check: --preference "
            "pairs).",
            code="unsupported_format",
        )
    if found.format == LABELLED:
        raise UsageError(
            f"{name} cannot be trained on: {_refusal(found.format)} ({keys}).",
            "To learn from labels, train with --method kto (data check: --preference labelled).",
            code="unsupported_format",
        )
    if found.format in _CONVERSATIONS and want == "labelled":
        raise UsageError(
            f"{name} holds no labelled answers: its rows are {found.format} ({keys}).",
            "Name a file whose rows have prompt, completion and label (true or false), or train on "
            "conversations with --method sft.",
            code="unsupported_format",
        )
    if found.format in _CONVERSATIONS:
        raise UsageError(
            f"{name} holds no preference pairs: its rows are {found.format} ({keys}).",
            "Name a file whose rows have chosen and rejected, or train on conversations with"
            " --method sft.",
            code="unsupported_format",
        )
    if found.format == TEXT:
        hint = (
            "To train on the text itself, give --map text=text. To have questions and answers made "
            "of it: llamaforge data generate FILE --documents --model NAME --out rows.jsonl"
        )
    raise UsageError(
        f"{name} cannot be trained on: {_refusal(found.format)} ({keys}).",
        hint,
        code="unsupported_format",
    )


def _refusal(name: str) -> str:
    return next(shape.refusal for shape in SHAPES if shape.name == name)


def read_records(
    path: Path,
    *,
    want: Want = "sft",
    preference: Preference = "refuse",
    images: Images = "refuse",
    mapping: Mapping | None = None,
) -> Iterator[Record | Rejection]:
    """Yield every row of `path` in order: as a record, or with the reason why it is none.

    The formats of rows may differ within a file. Nothing but the row in work is held in memory.
    Messages of trees (oasst) are gathered on disk and read at the end: a tree is one conversation,
    its best path, or a pair for each answer that is ranked below another.

    Args:
        path: the file.
        want: `sft` for conversations, `preference` for pairs, `any` for each as what it is.
        preference: whether pairs are refused where conversations are wanted, or their better
            answers (`chosen`) are conversations then.
        images: whether rows with images are refused, or these are left out (`drop`), or become
            their addresses (`link`).
        mapping: what the columns are and what its roles mean, instead of what their names say.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`; also where there is no
            room to gather trees in (`no_room`).
        UsageError: the mapping names a column that none of the first rows has.
    """
    _require_columns(path, mapping)
    choices = ReadChoices(want, preference, images, mapping)
    yield from RecordReader(source_name(path), choices).records(rows(path))


def preview_mapping(
    path: Path,
    mapping: Mapping,
    rows: int = 5,
    *,
    want: Want = "any",
    images: Images = "refuse",
) -> list[MappedRow]:
    """Return the first `rows` valid rows of `path`, each beside what `mapping` makes of it.

    Raises:
        NotFoundError, RefusedError, InvalidFileError, UsageError: as `read_records`.
    """
    _require_columns(path, mapping)
    reader = RecordReader(source_name(path), ReadChoices(want, "refuse", images, mapping))
    return [
        MappedRow(row.row, tuple(_cells(row)), reader.record(row))
        for row in islice(_valid_rows(path), rows)
    ]


def is_mapped(path: Path, mapping: Mapping) -> bool:
    """Return whether a mapping speaks of this file: one of its columns is in the first rows.

    Raises:
        NotFoundError, RefusedError, InvalidFileError: as `containers.rows`.
    """
    head = [row.fields for row in islice(_valid_rows(path), CHECKED_ROWS)]
    return not head or mapping.has_columns(head)


def _require_columns(path: Path, mapping: Mapping | None) -> None:
    if mapping is None:
        return
    head = (row.fields for row in islice(_valid_rows(path), CHECKED_ROWS))
    mapping.require_columns(head, source_name(path))


def _valid_rows(path: Path) -> Iterator[Row]:
    return (row for row in rows(path) if isinstance(row, Row))


def _cells(row: Row) -> Iterator[tuple[str, str]]:
    for key, value in islice(row.fields.items(), _SAMPLE_KEYS):
        text = value if isinstance(value, str) else json.dumps(value)
        yield masked_line(key, limit=_CELL_CHARACTERS), masked_line(text, limit=_CELL_CHARACTERS)
