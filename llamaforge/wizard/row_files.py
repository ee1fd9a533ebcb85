"""The files that a draft's rows lie in, on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.data import library
from llamaforge.data.formats import is_mapped
from llamaforge.data.mapping import Mapping as Columns
from llamaforge.data.sources import expand, parse_source
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.hub_fetch import fetch_dataset
from llamaforge.safe_text import safe_line
from llamaforge.wizard.draft import Draft, whole_sources

_FROZEN: Final = ("train.jsonl", "validation.jsonl", "test.jsonl")


@dataclass(frozen=True)
class RowFiles:
    """What the sources of a draft stand for."""

    of: tuple[str, ...] = ()
    """The sources, with whole paths."""
    paths: tuple[Path, ...] = ()
    problem: str = ""
    """Why they cannot be found; empty where they can."""


def row_files(draft: Draft) -> RowFiles:
    """Return the files of a draft's rows.

    A dataset of the Hub is one file a split; it is fetched if that was not done before, which takes
    as long as the download.
    """
    try:
        if draft.snapshot:
            kept = library.find(draft.snapshot)
            names = [name for name in _FROZEN if kept.manifest.files[name].rows]
            return RowFiles(whole_sources(draft), tuple(kept.folder / name for name in names))
        sources = [parse_source(text) for text in draft.sources]
        return RowFiles(whole_sources(draft), expand(sources, fetch_dataset).paths)
    except LlamaForgeError as error:
        return RowFiles(whole_sources(draft), (), f"{error.message} {error.hint}".strip())


def files_for(draft: Draft, known: RowFiles | None) -> RowFiles:
    """Return `known` where that is of the draft's sources; else look for them."""
    is_current = known is not None and known.of == whole_sources(draft)
    return known if is_current and known is not None else row_files(draft)


def files_of_report(draft: Draft, report: Mapping[str, Any]) -> RowFiles | None:
    """Return the files that a check of the rows has read; None where it does not tell."""
    found = [Path(source["path"]) for source in report.get("sources", ())]
    if draft.snapshot or not found or not all(path.is_absolute() for path in found):
        return None
    return RowFiles(whole_sources(draft), tuple(found))


def file_word(path: Path) -> str:
    """Return a file's name as it is said beside others; safe to print."""
    return safe_line(path.name, limit=40)


def map_for(draft: Draft, files: RowFiles, file: int) -> str | None:
    """Return the mapping for one of the files: of several, it is for those with a column of it."""
    if not draft.map:
        return None
    alone = len(files.paths) == 1
    return draft.map if alone or is_mapped(files.paths[file], Columns.parse(draft.map)) else None
