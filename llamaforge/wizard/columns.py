"""Which column is the question and which the answer: what could be meant, shown on real rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from llamaforge.data.formats import MappedRow, detect, is_mapped, preview_mapping
from llamaforge.data.mapping import Mapping, Template, suggested_mapping
from llamaforge.data.mapping import Path as Column
from llamaforge.data.records import Record
from llamaforge.data.shapes import TEXT
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.row_files import RowFiles, file_word

_SHOWN_ROWS: Final = 3
_SHOWN_FILES: Final = 4
_SHOWN_OF_SEVERAL: Final = 1
"""Rows of each, where there are several files."""
_LOOKED_AT_FILES: Final = 20
_MOST_COLUMNS: Final = 5
_MOST_CHOICES: Final = 8
_CHARACTERS: Final = 36


@dataclass(frozen=True)
class ColumnChoice:
    """One way to read the columns."""

    map: str
    title: str
    example: str
    """The first row read so; safe to print."""


@dataclass(frozen=True)
class ColumnFacts:
    """The columns of a draft's rows."""

    of: tuple[Any, ...] = ()
    """The sources that were looked at."""
    choices: tuple[ColumnChoice, ...] = ()
    """The most likely one first."""


def column_facts(files: RowFiles) -> ColumnFacts:
    """Return how the columns could be read; of what cannot be looked at, nothing.

    Of several files it is the first that does not say itself what its rows are that counts.
    """
    try:
        found = _to_map(files.paths)
        if found is None:
            return ColumnFacts(files.of)
        path, keys = found
        rows = preview_mapping(path, Mapping(), 1)
    except (LlamaForgeError, OSError):
        return ColumnFacts(files.of)
    values = dict(rows[0].columns) if rows else {}
    return ColumnFacts(files.of, tuple(_choices(keys, values))[:_MOST_CHOICES])


def _to_map(paths: Sequence[Path]) -> tuple[Path, tuple[str, ...]] | None:
    """Return the file whose columns are asked for, and these; None where there is no file."""
    known: tuple[Path, tuple[str, ...]] | None = None
    for path in paths[:_LOOKED_AT_FILES]:
        found = detect(path)
        known = known or (path, found.keys)
        if found.advice or found.format == TEXT:
            return path, found.keys
    return known


def _choices(keys: tuple[str, ...], values: dict[str, str]) -> Iterator[ColumnChoice]:
    guess = suggested_mapping(keys)
    pairs = [
        (_text(prompt=ask, completion=answer), f"{_name(ask)} → {_name(answer)}",
         f"{_cut(values, ask)} → {_cut(values, answer)}")
        for ask, answer in permutations(keys[:_MOST_COLUMNS], 2)
    ]  # fmt: skip
    # What the names suggest comes first, the rest in the order of the file.
    pairs.sort(key=lambda pair: pair[0] != guess)
    yield from (ColumnChoice(*pair) for pair in pairs[: _MOST_CHOICES - 1])
    if keys:
        longest = max(keys, key=lambda key: len(values.get(key, "")))
        title = f"{_name(longest)} alone, as text to go on reading"
        yield ColumnChoice(_text(text=longest), title, _cut(values, longest))


def _text(**columns: str) -> str:
    return str(Mapping({target: Template((Column(key),)) for target, key in columns.items()}))


def _name(key: str) -> str:
    return safe_line(key, limit=_CHARACTERS)


def _cut(values: dict[str, str], key: str) -> str:
    text = values.get(safe_line(key, limit=80), "")
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


@dataclass(frozen=True)
class ShownFile:
    """The first rows of a file as a mapping reads them."""

    name: str
    """Of the file; empty where there is only one. Safe to print."""
    rows: tuple[MappedRow, ...] = ()
    words: str = ""
    """What is to be said in place of rows; safe to print."""


def shown_rows(files: RowFiles, text: str) -> list[ShownFile]:
    """Return the first rows of each file as the mapping `text` reads them.

    A file that has none of its columns is read as what it is, as long as another one has.

    Raises:
        LlamaForgeError: the mapping makes no sense, or fits no file.
    """
    if not text or not files.paths:
        return []
    mapping = Mapping.parse(text)
    if len(files.paths) == 1:
        return [ShownFile("", tuple(preview_mapping(files.paths[0], mapping, _SHOWN_ROWS)))]
    paths = files.paths[:_SHOWN_FILES]
    mapped = [is_mapped(path, mapping) for path in paths]
    if not any(mapped):
        mapping.require_columns(_head(paths[0]), paths[0].name)
    return [
        _shown(path, mapping) if fits else _left_alone(path)
        for path, fits in zip(paths, mapped, strict=True)
    ]


def _shown(path: Path, mapping: Mapping) -> ShownFile:
    try:
        return ShownFile(file_word(path), tuple(preview_mapping(path, mapping, _SHOWN_OF_SEVERAL)))
    except LlamaForgeError as error:
        return ShownFile(file_word(path), words=safe_line(str(error), limit=300))


def _left_alone(path: Path) -> ShownFile:
    found = detect(path)
    if found.advice:
        return ShownFile(file_word(path), words="has none of these columns, and cannot be read")
    return ShownFile(file_word(path), words=f"has none of these columns: read as {found.format}")


def _head(path: Path) -> list[dict[str, Any]]:
    """Return the first row of a file with its columns, for the words of an error."""
    return [dict.fromkeys(detect(path).keys, "")]


def file_words(shown: ShownFile) -> list[tuple[str, str]]:
    """Return what is shown of a file, as label and value; safe to print."""
    words = [pair for row in shown.rows for pair in row_words(row)]
    if not shown.name:
        return words
    return [(shown.name, shown.words or "read so:"), *words]


def row_words(row: MappedRow) -> list[tuple[str, str]]:
    """Return what a mapped row became, as label and value; safe to print."""
    outcome = row.outcome
    if not isinstance(outcome, Record):
        return [(f"row {row.row}", safe_line(f"cannot be used: {outcome.reason}", limit=200))]
    found = [(turn.role, safe_line(turn.content, limit=160)) for turn in outcome.messages]
    found += [("better", safe_line(turn.content, limit=160)) for turn in outcome.chosen]
    (first, words), *rest = found or [("", "")]
    return [(f"row {row.row} {first}", words), *rest]
