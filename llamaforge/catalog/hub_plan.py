"""What a download of a base would fetch: asked of the Hub once, before anything is fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamaforge import hardware
from llamaforge.catalog import hub_errors
from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_files import CONFIG, Role, lacks_vocabulary, needed_files, role_of
from llamaforge.catalog.hub_http import (
    Patience,
    default_patience,
    endpoint,
    get_about,
    refuse_when_offline,
)
from llamaforge.catalog.hub_layout import (
    COMMIT,
    DEFAULT_REVISION,
    blob_file,
    is_revision,
    repo_place,
    snapshot_folder,
    unfinished_part,
)
from llamaforge.catalog.hub_transfer import RemoteFile
from llamaforge.errors import InvalidFileError, UsageError
from llamaforge.safe_text import safe_line

Gated = Literal["auto", "manual"]

_SIZE = Annotated[int, Field(ge=0, lt=1 << 50)]


@dataclass(frozen=True)
class DownloadPlan:
    """What would be fetched of one commit, and what that takes."""

    repo: str
    revision: str
    """The commit, 40 hexadecimal digits."""
    ref: str | None
    """The branch or tag that stands for it; None where the commit itself was asked for."""
    files: tuple[RemoteFile, ...]
    """All that a base needs, the descriptions before the weights."""
    total_bytes: int
    """Of all files."""
    fetch_bytes: int
    """Of these, what the cache does not have: also the room that is needed on the disk."""
    free_bytes: int
    """Free on the cache's disk."""
    place: Path
    """The cache's folder of this repository; it need not exist."""
    page: str
    """The address of the repository, for a person."""
    license: str | None
    """The license's short name, as its makers state it."""
    gated: Gated | None
    """Whether access must be asked for at `page`: given at once, or by a person."""


class _Lfs(BaseModel):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: _SIZE


class _Sibling(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    rfilename: str
    size: _SIZE | None = None
    blob_id: str | None = Field(None, alias="blobId", pattern=r"^[0-9a-f]{40}$")
    lfs: _Lfs | None = None


class _About(BaseModel):
    """The parts that matter of `GET /api/models/{repo}/revision/{revision}?blobs=true`."""

    sha: str = Field(pattern=r"^[0-9a-f]{40}$")
    siblings: list[dict[str, Any]]
    gated: Gated | Literal[False] | None = None
    tags: list[Any] = []
    card_data: dict[str, Any] | None = Field(None, alias="cardData")
    config: dict[str, Any] | None = None


def plan_download(
    repo: str, *, revision: str | None = None, patience: Patience | None = None
) -> DownloadPlan:
    """Return what a download of `repo` would fetch. One request is made, nothing is written.

    `revision` is a branch, a tag or a commit; without it, the branch `main`.

    Raises:
        UsageError: `repo` or `revision` is no name (`repo_name`, `revision_name`).
        HubError: the Hub gives no answer or refuses; see `hub_errors` for the codes.
        HubNotFoundError: no such repository or revision (`hub_not_found`, `hub_no_revision`).
        HubRefusedError: it is no base: it wants code of its own to be run (`remote_code`), or has
            no safetensors, configuration or tokenizer (`no_safetensors`, `pickled_weights`,
            `no_config`, `no_tokenizer`).
    """
    asked = DEFAULT_REVISION if revision is None else revision
    place = _checked_place(repo, asked)
    refuse_when_offline(repo)
    about = _parse(get_about(repo, asked, patience or default_patience()))
    if _wants_code(about):
        raise hub_errors.remote_code(repo)
    files = _files(repo, about)
    total = sum(file.size_bytes for file in files)
    return DownloadPlan(
        repo=repo,
        revision=about.sha,
        ref=None if COMMIT.fullmatch(asked) else asked,
        files=files,
        total_bytes=total,
        fetch_bytes=total - sum(bytes_there(place, about.sha, file) for file in files),
        free_bytes=hardware.free_disk_bytes(place),
        place=place,
        page=f"{endpoint()}/{repo}",
        license=_license(about.card_data or {}),
        gated=about.gated or None,
    )


def bytes_there(place: Path, commit: str, file: RemoteFile) -> int:
    """Return how much of `file` the cache of the repository at `place` has, in bytes."""
    whole = (snapshot_folder(place, commit) / file.name, blob_file(place, file.etag))
    if any(has_size(path, file.size_bytes) for path in whole):
        return file.size_bytes
    part = unfinished_part(place, file.etag)
    return part if part <= file.size_bytes else 0


def has_size(path: Path, size_bytes: int) -> bool:
    """Return whether there is a file of this size at `path`, links followed."""
    try:
        return path.stat().st_size == size_bytes and path.is_file()
    except OSError:
        return False


def _checked_place(repo: str, revision: str) -> Path:
    place = repo_place(repo)
    if place is None:
        raise UsageError(
            f"{safe_line(repo, limit=80)!r} is not the name of a repository on the Hub.",
            "Write it as OWNER/NAME, such as Qwen/Qwen2.5-3B-Instruct",
            code="repo_name",
        )
    if not is_revision(revision):
        raise UsageError(
            f"{safe_line(revision, limit=80)!r} is not the name of a revision.",
            "Name a branch, a tag or a commit.",
            code="revision_name",
        )
    return place


def _parse(data: bytes) -> _About:
    try:
        return _About.model_validate(parse_json(data, "the Hub's answer"))
    except (InvalidFileError, ValidationError) as error:
        raise hub_errors.bad_answer(endpoint(), "it describes no repository") from error


def _wants_code(about: _About) -> bool:
    return "custom_code" in about.tags or names_code(about.config or {})


def names_code(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration names Python files for transformers to run."""
    return bool(config.get("auto_map")) or bool(config.get("custom_pipelines"))


def _files(repo: str, about: _About) -> tuple[RemoteFile, ...]:
    siblings = {
        entry["rfilename"]: entry
        for entry in about.siblings
        if isinstance(entry.get("rfilename"), str)
    }
    names = needed_files(siblings)
    _refuse_what_is_no_base(repo, names, [n for n in siblings if role_of(n) is Role.PICKLED])
    try:
        return tuple(_remote_file(_Sibling.model_validate(siblings[name])) for name in names)
    except (ValidationError, ValueError) as error:
        raise hub_errors.bad_answer(
            endpoint(), "it does not tell the sizes and digests of the files"
        ) from error


def _refuse_what_is_no_base(repo: str, names: tuple[str, ...], pickled: list[str]) -> None:
    if not any(role_of(name) is Role.WEIGHTS and name.endswith(".safetensors") for name in names):
        if pickled:
            raise hub_errors.pickled(repo, pickled[0])
        raise hub_errors.no_base(repo, "weights as safetensors", "no_safetensors")
    if CONFIG not in names:
        raise hub_errors.no_base(repo, CONFIG, "no_config")
    if lacks_vocabulary(names):
        raise hub_errors.no_base(repo, "tokenizer", "no_tokenizer")


def _remote_file(sibling: _Sibling) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    if sibling.size is None or sibling.blob_id is None:
        raise ValueError("size and digest are missing")
    return RemoteFile(sibling.rfilename, sibling.size, sibling.blob_id)


def _license(card: Mapping[str, Any]) -> str | None:
    """Return the license that a model card names; `other` is explained by a second key."""
    name = card.get("license")
    if name == "other" and isinstance(card.get("license_name"), str):
        name = card["license_name"]
    if isinstance(name, list):
        name = ", ".join(part for part in name if isinstance(part, str))
    return safe_line(name, limit=80) or None if isinstance(name, str) else None
