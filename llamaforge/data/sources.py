"""What a person may name as data: files, folders, patterns and datasets, each with its share.

A source is written as a text, `PLACE` or `PLACE@WEIGHT`, or in a recipe as a mapping:

    sources:
      - chats.jsonl
      - path: books/*.md
        weight: 0.25
      - hf:owner/name:config/train@2

`expand` turns what was named into files that `containers.rows` reads, each a source of its own.
"""

import glob
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from llamaforge.data import sniff
from llamaforge.data.containers import container_of, reading, require_file
from llamaforge.data.records import SPLIT_NAMES, source_name
from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError, UsageError
from llamaforge.safe_text import safe_line

MAX_WEIGHT: Final = 100.0
MAX_FILES: Final = 10_000
"""Files that one folder or pattern may stand for."""

Side = Literal["train", "validation", "test"]

_DATA_SUFFIXES: Final = (
    sniff.JSON_SUFFIXES
    | sniff.TABLE_SUFFIXES
    | sniff.TEXT_SUFFIXES
    | {".parquet", ".arrow", ".feather", ".ipc"}
)
_PACKED_SUFFIXES: Final = frozenset({".gz", ".zst", ".zstd"})
_DOCUMENTS: Final = frozenset({"readme", "license", "licence", "changelog", "dataset_infos"})
"""Files that tell about a folder's data and hold none of it."""
_WEIGHTED: Final = re.compile(r"(?P<place>.+)@(?P<weight>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)")
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_DATASET: Final = re.compile(
    rf"(?P<id>{_NAME}/{_NAME})(?::(?P<config>[A-Za-z0-9._-]{{1,128}}))?"
    r"(?:/(?P<split>[A-Za-z0-9._-]{1,128}))?"
)
_SPLIT_WORD: Final = re.compile(r"[a-z]+")


class Source(BaseModel):
    """One thing that was named as data, or one file of it. Also what a recipe's entry may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    """A file, a folder, a pattern such as `data/*.jsonl`, or a dataset of the Hub,
    `hf:owner/name[:config][/split]`."""
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0
    """How often each row is taken: 0.5 is a fixed half of the rows, 2 is every row twice, 1.5 is
    every row once and half of them again."""
    split: Side | None = None
    """The side that its rows are for; one that a row names itself outranks it."""
    format: str | None = None
    """The format of its rows, where they could be several: the first that is named for them.
    Rows of another one are refused, unless there is a mapping."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Which of its columns is which field of the format, by the field's name."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Take `PLACE` and `PLACE@WEIGHT`; a file whose name ends like that is meant first."""
        if isinstance(value, Path):
            return {"path": str(value)}
        if not isinstance(value, str):
            return value
        _require_utf8(value)
        match = _WEIGHTED.fullmatch(value)
        if match is None or exists(_at_home(value)):
            return {"path": value}
        return {"path": match["place"], "weight": float(match["weight"])}

    @field_validator("path", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        if isinstance(value, str):
            _require_utf8(value)
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _side(cls, value: Any) -> Any:
        return SPLIT_NAMES.get(value.strip().lower(), value) if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _shortest(self, dump: SerializerFunctionWrapHandler) -> Any:
        """Write a source as a text where that says all of it."""
        text = self.text()
        return text if Source.model_validate(text) == self else dump(self)

    @property
    def place(self) -> Path:
        """The file, the folder or the pattern as a path."""
        return _at_home(self.path)

    @property
    def is_on_the_hub(self) -> bool:
        """Whether it names a dataset that has to be fetched."""
        return hub_dataset(self) is not None

    def absolute(self) -> "Source":
        """Return the source as it is found from any folder; a dataset is named as it is.

        Raises:
            UsageError: the current folder's name cannot be written down (`invalid_source`).
        """
        if self.is_on_the_hub:
            return self
        path = str(self.place.absolute())
        try:
            _require_utf8(path)
        except ValueError as error:
            raise UsageError(
                f"The path {safe_line(path, limit=120)} cannot be used: {error}.",
                "A data file may have any name within a folder that is named.",
                code="invalid_source",
            ) from None
        return self.model_copy(update={"path": path})

    def text(self) -> str:
        """Return the source as it can be written on a command line."""
        return self.path if self.weight == 1.0 else f"{self.path}@{_weight(self.weight)}"


def parse_source(value: object) -> Source:
    """Return the source that a text, a path or a recipe's mapping names.

    Raises:
        UsageError: it has an unknown key, or a value that it cannot have (`invalid_source`).
    """
    try:
        return Source.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        said = problem["msg"].removeprefix("Value error, ")
        what = safe_line(f"{where}: {said}" if where else said, limit=120)
        raise UsageError(
            f"The source {safe_line(repr(value), limit=120)} is not understood: {what}.",
            "Write FILE, FOLDER, 'PATTERN' or hf:OWNER/NAME, with a weight as in FILE@0.5.",
            code="invalid_source",
        ) from None


def absolute_source(text: str) -> str:
    """Return a source as any other process finds it; a dataset of the Hub stays as it is.

    Raises:
        UsageError: as `parse_source`.
    """
    return parse_source(text).absolute().text()


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset of the Hugging Face Hub."""

    id: str
    """`owner/name`."""
    config: str | None = None
    """One of its configurations; none means its only one, or the default."""
    split: str | None = None
    """One of its splits; none means all."""

    def text(self) -> str:
        """Return the dataset as a source names it."""
        config = f":{self.config}" if self.config else ""
        split = f"/{self.split}" if self.split else ""
        return f"hf:{self.id}{config}{split}"


def hub_dataset(source: Source) -> HubDataset | None:
    """Return the dataset that `source` names; none if it names something on this machine.

    `hf:` always means the Hub. `owner/name` without it does where there is no such path, and
    where the last part has no ending of a data file, which is a path with a slip in it.

    Raises:
        UsageError: what follows `hf:` cannot be a dataset (`invalid_dataset`).
    """
    explicit = source.path.startswith("hf:")
    match = _DATASET.fullmatch(source.path.removeprefix("hf:"))
    if explicit and match is None:
        raise UsageError(
            f"{safe_line(source.path, limit=120)} is no name of a dataset.",
            "Write hf:OWNER/NAME, hf:OWNER/NAME:CONFIG or hf:OWNER/NAME:CONFIG/SPLIT.",
            code="invalid_dataset",
        )
    if match is None or not (explicit or _may_be_dataset(source, match)):
        return None
    return HubDataset(match["id"], match["config"], match["split"])


def _may_be_dataset(source: Source, match: re.Match[str]) -> bool:
    return (
        match["split"] is None
        and not exists(source.place)
        and not exists(source.place.parent)
        and not _is_data_name(source.place.name)
    )


@dataclass(frozen=True, slots=True)
class Expansion:
    """The files that sources stand for."""

    files: tuple[Source, ...]
    """One source a file, with the weight, the format and the mapping of what it was named in."""
    warnings: tuple[str, ...] = ()
    """One sentence each: what was left out, and which files were taken for a side of the split."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files alone."""
        return tuple(source.place for source in self.files)


Fetch = Callable[[HubDataset], Sequence[Path]]
"""Returns the files of a dataset, one or more a split, each named after its split."""


def expand(sources: Iterable[Source], fetch: Fetch | None = None) -> Expansion:
    """Return the files that `sources` stand for, in order; those of a folder by name.

    Of a folder these are the data files in it and in the folders right below. What begins with a
    dot or an underscore, what tells about the data (README) and what no data file is called like
    is left out, with a warning. Files and folders named `train`, `validation`, `test` (also
    `valid`, `val`, and shards such as `test-00000-of-00002`) are for that side, with a warning.
    A pattern stands for the files that it matches; `**` reaches into folders of any depth that no
    link leads to.

    Raises:
        NotFoundError: there is no such file, or nothing matches (`no_source`).
        UsageError: a file is named twice (`source_twice`), or a dataset is named and nothing can
            fetch it (`no_fetch`).
        RefusedError: a folder has no data files (`empty_folder`) or too many (`too_many_files`).
    """
    files: list[Source] = []
    warnings: list[str] = []
    for source in sources:
        found, told = _expanded(source, fetch)
        files += found
        warnings += told
    _require_distinct(files)
    return Expansion(tuple(files), tuple(warnings))


def _expanded(source: Source, fetch: Fetch | None) -> tuple[list[Source], list[str]]:
    dataset = hub_dataset(source)
    if dataset is not None:
        return _dataset_files(source, dataset, fetch)
    with reading(source.place):
        if source.place.is_dir():
            return _folder_files(source)
        if not source.place.exists() and glob.has_magic(source.path):
            return _matching_files(source)
    require_file(source.place)
    return [source], []


def _dataset_files(
    source: Source, dataset: HubDataset, fetch: Fetch | None
) -> tuple[list[Source], list[str]]:
    if fetch is None and not source.path.startswith("hf:"):
        raise NotFoundError(
            f"There is no file {safe_line(source.path)}.",
            f"Check the path; a dataset of the Hub is hf:{safe_line(source.path)}",
            code="no_source",
        )
    if fetch is None:
        raise UsageError(
            f"{safe_line(source.path)} is a dataset of the Hugging Face Hub, which cannot be"
            " fetched here.",
            "Name its files once they are on this machine.",
            code="no_fetch",
        )
    return _sided(source, [(path, path.name) for path in fetch(dataset)])


def _folder_files(source: Source) -> tuple[list[Source], list[str]]:
    folder = source.place
    kept: list[tuple[Path, str]] = []
    left_out: list[str] = []
    for path, name in _entries(folder):
        if path.is_dir():
            left_out.append(f"{name}/")
        elif _is_data_file(path):
            kept.append((path, name))
        else:
            left_out.append(name)
    if not kept:
        raise RefusedError(
            f"The folder {safe_line(source_name(folder))} holds no data files.",
            "Name a folder with files that end in .jsonl, .json, .csv, .tsv, .parquet, .arrow,"
            " .txt or .md.",
            code="empty_folder",
        )
    files, warnings = _sided(source, kept)
    if left_out:
        warnings.insert(0, f"Left out of {safe_line(source_name(folder))}: {_list(left_out)}.")
    return files, warnings


def _entries(folder: Path) -> list[tuple[Path, str]]:
    """Return what is in `folder` and in the folders below it, with names relative to it.

    A folder is returned itself if it is not entered: a hidden one, or one two levels down.
    """
    found: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not _is_hidden(path):
            inner = sorted(path.iterdir())
            found += [(entry, f"{source_name(Path(path.name) / entry.name)}") for entry in inner]
        else:
            found.append((path, source_name(Path(path.name))))
        _require_few(len(found), folder)
    return found


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "_"))


def _is_data_name(name: str) -> bool:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in _PACKED_SUFFIXES:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in _DATA_SUFFIXES


def _is_data_file(path: Path) -> bool:
    stem = path.name.split(".")[0].lower()
    if _is_hidden(path) or stem in _DOCUMENTS or not path.is_file():
        return False
    if _is_data_name(path.name):
        return True
    if path.suffix:
        return False
    try:  # a name without an ending says nothing: the content decides
        return path.stat().st_size > 0 and container_of(path) != "txt"
    except (InvalidFileError, RefusedError):
        return False


def _matching_files(source: Source) -> tuple[list[Source], list[str]]:
    kept: list[tuple[Path, str]] = []
    for name in sorted(set(_matches(source.place))):
        path = Path(name)
        if path.is_file():
            kept.append((path, path.name))
            _require_few(len(kept), source.place)
    if not kept:
        raise NotFoundError(
            f"No file matches {safe_line(source.path)}.", "Check the pattern.", code="no_source"
        )
    return _sided(source, kept)


def _matches(pattern: Path) -> Iterator[str]:
    """Yield what a pattern matches, some of it more than once.

    `**` stands for folders of any depth but for hidden ones, and does not follow links: two that
    lead back to their folder stand for more paths than anybody can wait for.
    """
    if "**" not in pattern.parts:
        yield from glob.iglob(os.fspath(pattern))  # noqa: PTH207
        return
    place = pattern.parts.index("**")
    above, below = Path(*pattern.parts[:place]), pattern.parts[place + 1 :] or ("*",)
    for base in sorted(glob.iglob(os.fspath(above))) if above.parts else ["."]:  # noqa: PTH207
        for folder, names, _ in os.walk(base):
            names[:] = [name for name in names if not name.startswith(".")]
            yield from _matches(Path(glob.escape(folder), *below))


def _require_few(count: int, place: Path) -> None:
    if count > MAX_FILES:
        raise RefusedError(
            f"{safe_line(source_name(place))} stands for more than {MAX_FILES:,} files.",
            "Put the rows into fewer files, for example one Parquet file.",
            code="too_many_files",
        )


def _sided(source: Source, found: Iterable[tuple[Path, str]]) -> tuple[list[Source], list[str]]:
    """Return a source for each file, with the side that its name tells."""
    files = []
    sides: dict[str, list[str]] = {}
    for path, name in found:
        side = source.split or side_of_name(name)
        if side is not None and source.split is None:
            sides.setdefault(side, []).append(name)
        files.append(source.model_copy(update={"path": os.fspath(path), "split": side}))
    return files, [f"Taken for {side} by name: {_list(names)}." for side, names in sides.items()]


def side_of_name(name: str) -> str | None:
    """Return the side that a file's name tells, from its own name or the folder above it.

    `test.jsonl`, `test-00000-of-00002.parquet`, `my_test.csv` and `test/rows.csv` are for test;
    `latest.csv` and `contest.csv` tell nothing, nor does a name with two sides.
    """
    for part in (Path(name).name.split(".")[0], *Path(name).parts[:-1]):
        words = _SPLIT_WORD.findall(part.lower())
        found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(found) == 1:
            return found.pop()
    return None


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(safe_line(name, limit=60) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10:,} more"


def _require_distinct(files: Sequence[Source]) -> None:
    seen: set[tuple[int, int]] = set()
    for source in files:
        with reading(source.place):
            status = source.place.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            raise UsageError(
                f"{safe_line(source_name(source.place))} is named twice.",
                "Name each data file once; a weight of 2 takes its rows twice.",
                code="source_twice",
            )
        seen.add(identity)


def _at_home(text: str) -> Path:
    """Return `text` as a path; `~` is the person's home where there is one of that name."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _require_utf8(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the name is not UTF-8; rename the file or the folder") from None


def _weight(weight: float) -> str:
    """Return a weight as short as it can be written without becoming another one."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)


def exists(path: Path) -> bool:
    """Return whether there is something at `path`; False also for what no file can be called."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def copies(record_id: str, weight: float, seed: int) -> int:
    """Return how often the row with this id is taken from a source of this weight.

    Every row is taken as often as the whole part of `weight` says, and once more if a hash of
    `seed` and its id falls below the rest. So a row's fate depends on itself alone: other rows,
    their order and the other sources do not matter, and what a smaller weight takes a larger one
    takes too.
    """
    whole = math.floor(weight)
    digest = hashlib.sha256(f"{seed}:{record_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return whole + (share < weight - whole)
