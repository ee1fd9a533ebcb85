"""Fetches a base into the cache of the Hugging Face libraries, after the caller has agreed.

The cache is written as those libraries write it, so what is here serves them too. The branch's
reference moves last: until everything is there, the revision fetched before stays the one in use.
"""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge import hardware
from llamaforge.catalog import hub_errors
from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_cache import cache_of
from llamaforge.catalog.hub_files import CONFIG, TOKENIZER_CONFIG, WEIGHTS_INDEX, is_large
from llamaforge.catalog.hub_http import (
    Patience,
    default_patience,
    open_client,
    refuse_when_offline,
)
from llamaforge.catalog.hub_layout import (
    absence_note,
    blob_file,
    commit_of,
    ref_file,
    snapshot_folder,
)
from llamaforge.catalog.hub_plan import (
    DownloadPlan,
    bytes_there,
    has_size,
    names_code,
    plan_download,
)
from llamaforge.catalog.hub_transfer import RemoteFile, Transfer
from llamaforge.catalog.hub_weights import read_index, read_small
from llamaforge.errors import InvalidFileError
from llamaforge.files import write_atomic

__all__ = ["DownloadPlan", "Progress", "download", "plan_download", "refuse_remote_code"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_CONFIG_BYTES: Final = 16_000_000
_REPORT_SECONDS: Final = 0.1
_LOCK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a download is."""

    done_bytes: int
    """What the cache had before is counted."""
    total_bytes: int
    name: str
    """The file that is being fetched."""


def download(
    plan: DownloadPlan,
    on_progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
    *,
    patience: Patience | None = None,
    judge: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Fetch what `plan` names and the cache does not have; return the snapshot's folder.

    `on_progress` is called at most ten times a second, and at the end of every file. `stopped` is
    asked with every piece that comes: the wait for a silent server is the longest that it takes.
    What has been fetched stays, however this ends, and is gone on with by the next call. `judge`
    may refuse the base by its small files, which are in the folder then, before the weights come.

    Raises:
        HubError: the network, the Hub or the disk failed; see `hub_errors` for the codes.
        HubNotFoundError: the repository or a file of it is gone.
        HubRefusedError: there is no room (`no_disk_space`), or code would have to be run
            (`remote_code`).
        DownloadStoppedError: `stopped` returned True.
        whatever `judge` raises.
    """
    refuse_when_offline(plan.repo)
    _refuse_without_room(plan)
    patience = patience or default_patience()
    report = _Report(plan, on_progress)
    folder = snapshot_folder(plan.place, plan.revision)
    with _disk_errors(plan), open_client(patience) as client:
        transfer = Transfer(client, plan.repo, plan.revision, patience=patience, stopped=stopped)
        folder.mkdir(parents=True, exist_ok=True)
        blob_file(plan.place, "").mkdir(parents=True, exist_ok=True)
        looked_at = False
        for file in plan.files:
            if is_large(file.name) and not looked_at:
                _look_at_descriptions(plan, folder)
                judge(folder)
                looked_at = True
            _provide(plan, file, transfer, report)
        _note_absence(plan)
        found = cache_of(plan.repo, revision=plan.revision)
        if found.state != "complete":
            what = f"sound {', '.join(found.missing)}"
            raise hub_errors.no_base(plan.repo, what, "no_safetensors")
        if plan.ref is not None and commit_of(plan.place, plan.ref) != plan.revision:
            ref = ref_file(plan.place, plan.ref)
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(ref, plan.revision, mode=0o644)
    return folder


def refuse_remote_code(repo: str, folder: Path) -> None:
    """Return if the base in `folder` can be loaded without running code of its own.

    Raises:
        HubRefusedError: its configuration, or its tokenizer's, names code (`remote_code`), or is
            not sound JSON (`no_config`).
    """
    for name in (CONFIG, TOKENIZER_CONFIG):
        data = read_small(folder / name, _MAX_CONFIG_BYTES)
        if data is None and name == TOKENIZER_CONFIG:
            continue
        try:
            value = parse_json(data or b"", name)
        except InvalidFileError as error:
            raise hub_errors.no_base(repo, f"sound {name}", "no_config") from error
        if not isinstance(value, dict):
            raise hub_errors.no_base(repo, f"sound {name}", "no_config")
        if names_code(value):
            raise hub_errors.remote_code(repo)


class _Report:
    """Adds up the files' bytes, and tells them on now and then."""

    def __init__(self, plan: DownloadPlan, on_progress: Callable[[Progress], None]) -> None:
        self._there = {
            file.name: bytes_there(plan.place, plan.revision, file) for file in plan.files
        }
        self._total = plan.total_bytes
        self._on_progress = on_progress
        self._told = -_REPORT_SECONDS

    def tell(self, file: RemoteFile, size_bytes: int) -> None:
        self._there[file.name] = size_bytes
        now = time.monotonic()
        if size_bytes == file.size_bytes or now - self._told >= _REPORT_SECONDS:
            self._told = now
            self._on_progress(Progress(sum(self._there.values()), self._total, file.name))


def _provide(plan: DownloadPlan, file: RemoteFile, transfer: Transfer, report: _Report) -> None:
    """Make the snapshot's folder have `file`."""
    pointer = snapshot_folder(plan.place, plan.revision) / file.name
    blob = blob_file(plan.place, file.etag)
    transfer.check_stopped()
    if not has_size(pointer, file.size_bytes):
        with _lock(plan, file, transfer):
            _fetch_and_point(file, pointer, blob, transfer, report)
    report.tell(file, file.size_bytes)


def _fetch_and_point(
    file: RemoteFile, pointer: Path, blob: Path, transfer: Transfer, report: _Report
) -> None:
    if has_size(pointer, file.size_bytes):  # another process has fetched it in the meantime
        return
    fresh = not has_size(blob, file.size_bytes)
    if fresh:
        transfer.fetch(file, blob, lambda size: report.tell(file, size))
    _point(pointer, blob, fresh)


@contextmanager
def _lock(plan: DownloadPlan, file: RemoteFile, transfer: Transfer) -> Iterator[None]:
    """Hold the lock by which the Hugging Face libraries keep a blob to one writer."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = plan.place.parent / ".locks" / plan.place.name / f"{file.etag}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(path, timeout=_LOCK_SECONDS))
            except TimeoutError:
                transfer.check_stopped()
            else:
                break
        yield


def _point(pointer: Path, blob: Path, fresh: bool) -> None:
    """Give the snapshot the blob's content: by a link, or where there are none, as a file."""
    from huggingface_hub import constants

    pointer.unlink(missing_ok=True)
    if not constants.HF_HUB_DISABLE_SYMLINKS:
        try:
            pointer.symlink_to(Path("..", "..", "blobs", blob.name))
        except OSError as error:
            if error.errno in _FULL:
                raise
        else:
            return
    if fresh:
        blob.replace(pointer)
        return
    # Another revision may be using the blob.
    copy = pointer.with_name(f".{pointer.name}.tmp")
    shutil.copyfile(blob, copy)
    copy.replace(pointer)


def _note_absence(plan: DownloadPlan) -> None:
    """Write down, as the libraries do, that the commit has no configuration of its tokenizer."""
    note = absence_note(plan.place, plan.revision, TOKENIZER_CONFIG)
    if all(file.name != TOKENIZER_CONFIG for file in plan.files) and not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _look_at_descriptions(plan: DownloadPlan, folder: Path) -> None:
    """Refuse what the small files tell before the weights, which take hours, are fetched."""
    refuse_remote_code(plan.repo, folder)
    names = {file.name for file in plan.files}
    if WEIGHTS_INDEX not in names:
        return
    index = read_index(folder / WEIGHTS_INDEX)
    if index is None or not names.issuperset(index.shards):
        raise hub_errors.no_base(plan.repo, "sound index of its weights", "no_safetensors")


def _refuse_without_room(plan: DownloadPlan) -> None:
    there = sum(bytes_there(plan.place, plan.revision, file) for file in plan.files)
    needed = plan.total_bytes - there
    free = hardware.free_disk_bytes(plan.place)
    if needed > free:
        raise hub_errors.no_room(needed, free, str(plan.place.parent))


@contextmanager
def _disk_errors(plan: DownloadPlan) -> Iterator[None]:
    """Turn errors of the file system into words."""
    try:
        yield
    except BrokenPipeError:  # whoever is told of the progress has gone
        raise
    except OSError as error:
        place = str(plan.place.parent)
        if error.errno in _FULL:
            there = sum(bytes_there(plan.place, plan.revision, file) for file in plan.files)
            free = hardware.free_disk_bytes(plan.place)
            raise hub_errors.disk_full(plan.total_bytes - there, free, place) from error
        raise hub_errors.not_writable(place, error.strerror or "it is damaged") from error
