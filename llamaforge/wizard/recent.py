"""Places of rows that were looked through before, so that they need not be typed again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llamaforge import paths
from llamaforge.files import write_json

_MOST: Final = 12
_MAX_BYTES: Final = 256 * 1024


def recent_sources() -> tuple[str, ...]:
    """Return the places that are still there, the newest first."""
    try:
        data = _file().read_bytes()
        body = json.loads(data) if len(data) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(body, list):
        return ()
    return tuple(text for text in body if isinstance(text, str) and _is_there(text))[:_MOST]


def remember_sources(sources: Sequence[str]) -> None:
    """Put these first; a home that cannot be written to is passed over."""
    known = list(dict.fromkeys([*sources, *recent_sources()]))[:_MOST]
    try:
        write_json(_file(), known)
    except OSError:
        return


def _is_there(text: str) -> bool:
    if text.startswith("hf:"):
        return True
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _file() -> Path:
    return paths.home() / "recent.json"
