"""Where an export goes: room for it, its digest, and folders that are whole or not there."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from llamaforge import hardware
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.files import commit, sync_folder
from llamaforge.safe_text import safe_line

_SLACK_DISK_BYTES: Final = 64 * 1024 * 1024
_KNOWN_FILES: Final = frozenset({"config.json", "adapter_config.json"})
"""One of these is in every folder of a model or an adapter."""


class HashingFile:
    """A file whose digest is worked out while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        """Write, count and hash."""
        self._at += len(data)
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self._at

    @property
    def sha256(self) -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest()


def check_room(path: Path, total: int, advice: str) -> None:
    """Refuse to begin what the disk of `path` has no room for.

    Args:
        path: where it goes; it need not exist.
        total: bytes.
        advice: what would make it smaller, such as "choose a smaller quantisation".

    Raises:
        RefusedError: there is too little room (`no_disk_space`).
    """
    needed = total + _SLACK_DISK_BYTES
    free = hardware.free_disk_bytes(path.parent)
    if free < needed:
        raise RefusedError(
            f"The export takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at "
            f"{path.parent}.",
            f"Free some space, {advice}, or name another place with --out.",
            code="no_disk_space",
        )


def check_folder(path: Path, *, replace: bool) -> None:
    """Refuse a place that is taken.

    Args:
        path: where a folder is to appear.
        replace: whether a model or an adapter that lies there may be replaced.

    Raises:
        InvalidFileError: it is taken (`exists`), or holds what is no model (`not_a_model`).
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not replace:
        raise InvalidFileError(
            f"{safe_line(str(path))} is there already.",
            "Name another folder with --out, or say --force to replace it.",
            code="exists",
        )
    if not path.is_dir() or not any((path / name).is_file() for name in _KNOWN_FILES):
        raise InvalidFileError(
            f"{safe_line(str(path))} is no folder of a model, so it is not replaced.",
            "Name another folder with --out.",
            code="not_a_model",
        )


@contextmanager
def new_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Give a private folder that becomes `path` at the end of a `with` block, whole or not at all.

    Folders that exports to this place left behind when they were killed are removed.

    Raises:
        InvalidFileError: as `check_folder`.
    """
    path = path.resolve()
    check_folder(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.iterdir():
            with item.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        check_folder(path, replace=replace)
        if path.exists() and any(path.iterdir()):
            path.rename(old)
        try:
            commit(temporary, path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what exports to `path` left beside it when they were killed."""
    if not path.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(path.name)}\.([0-9]+)\.tmp")
    for item in path.parent.iterdir():
        found = name.fullmatch(item.name)
        if not found or psutil.pid_exists(int(found.group(1))):
            continue
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)
