"""Rows divided into train, validation and test, so that no prompt is on two sides."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llamaforge.data.records import SPLITS, Record, prompt_key

Splits = dict[str, list[Record]]

# Which side gets a cluster whose rows are marked for several: what is trained on can no longer be
# held out, and the test rows are the ones a person wants to keep together.
_PRECEDENCE: Final = ("train", "test", "validation")


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
    """Rows without a mark that joined a side because a marked row there has their prompt."""


@dataclass(slots=True)
class _Cluster:
    """Rows with one prompt."""

    key: str
    marks: set[str] = field(default_factory=set)
    size: int = 0
    """Rows."""
    unmarked: int = 0
    """Rows that ask for no side."""


def split(
    records: Sequence[Record], validation_fraction: float, seed: int
) -> tuple[Splits, SplitReport]:
    """Divide `records` into `train`, `validation` and `test`; each side keeps the given order.

    A row's own mark is honoured. Rows without one are divided by clusters of equal prompts:
    `validation_fraction` (0 to 1, 1 excluded) of them go to validation, as nearly as whole
    clusters allow. Which clusters those are depends on a hash of `seed` and the prompt alone, so
    order does not matter and added rows change it at the margin only. With a fraction above 0,
    validation gets at least one row unless that would take the last cluster from train. Train
    stays empty only where every row is marked for another side.

    Raises:
        ValueError: the fraction is out of bounds.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(f"validation_fraction is {validation_fraction}, not in 0 to 1")
    keys = [prompt_key(record.messages) for record in records]
    clusters = _clusters(records, keys)
    sides = {
        key: next(side for side in _PRECEDENCE if side in cluster.marks)
        for key, cluster in clusters.items()
        if cluster.marks
    }
    free = [cluster for cluster in clusters.values() if not cluster.marks]
    if not free and "train" not in sides.values():
        # Rows without a mark follow marked ones, but not where train would be left with none.
        sides |= {cluster.key: "train" for cluster in clusters.values() if cluster.unmarked}
    held_out = _held_out(free, sides, validation_fraction, seed)
    sides |= {cluster.key: "train" for cluster in free}
    sides |= dict.fromkeys(held_out, "validation")
    result: Splits = {side: [] for side in SPLITS}
    moved: Counter[str] = Counter()
    for record, key in zip(records, keys, strict=True):
        side = sides[key]
        result[side].append(record)
        if record.split is not None and record.split != side:
            moved[f"{record.split}->{side}"] += 1
    return result, SplitReport(
        clusters=len(clusters),
        counts={side: len(result[side]) for side in SPLITS},
        moved=dict(sorted(moved.items())),
        followed=sum(c.unmarked for c in clusters.values() if sides[c.key] in c.marks),
    )


def _clusters(records: Sequence[Record], keys: Sequence[str]) -> dict[str, _Cluster]:
    clusters: dict[str, _Cluster] = {}
    for record, key in zip(records, keys, strict=True):
        cluster = clusters.setdefault(key, _Cluster(key))
        cluster.size += 1
        if record.split is None:
            cluster.unmarked += 1
        else:
            cluster.marks.add(record.split)
    return clusters


def _held_out(
    free: list[_Cluster], sides: Mapping[str, str], fraction: float, seed: int
) -> list[str]:
    """Return the keys of the free clusters that validation gets."""
    if fraction == 0.0 or not free:
        return []
    rows = sum(cluster.size for cluster in free)
    target = round(fraction * rows)
    train_is_marked = "train" in sides.values()
    if not train_is_marked:  # something is left for train, however large the fraction
        target = min(target, rows - min(cluster.size for cluster in free))
    # In hash order every cluster that still fits is taken: large ones cannot crowd out the rest.
    order = sorted(free, key=lambda cluster: _rank(seed, cluster.key))
    chosen: list[str] = []
    missing = target
    left: list[_Cluster] = []
    for cluster in order:
        if cluster.size <= missing:
            chosen.append(cluster.key)
            missing -= cluster.size
        else:
            left.append(cluster)
    if not left:
        return chosen
    nearest = min(left, key=lambda cluster: cluster.size)  # the first in hash order among equals
    train_keeps_rows = len(left) > 1 or train_is_marked
    validation_is_empty = not chosen and "validation" not in sides.values()
    if train_keeps_rows and (nearest.size - missing < missing or validation_is_empty):
        chosen.append(nearest.key)
    return chosen


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
