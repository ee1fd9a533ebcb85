"""Rows that say the same: exact duplicates, near ones, and prompts with several answers.

Near duplicates are found by MinHash and locality-sensitive hashing over 5-grams, and joined into
clusters. Source: J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3.
datasketch's own index holds a dictionary entry a row and band, half a gigabyte for 100,000 rows;
here the bands are sorted as numbers, which takes 300 bytes a row.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamaforge.data.privacy import mask_text
from llamaforge.data.records import HEAD_ROLES, Record, prompt_key, record_id
from llamaforge.data.row_refs import (
    Example,
    RowRef,
    answer_of,
    excerpt,
    question_of,
)
from llamaforge.data.shingles import PERMUTATIONS, Shingler, Signer, Words

THRESHOLD: Final = 0.8
"""Jaccard similarity of their shingles from which two rows are near duplicates."""
MAX_ROWS: Final = 1_000_000
"""Rows compared with each other, the first ones: with 450 bytes a row, less than half a GB."""
_BANDS, _BAND_ROWS = 16, 8
"""A pair of similarity s meets in a band with 1 - (1 - s^8)^16: 95 % at 0.8, 99.9 % at 0.9; what
met is then held against the threshold with all 128 numbers."""
_BATCH_ROWS: Final = 1_000
_EXAMPLES: Final = 5
_EXAMPLE_ROWS: Final = 4
_SAMPLE_ROWS: Final = 2_000
_MAX_WAITING: Final = 5_000_000
"""Shingles of rows not signed yet: 20 MB."""
_COMMON_PART, _COMMON_ROWS = 0.2, 100
"""A shingle in this part of the sampled rows, and in this many, belongs to a form that rows fill
in (an instruction before each text), and does not count: else all of them were near duplicates."""
_FEWEST_OWN: Final = 3
"""Shingles that a filled-in form needs of its own; with fewer, only an equal text is near."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One prompt with different answers."""

    rows: int
    answers: int
    """Different answers among `rows`."""
    examples: tuple[Example, ...]
    """Rows with different answers; the text is prompt and answer."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "rows": self.rows,
            "answers": self.answers,
            "examples": [example.to_json() for example in self.examples],
        }


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that are near duplicates of each other, exact ones among them."""

    rows: int
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"rows": self.rows, "examples": [example.to_json() for example in self.examples]}


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Which rows say the same."""

    rows: int
    compared: int
    """Rows that were looked at for near duplicates; fewer than `rows` where those are too many."""
    exact: int
    """Rows that an earlier row has word for word."""
    near: int
    """Rows that are not exact duplicates, but belong to the cluster of an earlier row."""
    clusters: tuple[int, ...]
    """For each row, in order, its cluster: the place of the cluster's first row, from 0."""
    cluster_count: int
    """Clusters of more than one row."""
    largest: tuple[Cluster, ...]
    """The largest clusters, at most five."""
    conflicts: int
    """Prompts (with the same system message) that have different answers."""
    conflict_rows: int
    """Rows with these prompts."""
    conflict_examples: tuple[Conflict, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but `clusters`, which has as many numbers as there are rows."""
        return {
            "rows": self.rows,
            "compared": self.compared,
            "exact": self.exact,
            "near": self.near,
            "clusters": self.cluster_count,
            "largest": [cluster.to_json() for cluster in self.largest],
            "conflicts": self.conflicts,
            "conflict_rows": self.conflict_rows,
            "conflict_examples": [conflict.to_json() for conflict in self.conflict_examples],
        }


class DuplicateFinder:
    """Takes rows one by one; texts are not kept, but for a few words of each."""

    def __init__(self, *, threshold: float = THRESHOLD, max_rows: int = MAX_ROWS) -> None:
        """Begin with no rows.

        Raises:
            ValueError: the threshold is not above 0 and at most 1.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}, not above 0 and at most 1")
        self._threshold = threshold
        self._max_rows = max_rows
        self._shingler = Shingler()
        self._signer = Signer()
        self._common: Words | None = None
        """Shingles that do not count; None until enough rows are seen to tell."""
        self._waiting: list[Words] = []
        self._waiting_size = 0
        self._signatures: list[npt.NDArray[np.uint16]] = []
        self._bands: list[npt.NDArray[np.uint64]] = []
        self._refs = _Refs()
        self._ids, self._prompts, self._answers = array("Q"), array("Q"), array("Q")

    def add(self, record: Record, *, mask: Callable[[str], str] = mask_text) -> None:
        """Take one more row; `mask` hides what may not be shown in its excerpt."""
        self._ids.append(_content_key(record))
        prompt, answer = _conflict_keys(record)
        self._prompts.append(prompt)
        self._answers.append(answer)
        compared = len(self._ids) <= self._max_rows
        words = f"{excerpt(mask(question_of(record)))} → {excerpt(mask(answer_of(record)))}"
        self._refs.add(record, words if compared else "")
        if compared:
            self._waiting.append(self._shingler.shingles(_text(record)))
            self._waiting_size += len(self._waiting[-1])
            enough = _SAMPLE_ROWS if self._common is None else _BATCH_ROWS
            if len(self._waiting) >= enough or self._waiting_size >= _MAX_WAITING:
                self._sign()

    def finish(self) -> Duplicates:
        """Compare the rows and return what was found. The finder takes no rows after that."""
        self._sign()
        ids = np.frombuffer(self._ids, np.uint64) if self._ids else np.empty(0, np.uint64)
        labels = self._cluster(ids)
        rows = len(ids)
        exact = rows - len(np.unique(ids))
        order, counts = np.unique(labels, return_counts=True)
        big = np.flatnonzero(counts > 1)
        largest = big[np.argsort(-counts[big], kind="stable")][:_EXAMPLES]
        conflicts, conflict_rows, conflict_examples = self._conflicts()
        return Duplicates(
            rows=rows,
            compared=min(rows, self._max_rows),
            exact=exact,
            near=rows - len(order) - exact,
            clusters=tuple(labels.tolist()),
            cluster_count=len(big),
            largest=tuple(self._cluster_example(labels, order[at], counts[at]) for at in largest),
            conflicts=conflicts,
            conflict_rows=conflict_rows,
            conflict_examples=conflict_examples,
        )

    def _sign(self) -> None:
        """Turn the waiting shingles into signatures."""
        if not self._waiting:
            return
        if self._common is None:
            self._common = _common_shingles(self._waiting, self._ids[: len(self._waiting)])
        sets = [_own(words, self._common) for words in self._waiting]
        for start in range(0, len(sets), _BATCH_ROWS):
            signatures = self._signer.signatures(sets[start : start + _BATCH_ROWS])
            self._bands.append(_band_keys(signatures))
            # 16 of the 32 bits are enough to compare: one in 65,536 agrees by chance.
            self._signatures.append(signatures.astype(np.uint16))
        self._waiting.clear()
        self._waiting_size = 0

    def _cluster(self, ids: npt.NDArray[np.uint64]) -> Indices:
        """Return for each row the place of the first row of its cluster."""
        links = [_adjacent(ids)]
        if self._bands:
            bands = np.concatenate(self._bands)
            signatures = np.concatenate(self._signatures)
            needed = self._threshold * PERMUTATIONS
            links += list(_near_links(bands, signatures, needed))
        return connected(len(ids), np.concatenate(links))

    def _cluster_example(self, labels: Indices, label: int, rows: int) -> Cluster:
        places = np.flatnonzero(labels == label)[:_EXAMPLE_ROWS]
        return Cluster(int(rows), tuple(self._refs.example(int(place)) for place in places))

    def _conflicts(self) -> tuple[int, int, tuple[Conflict, ...]]:
        """Return how many prompts have several answers, how many rows these are, and a few."""
        if not self._prompts:
            return 0, 0, ()
        pairs = np.stack(
            [np.frombuffer(self._prompts, np.uint64), np.frombuffer(self._answers, np.uint64)]
        )
        asked = np.flatnonzero(pairs[0])  # 0: no prompt that could be asked twice
        order = asked[np.lexsort((pairs[1, asked], pairs[0, asked]))]
        prompts, answers = pairs[:, order]
        starts = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]][: len(prompts)])
        sizes = np.diff(np.r_[starts, len(prompts)])
        new_answer = np.r_[True, answers[1:] != answers[:-1]][: len(prompts)]
        new_answer[starts] = True
        different = np.add.reduceat(new_answer.astype(np.int64), starts) if len(starts) else starts
        found = np.flatnonzero(different > 1)
        shown = found[np.argsort(-different[found], kind="stable")][:_EXAMPLES]
        examples = []
        for at in shown:
            group = slice(starts[at], starts[at] + sizes[at])
            places = sorted(order[group][new_answer[group]][:_EXAMPLE_ROWS].tolist())
            rows = tuple(self._refs.example(place) for place in places)
            examples.append(Conflict(int(sizes[at]), int(different[at]), rows))
        return len(found), int(sizes[found].sum()), tuple(examples)


def find_duplicates(records: Iterable[Record], *, threshold: float = THRESHOLD) -> Duplicates:
    """Return which of `records` say the same, in one pass."""
    finder = DuplicateFinder(threshold=threshold)
    for record in records:
        finder.add(record)
    return finder.finish()


def connected(size: int, links: npt.NDArray[np.int64]) -> Indices:
    """Return for each of `size` things the first one that links, shape [n, 2], join it with."""
    parents = list(range(size))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    for one, other in _distinct(links[:, 0], links[:, 1], size).tolist():
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    return np.fromiter((root(place) for place in range(size)), np.int64, size)


class _Refs:
    """Where each row came from and a few words of it, in some hundred bytes a row."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._sources, self._rows, self._ends = array("L"), array("Q"), array("Q", [0])
        self._words = bytearray()

    def add(self, record: Record, words: str) -> None:
        self._sources.append(self._names.setdefault(record.source, len(self._names)))
        self._rows.append(record.row)
        self._words += words.encode("utf-8", "replace")
        self._ends.append(len(self._words))

    def example(self, place: int) -> Example:
        source = list(self._names)[self._sources[place]]
        words = self._words[self._ends[place] : self._ends[place + 1]].decode()
        return Example(RowRef(source, self._rows[place]), words)


def _text(record: Record) -> str:
    """Return what is compared: all that is said, without what rows share in front."""
    turns = [turn.words for turn in record.messages if turn.role not in HEAD_ROLES]
    turns += [turn.words for turn in (*record.chosen, *record.rejected)]
    return "\n".join(turns)


def _content_key(record: Record) -> int:
    """Return 64 bits that are equal for exact duplicates, whatever `Record.id` covers of pairs."""
    if not (record.chosen or record.rejected):
        return _bits(record.id)
    return _bits(f"{record.id} {record_id(record.chosen)} {record_id(record.rejected)}")


def _conflict_keys(record: Record) -> tuple[int, int]:
    """Return 64 bits of the prompt and of the answers; 0 for a row that asks nothing.

    Several pairs may well follow one prompt, and several labelled answers, so they are no conflict
    either.
    """
    if record.chosen or record.rejected or not any(turn.role == "user" for turn in record.messages):
        return 0, 0
    head = "\n".join(turn.content for turn in record.messages if turn.role in HEAD_ROLES)
    answers = (turn.words for turn in record.messages if turn.role == "assistant")
    said = "\x1e".join(" ".join(answer.split()) for answer in answers)
    return _bits(f"{prompt_key(record.messages)}{head}") or 1, _bits(said)


def _bits(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _common_shingles(sets: list[Words], ids: Iterable[int]) -> Words:
    """Return the shingles that so many different rows have that they belong to a form."""
    distinct = list(dict(zip(ids, sets, strict=True)).values())
    needed = max(_COMMON_ROWS, _COMMON_PART * len(distinct))
    if len(distinct) < needed:
        return np.empty(0, np.uint32)
    shingles, counts = np.unique(np.concatenate(distinct), return_counts=True)
    return shingles[counts >= needed]


def _own(words: Words, common: Words) -> Words:
    """Return the shingles of a row that count, at least one."""
    if not len(words):
        return np.zeros(1, np.uint32)
    if not len(common):
        return words
    own = words[~np.isin(words, common, assume_unique=True)]
    if len(own) == len(words) or len(own) >= _FEWEST_OWN:
        return own
    return np.array([_bits(words.tobytes().hex()) & 0xFFFFFFFF], np.uint32)


def _band_keys(signatures: Words) -> npt.NDArray[np.uint64]:
    """Return one number for each band of each signature: shape [n, 16]."""
    bands = signatures.reshape(len(signatures), _BANDS, _BAND_ROWS)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for place in range(_BAND_ROWS):
        keys = (keys ^ bands[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys


def _near_links(
    bands: npt.NDArray[np.uint64], signatures: npt.NDArray[np.uint16], needed: float
) -> Iterator[Indices]:
    """Yield pairs of near duplicates, shape [n, 2].

    Of the rows that meet in a band, each is held against the first and against the one before it.
    Neighbours alone would miss what a stranger in between parts; all pairs would be the square.
    """
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        keys = band[order]
        is_first = np.r_[True, keys[1:] != keys[:-1]]
        starts = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
        later = np.flatnonzero(~is_first)
        for earlier in (starts[later], later - 1):
            yield _agreeing(order[earlier], order[later], signatures, needed)


def _agreeing(
    left: Indices, right: Indices, signatures: npt.NDArray[np.uint16], needed: float
) -> Indices:
    pairs = _distinct(left, right, len(signatures))
    kept = []
    for start in range(0, len(pairs), 10_000):
        part = pairs[start : start + 10_000]
        equal = signatures[part[:, 0]] == signatures[part[:, 1]]
        kept.append(part[equal.sum(axis=1) >= needed])
    return np.concatenate(kept) if kept else np.empty((0, 2), np.int64)


def _distinct(left: Indices, right: Indices, size: int) -> Indices:
    """Return each pair of places below `size` once, the lower place first: shape [n, 2]."""
    # One number a pair: sorting rows of two takes numpy ten times as long.
    keys = np.unique(np.minimum(left, right) * size + np.maximum(left, right))
    return np.stack(np.divmod(keys, max(size, 1)), axis=1)


def _adjacent(ids: npt.NDArray[np.uint64]) -> Indices:
    """Return pairs that join all rows with equal ids, shape [n, 2]."""
    order = np.argsort(ids, kind="stable")
    equal = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    return np.stack([order[equal], order[equal + 1]], axis=1).astype(np.int64)
