"""The map from Ollama's library to Hugging Face repositories: a YAML file that people may extend.

`model_map.yaml` is shipped with the program; a user's own one, in the program's home, replaces
whole families of it or adds some. `docs/model-map.md` says how an entry is written.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llamaforge import paths
from llamaforge.errors import InvalidFileError
from llamaforge.safe_text import safe_line

USER_FILE: Final = "model_map.yaml"
_MAX_BYTES: Final = 4 * 1024 * 1024
_REPO_PART: Final = r"[0-9A-Za-z](?:[0-9A-Za-z_.-]{0,94}[0-9A-Za-z_])?"
REPO: Final = re.compile(rf"{_REPO_PART}/{_REPO_PART}")
_FORBIDDEN: Final = ("..", "--")
"""In the names of repositories, as `huggingface_hub.utils.validate_repo_id` has it."""
_QUANTIZATION: Final = re.compile(
    r"-(?:q[0-9]+(?:_[0-9a-z]+)*|iq[0-9]+(?:_[0-9a-z]+)*|fp16|fp32|f16|f32|bf16|fp8|int4|int8"
    r"|mxfp4|mxfp8|nvfp4|tq[12]_0)$"
)

Count = Annotated[int, Field(gt=0, lt=10_000_000)]
_Word = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[0-9A-Za-z_.-]+$")]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[0-9a-z_.-]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shape(_Strict):
    """The sizes of a base as its `config.json` has them; what nobody looked up is None."""

    layers: Count | None = None
    hidden: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None
    vocab: Count | None = None


class _CheckpointEntry(_Strict):
    repo: Annotated[str, StringConstraints(max_length=200)]
    kind: Literal["instruct", "base"]
    tags: list[_Tag] = Field(default_factory=list)
    license: _Word | None = None
    gated: bool | None = None


class _SizeEntry(_Strict):
    architecture: _Word | None = None
    license: _Word | None = None
    gated: bool | None = None
    shape: Shape = Shape()
    checkpoints: list[_CheckpointEntry] = Field(min_length=1)


class _FamilyEntry(_Strict):
    library: _Word
    architecture: _Word
    license: _Word
    gated: bool = False
    sizes: dict[str, _SizeEntry] = Field(min_length=1)


class _MapFile(_Strict):
    version: Literal[1]
    families: list[_FamilyEntry]


@dataclass(frozen=True)
class Checkpoint:
    """One repository of the map."""

    repo: str
    kind: Literal["instruct", "base"]
    """Whether it was tuned to answer, or only to continue texts."""
    family: str
    """The model's name in the Ollama library."""
    size: str
    architecture: str
    """`general.architecture` of its GGUF files."""
    shape: Shape
    license: str
    gated: bool
    """Whether the Hub asks to accept terms first."""
    tags: tuple[str, ...]
    """Of the library, without the quantisation."""


class BaseMap:
    """The checkpoints by family and tag, and by repository."""

    def __init__(self, families: Mapping[str, tuple[Checkpoint, ...]]) -> None:
        self._families = families
        self._by_repo = {
            checkpoint.repo.lower(): checkpoint
            for checkpoints in families.values()
            for checkpoint in checkpoints
        }
        self._by_name = {
            repo.partition("/")[2]: checkpoint for repo, checkpoint in self._by_repo.items()
        }

    @property
    def families(self) -> tuple[str, ...]:
        """The library's names, in the file's order."""
        return tuple(self._families)

    def checkpoints(self, family: str | None = None) -> Iterator[Checkpoint]:
        """Yield the checkpoints of a family, or all."""
        if family is not None:
            yield from self._families.get(family.lower(), ())
            return
        for checkpoints in self._families.values():
            yield from checkpoints

    def by_tag(self, family: str, tag: str) -> Checkpoint | None:
        """Return the checkpoint that a tag of the library means; upper and lower case are one."""
        wanted = {tag.lower(), without_quantization(tag)}
        return next(
            (found for found in self.checkpoints(family) if wanted.intersection(found.tags)), None
        )

    def by_repo(self, repo: str) -> Checkpoint | None:
        """Return the checkpoint of a repository, if the map has it."""
        return self._by_repo.get(repo.lower())

    def by_repo_name(self, name: str) -> Checkpoint | None:
        """Return the checkpoint whose repository is called `name`, whoever owns it."""
        return self._by_name.get(name.lower())


def without_quantization(tag: str) -> str:
    """Return a tag in lower case without what it says of its quantisation."""
    low = tag.lower()
    while shorter := _QUANTIZATION.sub("", low):
        if shorter == low:
            break
        low = shorter
    return low


def is_repo(text: str) -> bool:
    """Return whether `text` can be the name of a repository, `owner/name`."""
    return REPO.fullmatch(text) is not None and not any(part in text for part in _FORBIDDEN)


def load_base_map(user_file: Path | None = None, *, own: bool = True) -> BaseMap:
    """Return the shipped map with the user's own families over it.

    Args:
        user_file: the user's map, by default `model_map.yaml` in the program's home; it need not
            exist.
        own: whether the user's map counts.

    Raises:
        InvalidFileError: a file is not such a map; the message names the file, place and reason.
    """
    shipped = Path(str(resources.files("llamaforge") / "model_map.yaml"))
    families = dict(_families(shipped))
    if own:
        path = paths.home() / USER_FILE if user_file is None else user_file
        if path.exists():
            families |= _families(path)
    return BaseMap(families)


def _families(path: Path) -> Mapping[str, tuple[Checkpoint, ...]]:
    try:
        about = path.stat()
        return _read(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from error


@lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int, size: int) -> Mapping[str, tuple[Checkpoint, ...]]:
    del modified_ns  # with the size it tells a changed file from the one that was read
    if size > _MAX_BYTES:
        raise _refuse(path, f"has {size:,} bytes, which is too many")
    try:
        body = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 - a safe loader, see below
        return _checked(_MapFile.model_validate(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _refuse(path, f"is no such map: {place}: {first['msg']}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise _refuse(path, f"is not YAML{where}") from error
    except ValueError as error:
        raise _refuse(path, f"is no such map: {error}") from error


def _checked(file: _MapFile) -> Mapping[str, tuple[Checkpoint, ...]]:
    found: dict[str, tuple[Checkpoint, ...]] = {}
    for family in file.families:
        if family.library.lower() in found:
            raise ValueError(f"the family {family.library} stands there twice")
        checkpoints = tuple(_checkpoints(family))
        tags = [tag for checkpoint in checkpoints for tag in checkpoint.tags]
        twice = next((tag for tag in tags if tags.count(tag) > 1), None)
        if twice is not None:
            raise ValueError(f"the tag {twice} of {family.library} means two checkpoints")
        found[family.library.lower()] = checkpoints
    return found


def _checkpoints(family: _FamilyEntry) -> Iterator[Checkpoint]:
    for size, entry in family.sizes.items():
        for item in entry.checkpoints:
            if not is_repo(item.repo):
                raise ValueError(f"{item.repo[:80]!r} names no repository")
            gated = next(
                flag for flag in (item.gated, entry.gated, family.gated) if flag is not None
            )
            yield Checkpoint(
                repo=item.repo,
                kind=item.kind,
                family=family.library.lower(),
                size=size,
                architecture=entry.architecture or family.architecture,
                shape=entry.shape,
                license=item.license or entry.license or family.license,
                gated=gated,
                tags=tuple(item.tags),
            )


try:  # some twenty times faster, where PyYAML was built with it
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _Loader(_SafeLoader):
    """A safe loader that refuses a key that stands twice: the second would hide the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key {str(key)[:80]} stands twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _refuse(path: Path, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The model map {safe_line(str(path))} {safe_line(what, limit=300)}.",
        "Mend or remove the file; docs/model-map.md says how an entry is written.",
        code="bad_model_map",
    )
