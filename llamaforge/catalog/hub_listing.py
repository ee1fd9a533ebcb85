"""The list of a commit's files that `huggingface_hub` leaves in its cache.

Source of the format: `huggingface_hub/_tree_cache.py`, format version 1. A commit never changes,
so a list once stored stays true.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_layout import BLOB
from llamaforge.catalog.hub_weights import read_small
from llamaforge.errors import InvalidFileError

_FORMAT_VERSION: Final = 1
_MAX_LISTING_BYTES: Final = 16_000_000


@dataclass(frozen=True)
class Listed:
    """One file of a commit."""

    size_bytes: int
    etag: str
    """The name of its blob."""


def stored_listing(place: Path, commit: str) -> dict[str, Listed] | None:
    """Return the files of a commit of the repository at `place`, None where no list is stored."""
    data = read_small(place / "trees" / f"{commit}.json", _MAX_LISTING_BYTES)
    if data is None:
        return None
    try:
        value = parse_json(data, commit)
    except InvalidFileError:
        return None
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or value.get("format_version") != _FORMAT_VERSION:
        return None
    listing = {name: _listed(entry) for name, entry in files.items()}
    return {name: entry for name, entry in listing.items() if entry is not None} or None


def _listed(entry: Any) -> Listed | None:
    if not isinstance(entry, dict):
        return None
    large = entry.get("lfs_sha256") is not None
    size = entry.get("lfs_size" if large else "size")
    etag = entry.get("lfs_sha256" if large else "blob_id")
    if not isinstance(size, int) or size < 0:
        return None
    if not isinstance(etag, str) or not BLOB.fullmatch(etag):
        return None
    return Listed(size, etag)
