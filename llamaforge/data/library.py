"""All frozen data of this machine: each snapshot once, by its content, whatever runs used it.

A snapshot lies in `$LLAMAFORGE_HOME/snapshots`, under the first digits of its id, and shares its
files with the runs that were trained on it, where the disk can do that.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from llamaforge import paths
from llamaforge.data.snapshot import MANIFEST_NAME, SnapshotManifest, read_manifest
from llamaforge.data.sources import exists
from llamaforge.errors import LlamaForgeError, NotFoundError, UsageError
from llamaforge.files import commit, sha256_of
from llamaforge.safe_text import safe_line

_DIGITS: Final = 16
_SHORTEST: Final = 4
_TEMPORARY: Final = ".new-"
PREFIX: Final = "snapshot:"
"""How the id of frozen rows begins where files could be named."""


@dataclass(frozen=True)
class KeptSnapshot:
    """A snapshot of the library."""

    folder: Path
    manifest: SnapshotManifest
    kept: datetime
    """When it came into the library, in UTC."""

    @property
    def short_id(self) -> str:
        """The digits by which it is named."""
        return self.manifest.id[:_DIGITS]


def named(text: str) -> str:
    """Return the id in `snapshot:ID`; empty where `text` is another place of rows, or a file."""
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) and not exists(Path(text)) else ""


def folder() -> Path:
    """Return the library's folder, which may not exist yet."""
    return paths.home() / "snapshots"


def keep(source: Path) -> Path:
    """Put the snapshot in the folder `source` into the library and return where it lies there.

    Raises:
        InvalidFileError: `source` holds no snapshot.
        OSError: the library cannot be written.
    """
    manifest = read_manifest(source / MANIFEST_NAME)
    target = folder() / manifest.id[:_DIGITS]
    if _is_snapshot(target, manifest.id):
        return target
    _link(source, target, manifest)
    return target


def take(snapshot: KeptSnapshot, target: Path) -> SnapshotManifest:
    """Put a snapshot of the library into the folder `target`, which may hold an older one.

    Raises:
        OSError: it cannot be written.
    """
    for name in [*snapshot.manifest.files, MANIFEST_NAME]:
        (target / name).unlink(missing_ok=True)
    for name in [*snapshot.manifest.files, MANIFEST_NAME]:  # the manifest makes it one: last
        _link_file(snapshot.folder / name, target / name)
    return snapshot.manifest


def snapshots() -> list[KeptSnapshot]:
    """Return every snapshot of the library, the newest first; what is none is passed over."""
    return sorted(_found(), key=lambda item: item.kept, reverse=True)


def find(text: str) -> KeptSnapshot:
    """Return the snapshot whose id begins with `text`.

    Raises:
        UsageError: several do, or it is too short.
        NotFoundError: none does.
    """
    wanted = text.strip().lower()
    if len(wanted) < _SHORTEST:
        raise UsageError(
            f"{safe_line(text, limit=40)!r} is too short for a snapshot's id.",
            f"Give its first {_SHORTEST} digits or more: llamaforge data list",
            code="snapshot_id",
        )
    fitting = [item for item in _found() if item.manifest.id.startswith(wanted)]
    if not fitting:
        raise NotFoundError(
            f"There is no snapshot {safe_line(text, limit=40)}.",
            "See them with: llamaforge data list",
            code="no_snapshot",
        )
    if len(fitting) > 1:
        raise UsageError(
            f"{len(fitting)} snapshots begin with {safe_line(text, limit=40)}.",
            f"Give more of its digits, such as {fitting[0].short_id}.",
            code="snapshot_id",
        )
    return fitting[0]


def _found() -> Iterator[KeptSnapshot]:
    try:
        places = sorted(folder().iterdir())
    except OSError:
        return
    for place in places:
        if place.name.startswith("."):
            continue
        try:
            manifest = read_manifest(place / MANIFEST_NAME)
            kept = (place / MANIFEST_NAME).stat().st_ctime
        except (LlamaForgeError, OSError):
            continue
        if manifest.id.startswith(place.name):
            yield KeptSnapshot(place, manifest, datetime.fromtimestamp(kept, UTC))


def _is_snapshot(place: Path, snapshot_id: str) -> bool:
    """Return whether that snapshot is there, each of its files as it was."""
    try:
        manifest = read_manifest(place / MANIFEST_NAME)
        return manifest.id == snapshot_id and all(
            sha256_of(place / name) == file.sha256 for name, file in manifest.files.items()
        )
    except (LlamaForgeError, OSError):
        return False


def _link(source: Path, target: Path, manifest: SnapshotManifest) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
    try:
        for name in [*manifest.files, MANIFEST_NAME]:
            _link_file(source / name, beside / name)
        _put(beside, target, manifest.id)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _put(beside: Path, target: Path, snapshot_id: str) -> None:
    """Give a snapshot its place; another process may be about the same."""
    while True:
        try:
            commit(beside, target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        else:
            return
        if _is_snapshot(target, snapshot_id):
            shutil.rmtree(beside)
            return
        # Damaged: what is put in its place is whole.
        damaged = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
        with suppress(FileNotFoundError):
            target.replace(damaged / target.name)
        shutil.rmtree(damaged)


def _link_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)
        target.chmod(0o600)
