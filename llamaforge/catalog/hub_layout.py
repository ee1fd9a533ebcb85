"""Where the Hugging Face libraries keep a repository: names, folders, commits.

Source of the layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. The folder's
name and the rules for names are written out here because importing them from `huggingface_hub`
takes a tenth of a second; tests hold them against it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llamaforge.catalog.hub_weights import read_small

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A blob's name: git's sha1 of a small file, the sha256 of a large one."""
DEFAULT_REVISION: Final = "main"
INCOMPLETE: Final = ".incomplete"
"""What a blob that is still being fetched has behind its name."""

_REPO: Final = re.compile(r"([0-9A-Za-z_][\w.-]*/)?[0-9A-Za-z_][\w.-]*", re.ASCII)
_MAX_PART_LENGTH: Final = 96
_REVISION_PART: Final = re.compile(r"[0-9A-Za-z_][\w.+-]{0,199}", re.ASCII)
_MAX_REF_BYTES: Final = 200


def local_folder(repo: str) -> Path | None:
    """Return the folder that `repo` names, or None where it is the name of a repository.

    A folder's path is absolute, or begins with `./`, `../` or `~`.
    """
    if "\0" in repo:
        return None
    first = repo.replace(os.sep, "/").partition("/")[0]
    if Path(repo).is_absolute() or first in {".", ".."} or first.startswith("~"):
        return Path(os.path.expanduser(repo)).absolute()  # noqa: PTH111 - Path's own may raise
    return None


def is_repo_name(repo: str) -> bool:
    """Return whether `repo` is `NAME` or `NAMESPACE/NAME` as the Hub has them.

    Source of the rules: `huggingface_hub.utils.validate_repo_id`.
    """
    return (
        _REPO.fullmatch(repo) is not None
        and all(len(part) <= _MAX_PART_LENGTH for part in repo.split("/"))
        and not any(part.endswith((".", "-")) for part in repo.split("/"))
        and "--" not in repo
        and ".." not in repo
        and not repo.endswith(".git")
    )


def is_revision(revision: str) -> bool:
    """Return whether `revision` can be the name of a branch, a tag or a commit."""
    return all(_REVISION_PART.fullmatch(part) for part in revision.split("/"))


def cache_folder() -> Path:
    """Return the folder of all repositories: `HF_HUB_CACHE`, else `HF_HOME`, else the default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_place(repo: str) -> Path | None:
    """Return the cache's folder of `repo`, which need not exist; None for what is no name."""
    if not is_repo_name(repo):
        return None
    return cache_folder() / "--".join(["models", *repo.split("/")])


def snapshot_folder(place: Path, commit: str) -> Path:
    """Return the folder with the files of one commit of the repository at `place`."""
    return place / "snapshots" / commit


def blob_file(place: Path, etag: str) -> Path:
    """Return the file with the content that a snapshot's links lead to."""
    return place / "blobs" / etag


def ref_file(place: Path, revision: str) -> Path:
    """Return the file with the commit that a branch or a tag stood for when it was fetched."""
    return place.joinpath("refs", *revision.split("/"))


def absence_note(place: Path, commit: str, name: str) -> Path:
    """Return the empty file which says that a commit has no file `name`."""
    return place / ".no_exist" / commit / name


def known_absent(place: Path, commit: str, name: str) -> bool:
    """Return whether a library has asked for `name` before, and the commit has no such file."""
    try:
        absence_note(place, commit, name).stat()
    except OSError:
        return False
    return True


def commits(place: Path, revision: str | None) -> Iterator[str]:
    """Yield the commits in the cache that `revision` may mean, the preferred ones first.

    Without a revision these are that of `refs/main` and then all others, the newest first.
    """
    if revision is not None:
        commit = revision if COMMIT.fullmatch(revision) else commit_of(place, revision)
        if commit is not None:
            yield commit
        return
    main = commit_of(place, DEFAULT_REVISION)
    if main is not None:
        yield main
    try:
        with os.scandir(place / "snapshots") as entries:
            others = [
                (entry.stat().st_mtime, entry.name)
                for entry in entries
                if entry.name != main and COMMIT.fullmatch(entry.name) and entry.is_dir()
            ]
    except OSError:
        return
    yield from (name for _, name in sorted(others, reverse=True))


def commit_of(place: Path, revision: str) -> str | None:
    """Return the commit that the branch or tag `revision` stood for when it was fetched."""
    if not is_revision(revision):
        return None
    data = read_small(ref_file(place, revision), _MAX_REF_BYTES)
    text = "" if data is None else data.decode("ascii", "replace").strip()
    return text if COMMIT.fullmatch(text) else None


def unfinished_bytes(place: Path) -> int:
    """Return the bytes of all blobs of `place` that are still being fetched."""
    total = 0
    try:
        with os.scandir(place / "blobs") as entries:
            for entry in entries:
                if entry.name.endswith(INCOMPLETE) and entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total


def unfinished_part(place: Path, etag: str) -> int:
    """Return how much of one blob an interrupted download has left to go on from, in bytes."""
    try:
        return blob_file(place, f"{etag}{INCOMPLETE}").stat().st_size
    except OSError:
        return 0
