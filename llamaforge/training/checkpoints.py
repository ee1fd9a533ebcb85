"""Checkpoints that are either whole or not there.

The trainer writes into a folder that nobody reads; a manifest with the size and digest of every
file is added last, all of it is brought to disk, and one rename makes it a checkpoint. A folder is
removed under another name, so that what is half removed is never taken for a checkpoint.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.files import commit, json_text, sha256_of, sync_folder, write_json

MANIFEST_NAME: Final = "manifest.json"
_NAME: Final = re.compile(r"step-([0-9]{6,})")
_KEPT: Final = 2
_PARTIAL: Final = ".partial"
_REMOVED: Final = ".removed"
_DAMAGED: Final = "damaged-"


@dataclass(frozen=True, slots=True)
class Damaged:
    """A checkpoint that is not what its manifest says."""

    path: Path
    reason: str
    """The first file that differs, with what was expected and what is there."""


def partial_folder(folder: Path) -> Path:
    """Return the empty folder inside `folder` in which the next checkpoint is written."""
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    return partial


def commit_checkpoint(written: Path, folder: Path, step: int) -> Path:
    """Make the files in `written` the checkpoint of `step` in `folder`, and return its path.

    A whole checkpoint of that step is left as it is. The newest two are kept.
    """
    final = folder / f"step-{step:06d}"
    if final.exists():
        if damage_of(final) is None:
            shutil.rmtree(written)
            return final
        set_aside(final)
    files = {}
    for path in sorted(written.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(written / MANIFEST_NAME, _manifest(step, files))
    sync_folder(written)
    commit(written, final)
    _clear(folder)
    return final


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Damaged]]:
    """Return the newest checkpoint whose files are what its manifest says, or None.

    The second value holds newer ones that were passed over because they are damaged.
    """
    damaged: list[Damaged] = []
    for _, path in reversed(_by_age(folder)):
        reason = damage_of(path)
        if reason is None:
            return path, damaged
        damaged.append(Damaged(path, reason))
    return None, damaged


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which it does not count, and return that.

    It stays for a look at it until the next checkpoint is whole.
    """
    aside = path.with_name(f"{_DAMAGED}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    commit(path, aside)
    return aside


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which the checkpoint was written."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} is no checkpoint")
    return int(found.group(1))


def bytes_of(checkpoint: Path) -> int:
    """Return the bytes of a checkpoint's files."""
    return sum(path.stat().st_size for path in checkpoint.iterdir())


def damage_of(path: Path) -> str | None:
    """Return how a checkpoint differs from its manifest; None where it is whole."""
    try:
        text = (path / MANIFEST_NAME).read_text(encoding="utf-8")
        listed: dict[str, Any] = json.loads(text)["files"]
        if text != json_text(_manifest(step_of(path), listed)):
            return f"{MANIFEST_NAME} was changed"
        there = {item.name for item in path.iterdir()}
        for name in sorted(there ^ {*listed, MANIFEST_NAME}):
            return f"{name} is missing" if name in listed else f"{name} does not belong there"
        for name, entry in listed.items():
            size = (path / name).stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size:,} bytes instead of {entry['bytes']:,}"
            digest = sha256_of(path / name)
            if digest != entry["sha256"]:
                return f"{name} has sha256 {digest} instead of {entry['sha256']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_NAME} cannot be read"
    return None


def _manifest(step: int, files: dict[str, Any]) -> dict[str, Any]:
    return {"v": 1, "step": step, "files": files}


def _clear(folder: Path) -> None:
    """Remove all but the newest checkpoints, and the damaged ones with them."""
    removed = folder / _REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    old = [path for _, path in _by_age(folder)[:-_KEPT]]
    for path in [*old, *folder.glob(f"{_DAMAGED}*")]:
        path.replace(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _by_age(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return sorted((step_of(path), path) for path in folder.iterdir() if _NAME.fullmatch(path.name))
