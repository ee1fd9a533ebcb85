"""Data files read whole and judged: good enough to train on, or refused before anything starts."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.data.containers import MAX_ROW_BYTES, place_word, reading
from llamaforge.data.formats import Detection, detect, is_mapped, read_records, require_readable
from llamaforge.data.mapping import Mapping
from llamaforge.data.quality import RowCounts, count
from llamaforge.data.reading import ReadChoices
from llamaforge.data.records import Record, Rejection, source_name
from llamaforge.data.snapshot import SnapshotReport, SourceFile
from llamaforge.data.sources import Fetch, Source, copies, expand, parse_source
from llamaforge.data.split import SplitReport, Splits, split
from llamaforge.errors import RefusedError, UsageError
from llamaforge.files import sha256_of
from llamaforge.safe_text import safe_line
from llamaforge.words import plural

if TYPE_CHECKING:
    from llamaforge.data.analysis import Analysis
    from llamaforge.data.lengths import Measure
    from llamaforge.data.row_refs import Example

LISTED: Final = 1_000
"""Rows that cannot be used of which a check says more than how many."""
_PROGRESS_ROWS: Final = 500
_LABELS_OR_NOT: Final = frozenset({"prompt_completion", "unpaired_preference"})
"""What rows with a label of 0 or 1 could be."""

Progress = Callable[[str, int], None]
"""Called with what is going on (`read`, `look`) and how many rows it has come to."""


def _silent(what: str, rows: int) -> None:
    del what, rows


def _never() -> bool:
    return False


class StoppedError(Exception):
    """A person asked to end it."""


@dataclass(frozen=True, slots=True)
class Division:
    """How the rows without a `split` of their own are divided."""

    validation_fraction: float = 0.1
    """Part of them that is held out while training, 0 to 1."""
    validation_count: int | None = None
    """How many instead of which part."""
    test_fraction: float = 0.0
    """Part of them that is set aside for the end."""
    test_count: int | None = None
    seed: int = 0
    """Chooses which."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How somebody follows the work, and ends it."""

    on_progress: Progress = _silent
    stopped: Callable[[], bool] = _never
    """Asked now and then; True raises `StoppedError`."""


@dataclass(slots=True)
class Intake:
    """Every row of some sources: as a record, or with the reason why it is none."""

    records: list[Record]
    rejected: list[Rejection]
    files: tuple[Source, ...]
    """What the sources stand for, one file each."""
    detections: tuple[Detection, ...]
    """What each of the files holds."""
    warnings: tuple[str, ...]
    """One sentence each, of what was left out of folders and how files were taken."""
    stamps: tuple[tuple[int, int], ...]
    """Size and time of change of each file before it was read."""
    choices: tuple[ReadChoices, ...] = ()
    """How each of the files is read."""
    read: int = 0
    """Rows, but for those left out."""
    left_out: int = 0
    """Rows that a weight below 1 left out; they count nowhere else."""
    brief: bool = False
    """Rows are only counted: of those that cannot be used the first `LISTED` are kept, and
    `repeats` stays empty. So memory does not depend on how many there are."""
    bad: int = 0
    """Rows that cannot be used."""
    repeated: int = 0
    """How often rows are taken once more, because of a weight above 1."""
    repeats: dict[tuple[str, int, str], int] = field(default_factory=dict)
    """How often a row is taken that a weight above 1 repeats, by source, row and id."""
    empty: list[Path] = field(default_factory=list)
    """Files without a row."""
    for_train: int = 0
    """Rows that are not marked for another side."""
    for_validation: int = 0
    """Rows that are marked for validation."""
    repaired: int = 0
    """Rows that a rule has mended."""
    mended: list[Record] = field(default_factory=list)
    """The first of these rows."""
    repairs: Counter[str] = field(default_factory=Counter)
    """How many rows each rule has mended."""

    def note_rejected(self, row: Rejection) -> None:
        """Count a row that cannot be used."""
        self.read += 1
        self.bad += 1
        if not self.brief or self.bad <= LISTED:
            self.rejected.append(row)

    def note(self, record: Record, times: int = 1) -> None:
        """Count a row that can be used, and is taken so many times."""
        self.repeated += times - 1
        if times > 1 and not self.brief:
            self.repeats[record.source, record.row, record.id] = times
        self.read += 1
        self.for_train += record.split in {None, "train"}
        self.for_validation += record.split == "validation"
        self.repaired += bool(record.repairs)
        self.repairs.update(record.repairs)
        if record.repairs and len(self.mended) < LISTED:
            self.mended.append(record)


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
    analysis: "Analysis"
    warnings: tuple[str, ...] = ()

    @property
    def report(self) -> SnapshotReport:
        """What `write_snapshot` puts into the manifest."""
        return SnapshotReport(self.sources, self.counts, self.rejected, self.rules)


def collect(
    sources: Sequence[Source | Path],
    *,
    max_rejected_fraction: float,
    division: Division,
    choices: ReadChoices | None = None,
    allow_secrets: bool = False,
    fetch: Fetch | None = None,
    watch: Watch | None = None,
) -> Collected:
    """Read every row of `sources`, look through them and divide those that can be used.

    Args:
        sources: what is read, in this order.
        max_rejected_fraction: part of all rows that may be rejected, 0 to 1.
        division: how the rows are divided; near duplicates stay on one side.
        choices: what a person chose about the rows; a source's own mapping outranks it.
        allow_secrets: whether rows may hold what looks like keys and tokens.
        fetch: brings datasets of the Hub.
        watch: who follows the work.

    Raises:
        NotFoundError: a source does not exist.
        UsageError: no source is named, one is named twice, or one has a format that cannot be
            read, or could be several (`ambiguous_format`).
        InvalidFileError: a source is binary or damaged.
        RefusedError: a source cannot be read, holds no rows or leaves none to train on
            (`empty_dataset`), has too many rows that cannot be used (`rejected_rows`), holds
            secrets (`secrets`) or changed while it was read (`source_changed`).
        StoppedError: `watch` ended it.
    """
    watch = watch or Watch()
    intake = take_in(sources, choices=choices, seed=division.seed, fetch=fetch, watch=watch)
    judge(intake, max_rejected_fraction)
    analysis = look_through(intake.records, allow_secrets=allow_secrets, watch=watch)
    if not allow_secrets:
        _refuse_secrets(analysis)
    splits, split_report = split(
        intake.records,
        division.validation_fraction,
        division.seed,
        validation_count=division.validation_count,
        test_fraction=division.test_fraction,
        test_count=division.test_count,
        clusters=analysis.clusters,
    )
    splits["train"] = _repeated(splits["train"], intake.repeats)
    more = sum(map(len, splits.values())) - len(intake.records)
    return Collected(
        splits=splits,
        rejected=tuple(intake.rejected),
        counts=count(intake.read, intake.records, intake.rejected, repeated=more),
        detections=intake.detections,
        sources=source_files(intake),
        split_report=split_report,
        rules={
            **{key: value for key, value in asdict(division).items() if key != "seed"},
            "split_seed": division.seed,
            "max_rejected_fraction": max_rejected_fraction,
            "max_row_bytes": MAX_ROW_BYTES,
            "repairs": dict(intake.repairs),
            "weights": {item.path: item.weight for item in intake.files if item.weight != 1.0},
            "left_out": intake.left_out,
            "repeated": more,
            "split": asdict(split_report),
        },
        analysis=analysis,
        warnings=intake.warnings,
    )


def first_problem(
    sources: Sequence[Source | Path],
    max_rejected_fraction: float,
    choices: ReadChoices | None = None,
    seed: int = 0,
) -> Intake | None:
    """Raise the first problem that reading `sources` has; return their figures if there is none.

    Datasets of the Hub are left to the run: nothing is fetched here, and where there are some,
    no figures are returned.

    Raises:
        as `collect`, but for what only looking through the rows shows.
    """
    local = [source for source in map(_source, sources) if not source.is_on_the_hub]
    if not local and sources:
        return None
    intake = take_in(local, choices=choices, seed=seed, keep=False)
    judge(intake, max_rejected_fraction)
    return intake if len(local) == len(sources) else None


def take_in(
    sources: Sequence[Source | Path],
    *,
    choices: ReadChoices | None = None,
    seed: int = 0,
    fetch: Fetch | None = None,
    watch: Watch | None = None,
    keep: bool = True,
) -> Intake:
    """Read every row of `sources`; without `keep`, only what `judge` needs is held.

    Raises:
        NotFoundError, UsageError, InvalidFileError, RefusedError: as `collect`, for the sources
            themselves.
        StoppedError: `watch` ended it.
    """
    intake = take_in_nothing(sources, choices=choices, fetch=fetch, brief=not keep)
    for record in streamed(intake, seed=seed, watch=watch):
        if keep:
            intake.records.append(record)
    return intake


def take_in_nothing(
    sources: Sequence[Source | Path],
    *,
    choices: ReadChoices | None = None,
    fetch: Fetch | None = None,
    brief: bool = False,
) -> Intake:
    """Find the files that `sources` stand for and what they hold; `streamed` reads them.

    Raises:
        as `take_in`.
    """
    if not sources:
        raise UsageError("No data file is named.", "Name one with --data FILE.", code="no_data")
    expansion = expand([_source(item) for item in sources], fetch)
    each, told = _choices_of_all(expansion.files, choices or ReadChoices())
    found = tuple(map(_detected, expansion.files, each))
    stamps = tuple(_stamp(item.place) for item in expansion.files)
    warnings = (*expansion.warnings, *told)
    return Intake([], [], expansion.files, found, warnings, stamps, each, brief=brief)


def streamed(
    intake: Intake,
    *,
    seed: int = 0,
    watch: Watch | None = None,
) -> Iterator[Record]:
    """Yield every row that can be used, and note in `intake` what became of the others.

    Raises:
        as `take_in`.
    """
    for item, mine in zip(intake.files, intake.choices, strict=True):
        yield from _file_records(intake, item, mine, seed=seed, watch=watch or Watch())


def look_through(
    records: Sequence[Record],
    *,
    allow_secrets: bool = False,
    measure: "Measure | None" = None,
    max_length: int | None = None,
    context: int | None = None,
    watch: Watch | None = None,
) -> "Analysis":
    """Return what the rows show, as `analyse` does.

    Raises:
        StoppedError: `watch` ended it.
    """
    # It needs numpy, which nobody waits for who only wants to know whether rows can be read.
    from llamaforge.data.analysis import analyse  # noqa: PLC0415

    watch = watch or Watch()
    found = analyse(
        records,
        measure=measure,
        max_length=max_length,
        context=context,
        allow_secrets=allow_secrets,
        on_progress=lambda rows: watch.on_progress("look", rows),
        stopped=watch.stopped,
    )
    if not found.complete:
        raise StoppedError
    return found


def judge(intake: Intake, max_rejected_fraction: float) -> None:
    """Raise `RefusedError` where too few of the rows can be used to train on them."""
    if intake.empty:
        raise _empty(f"{safe_line(source_name(intake.empty[0]))} holds no rows.")
    # A weight leaves rows out that can be used, and none that cannot: all are held against all.
    bad, rows = intake.bad, intake.read + intake.left_out
    usable = rows - bad
    if bad:
        first = intake.rejected[0]
        names = [source_name(item.place) for item in intake.files]
        found = intake.detections[names.index(first.source)]
        where = f"{safe_line(first.source)} {place_word(found.container)} {first.row:,}"
        fraction = bad / rows
        if not usable:
            raise RefusedError(
                f"No row of {plural(rows, 'row')} can be used; the first: {where}: {first.reason}.",
                "Mend the rows.",
                code="rejected_rows",
            )
        if fraction > max_rejected_fraction:
            raise RefusedError(
                f"{bad:,} of {plural(rows, 'row')} ({_percent(fraction)} %) cannot be used;"
                f" the first: {where}: {first.reason}.",
                "Mend them, or allow them with"
                f" --set max_rejected_fraction={math.ceil(fraction * 10) / 10}",
                code="rejected_rows",
            )
    if intake.left_out == usable:
        raise RefusedError(
            f"The weight leaves out every one of {plural(usable, 'row')}.",
            "Give a larger weight, as in FILE@0.5.",
            code="empty_dataset",
        )
    if not intake.for_train:
        raise _empty(
            "No row is left for training: the split of all "
            f"{plural(usable - intake.left_out, 'row')} is validation or test."
        )


def source_files(intake: Intake) -> tuple[SourceFile, ...]:
    """Return what each file is, for the manifest.

    Raises:
        RefusedError: one changed while it was read (`source_changed`), or cannot be read now.
    """
    return tuple(
        _source_file(item.place, found, stamp)
        for item, found, stamp in zip(intake.files, intake.detections, intake.stamps, strict=True)
    )


def _source(value: Source | Path) -> Source:
    return value if isinstance(value, Source) else parse_source(str(value))


def _choices_of_all(
    files: Sequence[Source], choices: ReadChoices
) -> tuple[tuple[ReadChoices, ...], list[str]]:
    """Return the choices for each file, and a sentence for each that the mapping leaves alone.

    One mapping for several files is for those that have a column of it; where none has, it is held
    against all of them, and refused.
    """
    each = tuple(_choices_of(item, choices) for item in files)
    mapping = choices.mapping
    if mapping is None or len(files) < 2:
        return each, []
    other = [
        number
        for number, item in enumerate(files)
        if not item.mapping and not is_mapped(item.place, mapping)
    ]
    if len(other) == len(files):
        return each, []
    others = replace(mapping, columns={})
    own = replace(choices, mapping=None if others == Mapping() else others)
    told = [
        f"The mapping names no column of {safe_line(source_name(files[number].place))}, which is "
        "read as what it is."
        for number in other
    ]
    return tuple(own if n in other else mine for n, mine in enumerate(each)), told


def _choices_of(source: Source, choices: ReadChoices) -> ReadChoices:
    """Return the choices for one file: its own mapping, else the one for all."""
    if not source.mapping:
        return choices
    return replace(
        choices, mapping=Mapping.parse(",".join(f"{k}={v}" for k, v in source.mapping.items()))
    )


def _detected(source: Source, choices: ReadChoices) -> Detection:
    path = source.place
    found = detect(path)
    require_readable(
        path,
        found,
        want=choices.want,
        preference=choices.preference,
        mapping=choices.mapping,
    )
    named = source.format
    if named is not None and choices.mapping is None and named != found.format:
        raise UsageError(
            f"The rows of {safe_line(source_name(path))} are {found.format}, not "
            f"{safe_line(named, limit=40)}: {found.reason}.",
            "Leave the format out, or say what the columns mean with a mapping.",
            code="other_format",
        )
    # Whoever wants labelled answers has said what a label of 0 or 1 means.
    is_settled = choices.want == "labelled" and set(found.ambiguous) <= _LABELS_OR_NOT
    if found.ambiguous and not is_settled and choices.mapping is None and named is None:
        raise UsageError(
            f"The rows of {safe_line(source_name(path))} could be "
            f"{' or '.join(found.ambiguous)}: {found.reason}.",
            found.advice,
            code="ambiguous_format",
        )
    return found


def _file_records(
    intake: Intake, source: Source, choices: ReadChoices, *, seed: int, watch: Watch
) -> Iterator[Record]:
    path, before = source.place, intake.read + intake.left_out
    items = read_records(
        path,
        want=choices.want,
        preference=choices.preference,
        images=choices.images,
        mapping=choices.mapping,
    )
    for number, item in enumerate(items):
        if number % _PROGRESS_ROWS == 0:
            watch.on_progress("read", intake.read)
            if watch.stopped():
                raise StoppedError
        if isinstance(item, Rejection):
            intake.note_rejected(item)
            continue
        times = 1 if source.weight == 1.0 else copies(item.id, source.weight, seed)
        if not times:
            intake.left_out += 1
            continue
        record = item
        if source.split is not None and item.split is None:
            record = replace(item, split=source.split)
        intake.note(record, times)
        yield record
    if intake.read + intake.left_out == before:
        intake.empty.append(path)


def _repeated(records: list[Record], repeats: dict[tuple[str, int, str], int]) -> list[Record]:
    """Return the rows to train on, each as often as its source's weight says."""
    if not repeats:
        return records
    return [r for r in records for _ in range(repeats.get((r.source, r.row, r.id), 1))]


def _refuse_secrets(analysis: "Analysis") -> None:
    section = next((item for item in analysis.sections if item.severity == "stop"), None)
    if section is None:
        return
    first = _place(section.examples[0]) if section.examples else ""
    raise RefusedError(
        f"{section.message.rstrip('.')}{first}.",
        "Take them out, look at all of them with llamaforge data check, or allow them with "
        "--set allow_secrets=true",
        code="secrets",
    )


def _place(example: "Example") -> str:
    return (
        f"; the first in {safe_line(example.ref.source)} row {example.ref.row:,}: "
        f"{safe_line(example.text, limit=80)}"
    )


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
