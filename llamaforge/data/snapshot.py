"""The frozen data of a run: canonical JSON Lines, and a manifest with the digest of each file."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llamaforge.data.quality import RowCounts
from llamaforge.data.records import (
    SPLITS,
    Record,
    Rejection,
    canonical_json,
    canonical_line,
    source_name,
)
from llamaforge.data.split import Splits
from llamaforge.errors import InvalidFileError
from llamaforge.files import write_atomic, write_json
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

MANIFEST_NAME: Final = "manifest.json"
REJECTED_NAME: Final = "rejected.jsonl"
_FILE: Final = r"^(train|validation|test|rejected)\.jsonl$"
_HINT: Final = "Prepare the data again: start a new run from the same sources."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceFile(_Strict):
    """One data file as it was read."""

    path: str
    bytes: int
    sha256: str
    container: str
    format: str


class SnapshotFile(_Strict):
    """One file of the snapshot."""

    rows: int
    bytes: int
    sha256: str


class SnapshotCounts(_Strict):
    """How many rows were read, what became of them, and where they are."""

    read: int
    accepted: int
    rejected: int
    duplicates: int
    train: int
    validation: int
    test: int
    repaired: int = 0
    repeated: int = 0


class SnapshotManifest(_Strict):
    """The content of `manifest.json`."""

    version: Literal[1] = 1
    id: str
    """sha256 of the lines `<sha256>  <name>` of the three data files, as `sha256sum` prints them
    for train.jsonl, validation.jsonl and test.jsonl."""
    files: dict[Annotated[str, Field(pattern=_FILE)], SnapshotFile]
    """By file name."""
    sources: list[SourceFile]
    counts: SnapshotCounts
    rules: dict[str, Any]
    """The settings and repairs that made these rows out of the sources."""


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What the manifest says beside the rows themselves."""

    sources: tuple[SourceFile, ...]
    counts: RowCounts
    rejected: tuple[Rejection, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)


def write_snapshot(folder: Path, splits: Splits, report: SnapshotReport) -> SnapshotManifest:
    """Write the rows of `splits` and what became of all others into `folder`.

    The files are `train.jsonl`, `validation.jsonl` and `test.jsonl` (one record a line),
    `rejected.jsonl` (source, row and reason of each row that is not in these) and, last,
    `manifest.json`: a folder without it holds no snapshot.

    Raises:
        ValueError: the sides do not hold as many rows as `report` says are used.
    """
    counts = report.counts
    sizes = {side: len(splits[side]) for side in SPLITS}
    if (
        sum(sizes.values()) != counts.kept + counts.repeated
        or len(report.rejected) != counts.rejected
    ):
        raise ValueError(f"{sizes} and {len(report.rejected)} rejected rows are not {counts}")
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    files = {
        _data_name(side): _write_lines(
            folder / _data_name(side), [canonical_line(record) for record in splits[side]]
        )
        for side in SPLITS
    }
    files[REJECTED_NAME] = _write_lines(
        folder / REJECTED_NAME,
        [
            canonical_json({"source": row.source, "row": row.row, "reason": row.reason}) + b"\n"
            for row in report.rejected
        ],
    )
    manifest = SnapshotManifest(
        id=_snapshot_id(files),
        files=files,
        sources=list(report.sources),
        counts=SnapshotCounts(
            read=counts.read,
            accepted=counts.accepted,
            rejected=counts.rejected,
            duplicates=counts.duplicates,
            repaired=counts.repaired,
            repeated=counts.repeated,
            **sizes,
        ),
        rules=dict(report.rules),
    )
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest


def read_snapshot(folder: Path) -> tuple[SnapshotManifest, Splits]:
    """Return the manifest and the records of the snapshot in `folder`, each file verified.

    Raises:
        InvalidFileError: a file is missing, is not what its digest says, or cannot be parsed.
    """
    manifest = read_manifest(folder / MANIFEST_NAME)
    for name in [*map(_data_name, SPLITS), REJECTED_NAME]:
        if name not in manifest.files:
            raise _invalid(folder / MANIFEST_NAME, f"does not list {name}")
    splits: Splits = {}
    for side in SPLITS:
        path = folder / _data_name(side)
        splits[side] = _parse(path, _verified(path, manifest.files[path.name]), manifest)
    _verified(folder / REJECTED_NAME, manifest.files[REJECTED_NAME])
    actual = _snapshot_id(manifest.files)
    if actual != manifest.id:
        raise _differs(folder / MANIFEST_NAME, "snapshot id", manifest.id, actual)
    return manifest, splits


def _data_name(side: str) -> str:
    return f"{side}.jsonl"


def _write_lines(path: Path, lines: list[bytes]) -> SnapshotFile:
    data = b"".join(lines)
    write_atomic(path, data)
    return SnapshotFile(rows=len(lines), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _snapshot_id(files: Mapping[str, SnapshotFile]) -> str:
    names = map(_data_name, SPLITS)
    listing = "".join(f"{files[name].sha256}  {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()


def read_manifest(path: Path) -> SnapshotManifest:
    """Return the manifest at `path`; the files that it lists are not looked at.

    Raises:
        InvalidFileError: it is missing, or is none.
    """
    try:
        return SnapshotManifest.model_validate_json(_bytes(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise _invalid(path, f"is wrong at {safe_line(where)}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from error


def _verified(path: Path, expected: SnapshotFile) -> bytes:
    """Return the file's content, which is the very content that was verified."""
    data = _bytes(path)
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected.sha256:
        raise _differs(path, "sha256", expected.sha256, actual)
    return data


def record_at(path: Path, place: int) -> Record | None:
    """Return the record on a line of one of a snapshot's data files; None behind the last one.

    Args:
        path: the file, which is not held against the manifest.
        place: of the line, from 1.

    Raises:
        InvalidFileError: it cannot be read, or the line is not a record.
    """
    try:
        with path.open("rb") as file:
            line = next(islice(file, place - 1, place), None)
        return None if line is None else _RECORD.validate_python(json.loads(line))
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise _invalid(path, "holds a line that is not a record") from None


def _parse(path: Path, data: bytes, manifest: SnapshotManifest) -> list[Record]:
    try:
        records = [_RECORD.validate_python(json.loads(line)) for line in _lines(data)]
    except (ValueError, RecursionError):  # ValidationError and JSONDecodeError are ValueErrors
        raise _invalid(path, "holds a line that is not a record") from None
    if len(records) != manifest.files[path.name].rows:
        raise _invalid(path, f"holds {plural(len(records), 'row')}, its manifest says otherwise")
    return records


def _lines(data: bytes) -> Iterable[bytes]:
    """Split at `\\n` only: other line separators may stand within a text."""
    return data.split(b"\n")[:-1]


_RECORD: Final = TypeAdapter(Record)


def _differs(path: Path, what: str, expected: str, actual: str) -> InvalidFileError:
    return _invalid(path, f"was changed: its {what} is {actual}, expected {expected}")


def _invalid(path: Path, problem: str) -> InvalidFileError:
    name = safe_line(source_name(path))
    return InvalidFileError(f"The snapshot file {name} {problem}.", _HINT, code="invalid_snapshot")
