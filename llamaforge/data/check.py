"""Data files read whole and judged: good enough to train on, or refused before anything starts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamaforge.data.containers import MAX_ROW_BYTES, place_word, reading, require_file
from llamaforge.data.formats import Detection, detect, read_records, require_readable
from llamaforge.data.quality import RowCounts, count
from llamaforge.data.records import Record, Rejection, source_name
from llamaforge.data.snapshot import SnapshotReport, SourceFile
from llamaforge.data.split import SplitReport, Splits, split
from llamaforge.errors import RefusedError, UsageError
from llamaforge.files import sha256_of
from llamaforge.safe_text import safe_line


@dataclass(frozen=True, slots=True)
class Collected:
    """All rows of some data files: those to train on by side, and those that cannot be used."""

    splits: Splits
    rejected: tuple[Rejection, ...]
    """Every row that cannot be used."""
    counts: RowCounts
    detections: tuple[Detection, ...]
    """What each source holds, in the order of `sources`."""
    sources: tuple[SourceFile, ...]
    split_report: SplitReport
    rules: dict[str, Any]

    @property
    def report(self) -> SnapshotReport:
        """What `write_snapshot` puts into the manifest."""
        return SnapshotReport(self.sources, self.counts, self.rejected, self.rules)


def collect(
    sources: Sequence[Path],
    *,
    validation_fraction: float,
    seed: int,
    max_rejected_fraction: float,
) -> Collected:
    """Read every row of `sources` and divide those that can be used.

    Args:
        sources: data files, read in this order.
        validation_fraction: part of the rows without a `split` of their own to hold out, 0 to 1.
        seed: chooses which.
        max_rejected_fraction: part of all rows that may be rejected, 0 to 1.

    Raises:
        NotFoundError: a source does not exist.
        UsageError: no source is named, one is named twice, or one has a format that cannot be
            read.
        InvalidFileError: a source is binary or damaged.
        RefusedError: a source cannot be read (`source_is_folder`, `unreadable_source`), holds no
            rows or leaves none to train on (`empty_dataset`), has too many rows that cannot be
            used (`rejected_rows`) or changed while it was read (`source_changed`).
    """
    records: list[Record] = []
    intake = _read(sources, max_rejected_fraction, records)
    files = tuple(
        _source_file(path, found, stamp)
        for path, found, stamp in zip(sources, intake.detections, intake.stamps, strict=True)
    )
    splits, split_report = split(records, validation_fraction, seed)
    return Collected(
        splits=splits,
        rejected=tuple(intake.rejected),
        counts=count(intake.read, records, intake.rejected),
        detections=tuple(intake.detections),
        sources=files,
        split_report=split_report,
        rules={
            "validation_fraction": validation_fraction,
            "split_seed": seed,
            "max_rejected_fraction": max_rejected_fraction,
            "max_row_bytes": MAX_ROW_BYTES,
            "split": asdict(split_report),
        },
    )


def first_problem(sources: Sequence[Path], max_rejected_fraction: float) -> None:
    """Raise the first problem for which `collect` would refuse `sources`; return if there is none.

    Every row is read; only the reasons of those that cannot be used are kept.

    Raises:
        as `collect`.
    """
    _read(sources, max_rejected_fraction, None)


@dataclass(slots=True)
class _Intake:
    """What was seen while the sources were read."""

    detections: list[Detection]
    stamps: list[tuple[int, int]]
    """The `_stamp` of each source before it was read."""
    rejected: list[Rejection]
    read: int = 0
    accepted: int = 0
    for_train: int = 0
    """Accepted rows that are not marked for another side."""


def _read(
    sources: Sequence[Path], max_rejected_fraction: float, records: list[Record] | None
) -> _Intake:
    """Read `sources` and judge them; the rows are added to `records` if there is such a list."""
    _require_sources(sources)
    intake = _Intake([detect(path) for path in sources], [_stamp(path) for path in sources], [])
    for path, found in zip(sources, intake.detections, strict=True):
        require_readable(path, found)
    for path in sources:
        rows_before = intake.read
        for item in read_records(path):
            intake.read += 1
            if isinstance(item, Rejection):
                intake.rejected.append(item)
                continue
            intake.accepted += 1
            intake.for_train += item.split in {None, "train"}
            if records is not None:
                records.append(item)
        if intake.read == rows_before:
            raise _empty(f"{safe_line(source_name(path))} holds no rows.")
    _judge(intake, [source_name(path) for path in sources], max_rejected_fraction)
    return intake


def _require_sources(sources: Sequence[Path]) -> None:
    if not sources:
        raise UsageError("No data file is named.", "Name one with --data FILE.", code="no_data")
    for path in sources:
        require_file(path)
    for number, path in enumerate(sources):
        if any(path.samefile(other) for other in sources[:number]):
            raise UsageError(
                f"{safe_line(source_name(path))} is named twice.",
                "Name each data file once.",
                code="source_twice",
            )


def _judge(intake: _Intake, names: list[str], max_rejected_fraction: float) -> None:
    bad = len(intake.rejected)
    if bad:
        first = intake.rejected[0]
        found = intake.detections[names.index(first.source)]
        word = place_word(found.container)
        where = f"{safe_line(first.source)} {word} {first.row:,}: {first.reason}"
        fraction = bad / intake.read
        if not intake.accepted:
            raise RefusedError(
                f"No row of {_rows(intake.read)} can be used; the first: {where}.",
                "Mend the rows.",
                code="rejected_rows",
            )
        if fraction > max_rejected_fraction:
            raise RefusedError(
                f"{bad:,} of {_rows(intake.read)} ({_percent(fraction)} %) cannot be used;"
                f" the first: {where}.",
                "Mend them, or allow them with"
                f" --set max_rejected_fraction={math.ceil(fraction * 10) / 10}",
                code="rejected_rows",
            )
    if not intake.for_train:
        raise _empty(
            f"No row is left for training: the split of all {_rows(intake.accepted)} is validation"
            " or test."
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _percent(fraction: float) -> str:
    """Return `fraction` in percent with two digits that count; only all rows are 100."""
    if fraction < 0.995:
        return f"{100 * fraction:.2g}" if fraction < 0.1 else f"{100 * fraction:.0f}"
    return f"{math.floor(10_000 * fraction) / 100:g}"


def _empty(message: str) -> RefusedError:
    return RefusedError(message, "Add rows with a question and an answer.", code="empty_dataset")


def _stamp(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change."""
    with reading(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns


def _source_file(path: Path, found: Detection, stamp: tuple[int, int]) -> SourceFile:
    """Return what `path` is, if it is still the file that had `stamp` before it was read."""
    name = source_name(path)
    with reading(path):
        digest = sha256_of(path)
    if _stamp(path) != stamp:
        raise RefusedError(
            f"{safe_line(name)} changed while it was read.",
            "Wait until it is complete, then start again.",
            code="source_changed",
        )
    return SourceFile(
        path=name, bytes=stamp[0], sha256=digest, container=found.container, format=found.format
    )
