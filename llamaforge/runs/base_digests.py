"""Over which full-precision weights a run was trained: the sha256 of each of their files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.files import write_json
from llamaforge.runs.directory import RunDirectory
from llamaforge.safe_text import safe_line

_FILE: Final = "base.json"
_SHA256_DIGITS: Final = 64


def read_digests(run: RunDirectory) -> dict[str, str]:
    """Return the sha256 of each file of weights, by its name; empty where nothing is known."""
    try:
        body = json.loads((run.data / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def note_digests(run: RunDirectory, digests: Mapping[str, str]) -> None:
    """Keep the digests with the run's rows."""
    run.data.mkdir(parents=True, exist_ok=True)
    write_json(run.data / _FILE, dict(digests))


def digest_of_link(path: Path) -> str:
    """Return the sha256 by which the Hub's cache names the file at `path`; empty where it has no
    such name. Nothing of the file is read."""
    said = path.resolve().name
    is_digest = len(said) == _SHA256_DIGITS and not set(said) - set("0123456789abcdef")
    return said if path.is_symlink() and is_digest else ""


def check_same_base(before: RunDirectory, digests: Mapping[str, str]) -> None:
    """Return unless the adapter of the run `before` belongs to other full-precision weights.

    Args:
        before: the run that is gone on from.
        digests: of the files of weights now, by their names; an empty one is not known.

    Raises:
        RefusedError: `other_base`, with the file that differs.
    """
    for name, digest in read_digests(before).items():
        now = digests.get(name)
        if now and now != digest:
            raise RefusedError(
                f"The adapter of the run {before.id} was trained over other full-precision "
                f"weights: {safe_line(name, limit=80)} was {digest[:12]}…, and is {now[:12]}….",
                "Name the weights that it was trained over with --base, or begin with a new "
                "adapter.",
                code="other_base",
            )
