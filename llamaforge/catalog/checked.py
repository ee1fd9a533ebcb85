"""What was found when the whole of a blob was read, kept as long as the file stays the same.

Reading a large file takes minutes on a slow disk, and a person who tries recipes starts many runs
on one model. The notes lie in the program's home, in `cache/`. They are a help and never a need:
what is wrong with them is passed over, and the file is read again.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge import paths
from llamaforge.files import sha256_of, write_json
from llamaforge.gguf.finite import not_finite
from llamaforge.gguf.header import read_header

_NAME: Final = "checked-1.json"
_MOST: Final = 500
_SETTLED_NS: Final = 2_000_000_000
"""A file that changed less long ago may change again without its time telling so."""


@dataclass(frozen=True)
class Checked:
    """What the whole of a file says."""

    digest: str
    """sha256, 64 hexadecimal digits."""
    not_finite: str
    """The first tensor that holds an infinite value or no number; empty where none does."""


def checked(path: Path, digest: str, on_bytes: Callable[[int], None] | None = None) -> Checked:
    """Return what the whole file at `path` says, read now or, if it is unchanged, some time ago.

    Args:
        path: a GGUF file.
        digest: the sha256 that it should have, in hexadecimal; values are looked at only if so.
        on_bytes: takes the number of bytes read so far; the file is read twice.

    Raises:
        OSError: it cannot be read.
        InvalidFileError: it has the digest and is no GGUF file.
    """
    notes = paths.home() / "cache" / _NAME
    stamp = _stamp(path)
    key = str(path.resolve())
    found = _kept(notes, key, stamp)
    if found is not None and found.digest == digest:
        return found
    actual = sha256_of(path, on_bytes=on_bytes)
    if actual != digest:
        return Checked(actual, "")
    size = path.stat().st_size

    def on_second_pass(done: int) -> None:
        if on_bytes is not None:
            on_bytes(size + done)

    result = Checked(actual, not_finite(read_header(path), on_second_pass) or "")
    if (
        _stamp(path) == stamp
        and time.time_ns() - max(stamp["changed"], stamp["modified"]) > _SETTLED_NS
    ):
        _keep(notes, key, stamp, result)
    return result


def _stamp(path: Path) -> dict[str, int]:
    status: os.stat_result = path.stat()
    return {
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _read(notes: Path) -> dict[str, Any]:
    try:
        body = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _kept(notes: Path, key: str, stamp: dict[str, int]) -> Checked | None:
    entry = _read(notes).get(key)
    if not isinstance(entry, dict) or entry.get("stamp") != stamp:
        return None
    digest, tensor = entry.get("digest"), entry.get("not_finite")
    if not isinstance(digest, str) or not isinstance(tensor, str):
        return None
    return Checked(digest, tensor)


def _keep(notes: Path, key: str, stamp: dict[str, int], result: Checked) -> None:
    body = _read(notes)
    body.pop(key, None)
    body[key] = {"stamp": stamp, "digest": result.digest, "not_finite": result.not_finite}
    with contextlib.suppress(OSError, ValueError):  # a full disk: it is read again next time
        write_json(notes, dict(list(body.items())[-_MOST:]))
