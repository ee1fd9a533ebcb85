"""Checkpoints that are either whole or not there.

The trainer writes into a folder that nobody reads; a manifest with the size and digest of every
file is added last, all of it is brought to disk, and one rename makes it a checkpoint.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Final

from llamaforge.files import commit, sha256_of, sync_folder, write_json

MANIFEST_NAME: Final = "manifest.json"
_NAME: Final = re.compile(r"step-([0-9]{6,})")
_KEPT: Final = 2
_PARTIAL: Final = ".partial"


def partial_folder(folder: Path) -> Path:
    """Return the empty folder inside `folder` in which the next checkpoint is written."""
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    return partial


def commit_checkpoint(written: Path, folder: Path, step: int) -> Path:
    """Make the files in `written` the checkpoint of `step` in `folder`, and return its path.

    The newest two are kept.
    """
    files = {}
    for path in sorted(written.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(written / MANIFEST_NAME, {"v": 1, "step": step, "files": files})
    sync_folder(written)
    final = folder / f"step-{step:06d}"
    shutil.rmtree(final, ignore_errors=True)
    commit(written, final)
    for _, old in _by_age(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest checkpoint whose files are what its manifest says, or None.

    The second value holds newer ones that were passed over because they are damaged.
    """
    damaged: list[Path] = []
    for _, path in reversed(_by_age(folder)):
        if _is_whole(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which the checkpoint was written."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} is no checkpoint")
    return int(found.group(1))


def _by_age(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return sorted((step_of(path), path) for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _is_whole(path: Path) -> bool:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
        listed = manifest["files"]
        if {item.name for item in path.iterdir()} != {*listed, MANIFEST_NAME}:
            return False
        return all(
            (path / name).stat().st_size == entry["bytes"]
            and sha256_of(path / name) == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
