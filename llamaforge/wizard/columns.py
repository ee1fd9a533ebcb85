"""Which column is the question and which the answer: what could be meant, shown on real rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from llamaforge.data.formats import MappedRow, detect, preview_mapping
from llamaforge.data.mapping import Mapping, Template, suggested_mapping
from llamaforge.data.mapping import Path as Column
from llamaforge.data.records import Record
from llamaforge.data.sources import expand, parse_source
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.draft import Draft

_SHOWN_ROWS: Final = 3
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
    """The columns of a draft's first file."""

    of: tuple[Any, ...] = ()
    """The sources that were looked at."""
    choices: tuple[ColumnChoice, ...] = ()
    """The most likely one first."""


def column_facts(draft: Draft) -> ColumnFacts:
    """Return how the columns could be read; of what cannot be looked at, nothing."""
    try:
        path = first_file(draft)
        if path is None:
            return ColumnFacts(draft.sources)
        keys = detect(path).keys
        rows = preview_mapping(path, Mapping(), 1)
    except (LlamaForgeError, OSError):
        return ColumnFacts(draft.sources)
    values = dict(rows[0].columns) if rows else {}
    return ColumnFacts(draft.sources, tuple(_choices(keys, values))[:_MOST_CHOICES])


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


def first_file(draft: Draft) -> Path | None:
    """Return the first file of a draft that is on this machine.

    Raises:
        LlamaForgeError: a source cannot be found.
    """
    sources = [parse_source(text) for text in draft.sources]
    local = [source for source in sources if not source.is_on_the_hub]
    files = expand(local).paths if local else ()
    return files[0] if files else None


def shown_rows(draft: Draft, text: str) -> list[MappedRow]:
    """Return the first rows of the draft's first file as the mapping `text` reads them.

    Raises:
        LlamaForgeError: the mapping makes no sense, or the file cannot be read.
    """
    path = first_file(draft)
    if path is None or not text:
        return []
    return preview_mapping(path, Mapping.parse(text), _SHOWN_ROWS)


def row_words(row: MappedRow) -> list[tuple[str, str]]:
    """Return what a mapped row became, as label and value; safe to print."""
    outcome = row.outcome
    if not isinstance(outcome, Record):
        return [(f"row {row.row}", safe_line(f"cannot be used: {outcome.reason}", limit=200))]
    found = [(turn.role, safe_line(turn.content, limit=160)) for turn in outcome.messages]
    found += [("better", safe_line(turn.content, limit=160)) for turn in outcome.chosen]
    (first, words), *rest = found or [("", "")]
    return [(f"row {row.row} {first}", words), *rest]
