"""Rows divided into train, validation and test, so that no prompt is on two sides."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llamaforge.data.records import SPLITS, Record, prompt_key

Splits = dict[str, list[Record]]

# Which side gets a cluster whose rows are marked for several: what is trained on can no longer be
# held out, and the test rows are the ones a person wants to keep together.
_PRECEDENCE: Final = ("train", "test", "validation")


_MAX_LEAKS: Final = 20


@dataclass(frozen=True, slots=True)
class Leak:
    """Near duplicates on two sides, because the rows themselves ask for it."""

    cluster: int
    """The cluster's number, as it was given."""
    rows: dict[str, int]
    """Its rows by side."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """How the rows were divided."""

    clusters: int
    """Groups of rows with one prompt, which are never parted."""
    counts: dict[str, int]
    """Rows a side."""
    moved: dict[str, int] = field(default_factory=dict)
    """Rows taken from the side they were marked for, because their prompt is on another side too;
    by `from->to`, such as `test->train`."""
    followed: int = 0
    """Rows without a mark that joined a side because a marked row there has their prompt or is
    their near duplicate."""
    leaked: int = 0
    """Validation and test rows with a near duplicate on another side: marks asked for both."""
    leaks: list[Leak] = field(default_factory=list)
    """The first twenty clusters of these."""


@dataclass(slots=True)
class _Prompt:
    """Rows with one prompt."""

    marks: set[str] = field(default_factory=set)
    size: int = 0
    """Rows."""
    unmarked: int = 0
    """Rows that ask for no side."""
    side: str | None = None


@dataclass(slots=True)
class _Cluster:
    """Prompts that stay together: one, or several whose rows are near duplicates."""

    prompts: dict[str, _Prompt]

    @property
    def key(self) -> str:
        """A key that does not depend on the order of the rows."""
        return min(self.prompts)

    @property
    def size(self) -> int:
        """Rows."""
        return sum(prompt.size for prompt in self.prompts.values())

    @property
    def marks(self) -> set[str]:
        """The sides that rows ask for."""
        return set().union(*(prompt.marks for prompt in self.prompts.values()))

    @property
    def followed(self) -> int:
        """Rows without a mark that are on a side because others asked for it."""
        marks = self.marks
        return sum(prompt.unmarked for prompt in self.prompts.values() if prompt.side in marks)

    def place(self, side: str) -> None:
        """Give `side` to the prompts that have none yet."""
        for prompt in self.prompts.values():
            prompt.side = prompt.side or side


def split(
    records: Sequence[Record],
    validation_fraction: float,
    seed: int,
    *,
    validation_count: int | None = None,
    test_fraction: float = 0.0,
    test_count: int | None = None,
    clusters: Sequence[int] | None = None,
) -> tuple[Splits, SplitReport]:
    """Divide `records` into `train`, `validation` and `test`; each side keeps the given order.

    A row's own mark is honoured, unless rows with its prompt ask for several sides. Rows without
    one are divided by clusters of equal prompts, which grow together where `clusters` says that
    their rows are near duplicates: `validation_fraction` and `test_fraction` (0 to 1, 1 excluded,
    and together below 1) of them go to these sides, as nearly as whole clusters allow. Which those
    are depends on a hash of `seed` and the prompt alone, so order does not matter and added rows
    change it at the margin only. A side that is asked for gets at least one row, unless that would
    take the last cluster from train. Train stays empty only where every row is marked for another
    side.

    Args:
        records: rows of all sides.
        validation_fraction: part of the rows without a mark for validation.
        seed: chooses which.
        validation_count: rows without a mark for validation; takes the place of the fraction.
        test_fraction: part of the rows without a mark for test.
        test_count: rows without a mark for test; takes the place of the fraction.
        clusters: for each record the number of its cluster, such as `Duplicates.clusters`. Rows
            that are marked for different sides are parted nevertheless, which is reported.

    Raises:
        ValueError: a fraction or a count is out of bounds, or there are not as many numbers of
            clusters as records.
    """
    _require_bounds(validation_fraction, validation_count, "validation")
    _require_bounds(test_fraction, test_count, "test")
    parts = (validation_fraction, validation_count), (test_fraction, test_count)
    if sum(fraction for fraction, count in parts if count is None) >= 1.0:
        raise ValueError("validation_fraction and test_fraction leave nothing for train")
    if clusters is not None and len(clusters) != len(records):
        raise ValueError(f"{len(clusters)} clusters for {len(records)} records")
    keys = [prompt_key(record.messages) for record in records]
    prompts = _prompts(records, keys)
    joined = list(_joined(prompts, keys, clusters))
    free = _place_marked(joined)
    rows = sum(cluster.size for cluster in free)
    # Validation first: which rows it gets is the same with a test set and without.
    for side, (fraction, count) in zip(("validation", "test"), parts, strict=True):
        target = round(fraction * rows) if count is None else count
        wanted = bool(fraction if count is None else count)
        chosen = _held_out(free, prompts, side, target, seed) if wanted else set()
        for cluster in free:
            if cluster.key in chosen:
                cluster.place(side)
        free = [cluster for cluster in free if cluster.key not in chosen]
    for cluster in free:
        cluster.place("train")
    followed = sum(cluster.followed for cluster in joined)
    return _divided(records, keys, prompts, clusters, followed)


def _require_bounds(fraction: float, count: int | None, side: str) -> None:
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"{side}_fraction is {fraction}, not in 0 to 1")
    if count is not None and count < 0:
        raise ValueError(f"{side}_count is {count}, below 0")


def _prompts(records: Sequence[Record], keys: Sequence[str]) -> dict[str, _Prompt]:
    prompts: dict[str, _Prompt] = {}
    for record, key in zip(records, keys, strict=True):
        prompt = prompts.setdefault(key, _Prompt())
        prompt.size += 1
        if record.split is None:
            prompt.unmarked += 1
        else:
            prompt.marks.add(record.split)
    return prompts


def _joined(
    prompts: dict[str, _Prompt], keys: Sequence[str], clusters: Sequence[int] | None
) -> Iterator[_Cluster]:
    """Yield the prompts as clusters: those that share a number of `clusters` are one."""
    parents = {key: key for key in prompts}

    def root(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    first: dict[int, str] = {}
    for number, key in zip(clusters or (), keys, strict=clusters is not None):
        parents[root(key)] = root(first.setdefault(number, key))
    groups: dict[str, dict[str, _Prompt]] = {}
    for key, prompt in prompts.items():
        groups.setdefault(root(key), {})[key] = prompt
    return map(_Cluster, groups.values())


def _place_marked(clusters: list[_Cluster]) -> list[_Cluster]:
    """Give sides to clusters with marks; return the others, which may go anywhere."""
    for cluster in clusters:
        for prompt in cluster.prompts.values():
            prompt.side = _first_of(prompt.marks)
    free = [cluster for cluster in clusters if not cluster.marks]
    all_prompts = [prompt for cluster in clusters for prompt in cluster.prompts.values()]
    if not free and all(prompt.side != "train" for prompt in all_prompts):
        # Rows without a mark follow marked ones, but not where train would be left with none.
        for prompt in all_prompts:
            prompt.side = "train" if prompt.unmarked else prompt.side
    for cluster in clusters:
        side = _first_of(cluster.marks)
        if side is not None:
            cluster.place(side)
    return free


def _first_of(marks: set[str]) -> str | None:
    return next((side for side in _PRECEDENCE if side in marks), None)


def _held_out(
    free: list[_Cluster], prompts: Mapping[str, _Prompt], side: str, target: int, seed: int
) -> set[str]:
    """Return the keys of the free clusters that `side` gets, `target` rows as nearly as may be."""
    if not free:
        return set()
    sizes = {cluster.key: cluster.size for cluster in free}
    taken = {prompt.side for prompt in prompts.values()}
    train_is_marked = "train" in taken
    if not train_is_marked:  # something is left for train, however much is asked for
        target = min(target, sum(sizes.values()) - min(sizes.values()))
    # In hash order every cluster that still fits is taken: large ones cannot crowd out the rest.
    chosen: set[str] = set()
    missing = target
    left: list[str] = []
    for key in sorted(sizes, key=lambda key: _rank(seed, key, side)):
        if sizes[key] <= missing:
            chosen.add(key)
            missing -= sizes[key]
        else:
            left.append(key)
    if not left:
        return chosen
    nearest = min(left, key=lambda key: sizes[key])  # the first in hash order among equals
    train_keeps_rows = len(left) > 1 or train_is_marked
    is_empty = not chosen and side not in taken
    if train_keeps_rows and (sizes[nearest] - missing < missing or is_empty):
        chosen.add(nearest)
    return chosen


def _rank(seed: int, key: str, side: str) -> bytes:
    # Validation keeps its rank, whatever else is asked for; test has one of its own.
    salt = "" if side == "validation" else f"{side}:"
    return hashlib.sha256(f"{salt}{seed}:{key}".encode()).digest()


def _divided(
    records: Sequence[Record],
    keys: Sequence[str],
    prompts: Mapping[str, _Prompt],
    clusters: Sequence[int] | None,
    followed: int,
) -> tuple[Splits, SplitReport]:
    result: Splits = {side: [] for side in SPLITS}
    moved: Counter[str] = Counter()
    by_cluster: dict[int, Counter[str]] = {}
    for number, (record, key) in enumerate(zip(records, keys, strict=True)):
        side = prompts[key].side or "train"
        result[side].append(record)
        if record.split is not None and record.split != side:
            moved[f"{record.split}->{side}"] += 1
        if clusters is not None:
            by_cluster.setdefault(clusters[number], Counter())[side] += 1
    leaks = {number: sides for number, sides in by_cluster.items() if len(sides) > 1}
    return result, SplitReport(
        clusters=len(prompts),
        counts={side: len(result[side]) for side in SPLITS},
        moved=dict(sorted(moved.items())),
        followed=followed,
        leaked=sum(sides["validation"] + sides["test"] for sides in leaks.values()),
        leaks=[
            Leak(number, dict(sorted(sides.items())))
            for number, sides in sorted(leaks.items())[:_MAX_LEAKS]
        ],
    )
