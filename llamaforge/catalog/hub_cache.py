"""What of a Hugging Face repository is already on this machine: looked up, never fetched.

One repository is looked up by its own folder; the rest of the cache is not walked.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from llamaforge.catalog.hub_files import (
    CONFIG,
    SINGLE_WEIGHTS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS_INDEX,
    Role,
    lacks_vocabulary,
    needed_files,
    role_of,
)
from llamaforge.catalog.hub_layout import (
    commits,
    known_absent,
    local_folder,
    repo_place,
    snapshot_folder,
    unfinished_bytes,
    unfinished_part,
)
from llamaforge.catalog.hub_listing import Listed, stored_listing
from llamaforge.catalog.hub_weights import read_index, read_weights_size


@dataclass(frozen=True)
class Cache:
    """What is there of a base, in one revision."""

    state: Literal["complete", "partial", "absent"]
    """`complete`: every file that a base needs is there in full size."""
    bytes: int
    """Size on disk of the revision's files, each content once. Where something is missing, the
    parts of unfinished files are counted too."""
    missing_bytes: int | None
    """What is still to be fetched. 0 when complete; None where nothing on disk tells; where only
    the index tells, at least this much, since it counts the weights alone."""
    missing: tuple[str, ...]
    """Names of the files that are not there, or not in full size, sorted."""
    revision: str | None
    """The commit, 40 hexadecimal digits; None for a folder of the user's own."""
    path: Path | None
    """The folder that holds the files; None where there is none."""
    unusable: tuple[str, ...] = ()
    """Weights that are there as pickles. They are counted in `bytes` and never opened."""


_ABSENT: Final = Cache("absent", 0, None, (), None, None)


@dataclass(frozen=True)
class _File:
    size_bytes: int
    content: tuple[int, int]
    """The same for two names of one content: device and inode, links followed."""


_Missing = tuple[set[str], int | None]
"""Names, and the bytes to fetch if they are known."""


def cache_of(repo: str, *, revision: str | None = None) -> Cache:
    """Return what is on this machine of the repository `repo`, such as `Qwen/Qwen2.5-3B-Instruct`.

    The cache is the one that the Hugging Face libraries use: `HF_HUB_CACHE`, else `HF_HOME`. No
    server is asked. With `revision` (a branch, a tag or a commit) only that one is looked at;
    without, the first complete one of `refs/main` and then all others, the newest first.

    `repo` may be a folder instead: a path that is absolute or begins with `./`, `../` or `~`.
    What is no repository's name, or may not be read, is absent.
    """
    folder = local_folder(repo)
    if folder is not None:
        return _examine(folder)
    place = repo_place(repo)
    if place is None:
        return _ABSENT
    partial = None
    for commit in commits(place, revision):
        found = _examine_snapshot(place, commit)
        if found.state == "complete":
            return found
        if found.state == "partial" and partial is None:
            partial = found
    if partial is not None:
        return partial
    unfinished = unfinished_bytes(place)
    if unfinished == 0 or revision is not None:
        return _ABSENT
    return Cache("partial", unfinished, None, (CONFIG, SINGLE_WEIGHTS, TOKENIZER), None, None)


def _examine(folder: Path) -> Cache:
    """Return what is in a folder of which nothing but its files is known."""
    files = _files(folder)
    return _cache(folder, None, files, _missing_by_files(folder, files))


def _examine_snapshot(place: Path, commit: str) -> Cache:
    """Return what is in the cache of one commit."""
    folder = snapshot_folder(place, commit)
    files = _files(folder)
    listing = stored_listing(place, commit)
    if listing is not None:
        missing = _missing_by_listing(place, listing, files)
    else:
        missing = _missing_by_files(folder, files)
        if TOKENIZER_CONFIG not in files and not known_absent(place, commit, TOKENIZER_CONFIG):
            missing[0].add(TOKENIZER_CONFIG)
    unfinished = unfinished_bytes(place) if missing[0] else 0
    return _cache(folder, commit, files, missing, unfinished)


def _cache(
    folder: Path,
    commit: str | None,
    files: dict[str, _File],
    missing: _Missing,
    unfinished: int = 0,
) -> Cache:
    roles = {name: role_of(name) for name in files}
    if not any(roles.values()):
        return _ABSENT
    names, missing_bytes = missing
    total = sum({file.content: file.size_bytes for file in files.values()}.values())
    return Cache(
        state="partial" if names else "complete",
        bytes=total + unfinished,
        missing_bytes=missing_bytes if names else 0,
        missing=tuple(sorted(names)),
        revision=commit,
        path=folder,
        unusable=tuple(sorted(name for name, role in roles.items() if role is Role.PICKLED)),
    )


def _missing_by_listing(
    place: Path, listing: dict[str, Listed], files: dict[str, _File]
) -> _Missing:
    """Return what is missing of a commit whose files and sizes are all known."""
    required = [name for name in needed_files(listing) if role_of(name) is not Role.EXTRA]
    missing = {
        name
        for name in required
        if name not in files or files[name].size_bytes != listing[name].size_bytes
    }
    to_fetch = sum(
        max(listing[name].size_bytes - unfinished_part(place, listing[name].etag), 0)
        for name in missing
    )
    # A repository without one of these cannot become complete, whatever is fetched.
    lacking = {CONFIG} - listing.keys()
    if not any(role_of(name) is Role.WEIGHTS for name in required):
        lacking.add(SINGLE_WEIGHTS)
    if lacks_vocabulary(listing.keys()):
        lacking.add(TOKENIZER)
    return missing | lacking, None if lacking else to_fetch


def _missing_by_files(folder: Path, files: dict[str, _File]) -> _Missing:
    """Return what is missing as far as the files that are there tell."""
    missing = {CONFIG} - files.keys()
    if lacks_vocabulary(files.keys()):
        missing.add(TOKENIZER)
    weights, to_fetch = _missing_weights(folder, files)
    return missing | weights, to_fetch


def _missing_weights(folder: Path, files: dict[str, _File]) -> _Missing:
    if SINGLE_WEIGHTS in files:
        size = read_weights_size(folder / SINGLE_WEIGHTS)
        if size is not None and size.file_bytes == files[SINGLE_WEIGHTS].size_bytes:
            return set(), None
        return {SINGLE_WEIGHTS}, None if size is None else size.file_bytes
    index = read_index(folder / WEIGHTS_INDEX) if WEIGHTS_INDEX in files else None
    if index is None:
        # Which weights there are is not known: one name stands for all of them.
        return {WEIGHTS_INDEX if WEIGHTS_INDEX in files else SINGLE_WEIGHTS}, None
    there_bytes = 0
    missing = set()
    for name in index.shards:
        size = read_weights_size(folder / name) if name in files else None
        if size is None or size.file_bytes != files[name].size_bytes:
            missing.add(name)
        else:
            there_bytes += size.tensor_bytes
    if not missing or index.tensor_bytes is None:
        return missing, None
    return missing, max(index.tensor_bytes - there_bytes, 0)


def _files(folder: Path) -> dict[str, _File]:
    """Return the regular files in `folder`; a link that leads nowhere is no file."""
    files = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        found = Path(entry.path).stat()
                        files[entry.name] = _File(found.st_size, (found.st_dev, found.st_ino))
                except OSError:  # it was removed, or links lead in a circle
                    continue
    except OSError:
        return {}
    return files
