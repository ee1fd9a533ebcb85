"""No prompt is on two sides, marks are honoured, and the choice is one that stays."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.records import Record, prompt_key
from llamaforge.data.split import Splits, split
from tests.unit.data.row_files import record

FRACTIONS = st.floats(min_value=0.0, max_value=0.95)
MARKS = st.sampled_from([None, None, None, "train", "validation", "test"])


@st.composite
def row_lists(draw: st.DrawFn, marks: st.SearchStrategy[str | None] = MARKS) -> list[Record]:
    chosen = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), marks), max_size=40))
    return [
        record(f"Question {prompt}", f"Answer {answer}", row=number, split=mark)
        for number, (prompt, answer, mark) in enumerate(chosen, start=1)
    ]


def sides(splits: Splits) -> dict[str, str]:
    """Return the side of each prompt, after checking that it has one only."""
    found: dict[str, str] = {}
    for side, records in splits.items():
        for row in records:
            assert found.setdefault(prompt_key(row.messages), side) == side
    return found


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_no_prompt_crosses_and_no_row_is_lost(
    records: list[Record], fraction: float, seed: int
) -> None:
    splits, report = split(records, fraction, seed)
    assert set(splits) == {"train", "validation", "test"}
    assert len(sides(splits)) == report.clusters
    assert sorted(row.row for rows in splits.values() for row in rows) == [r.row for r in records]
    assert report.counts == {side: len(rows) for side, rows in splits.items()}


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3), shuffle=st.randoms())
def test_order_does_not_matter(
    records: list[Record], fraction: float, seed: int, shuffle: random.Random
) -> None:
    before, report = split(records, fraction, seed)
    shuffle.shuffle(records)
    after, report_after = split(records, fraction, seed)
    assert sides(before) == sides(after)
    assert report == report_after


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_each_side_keeps_the_order_of_the_rows(
    records: list[Record], fraction: float, seed: int
) -> None:
    for rows in split(records, fraction, seed)[0].values():
        assert [row.row for row in rows] == sorted(row.row for row in rows)


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_train_is_empty_only_where_every_row_asks_for_another_side(
    records: list[Record], fraction: float, seed: int
) -> None:
    splits, _ = split(records, fraction, seed)
    assert bool(splits["train"]) == any(row.split in {None, "train"} for row in records)


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_every_row_that_is_not_where_it_asked_to_be_is_reported(
    records: list[Record], fraction: float, seed: int
) -> None:
    splits, report = split(records, fraction, seed)
    moved = Counter(
        f"{row.split}->{side}"
        for side, rows in splits.items()
        for row in rows
        if row.split not in {None, side}
    )
    assert report.moved == dict(moved)


@given(records=row_lists(st.none()), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_the_fraction_is_met_as_nearly_as_one_more_cluster_allows(
    records: list[Record], fraction: float, seed: int
) -> None:
    splits, report = split(records, fraction, seed)
    sizes = Counter(prompt_key(row.messages) for row in splits["train"])
    held_out = len(splits["validation"])
    target = round(fraction * len(records))
    if report.clusters < 2 or fraction == 0.0:
        assert held_out == 0
        return
    assert held_out >= 1
    assert splits["train"]
    # Each further cluster would lead further away, unless it is the last one that train has.
    if len(sizes) > 1:
        assert all(
            abs(held_out + size - target) >= abs(held_out - target) for size in sizes.values()
        )


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("large", [0, 30])
def test_the_fraction_is_exact_where_prompts_are_single_even_beside_a_large_cluster(
    fraction: float, large: int
) -> None:
    records = [record(f"Question {number}") for number in range(200 - large)]
    records += [record("The same", f"Answer {number}") for number in range(large)]
    for seed in range(20):
        assert len(split(records, fraction, seed)[0]["validation"]) == 200 * fraction


@given(old=st.integers(2, 60), new=st.integers(1, 40), seed=st.integers(0, 5))
def test_added_rows_move_the_border_and_reshuffle_nothing(old: int, new: int, seed: int) -> None:
    before = [record(f"Question {number}") for number in range(old)]
    added = [record(f"New question {number}") for number in range(new)]
    known = {row.id for row in before}
    first = {row.id for row in split(before, 0.2, seed)[0]["validation"]}
    then = {row.id for row in split(added + before, 0.2, seed)[0]["validation"]} & known
    assert first <= then or then <= first


def test_another_seed_is_another_choice() -> None:
    records = [record(f"Question {number}") for number in range(100)]
    chosen = {
        frozenset(row.id for row in split(records, 0.1, seed)[0]["validation"])
        for seed in range(10)
    }
    assert len(chosen) == 10


def test_a_choice_is_the_same_on_every_machine() -> None:
    records = [record(f"Question {number}", row=number) for number in range(20)]
    assert [row.row for row in split(records, 0.2, 7)[0]["validation"]] == [5, 6, 8, 15]


def test_marks_are_honoured_and_the_rest_is_divided() -> None:
    records = [record(f"Test {n}", split="test") for n in range(5)]
    records += [record(f"Valid {n}", split="validation") for n in range(3)]
    records += [record(f"Train {n}", split="train") for n in range(4)]
    records += [record(f"Free {n}") for n in range(20)]
    splits, report = split(records, 0.1, 0)
    assert report.counts == {"train": 22, "validation": 5, "test": 5}
    assert report.moved == {}
    assert all(row.split in {None, side} for side, rows in splits.items() for row in rows)


def test_a_held_out_row_whose_prompt_is_trained_on_moves_to_train_and_is_reported() -> None:
    records = [
        record("Same?", "One.", split="train"),
        record("  SAME? ", "Two.", split="test"),
        record("same?", "Three.", split="validation"),
        record("same?", "Four."),
        record("Other?", split="test"),
    ]
    splits, report = split(records, 0.0, 0)
    assert [len(splits[side]) for side in ("train", "validation", "test")] == [4, 0, 1]
    assert report.moved == {"test->train": 1, "validation->train": 1}
    assert report.followed == 1


def test_a_row_without_a_mark_joins_the_test_rows_that_ask_the_same() -> None:
    records = [record("Same?", "One.", split="test"), record("same?", "Two."), record("Other?")]
    splits, report = split(records, 0.0, 0)
    assert [len(splits[side]) for side in ("train", "validation", "test")] == [1, 0, 2]
    assert (report.moved, report.followed) == ({}, 1)


def test_a_prompt_in_validation_and_test_is_a_test_prompt() -> None:
    records = [
        record("Same?", "One.", split="validation"),
        record("Same?", "Two.", split="test"),
        record("Other?"),
    ]
    splits, report = split(records, 0.0, 0)
    assert [len(splits[side]) for side in ("train", "validation", "test")] == [1, 0, 2]
    assert report.moved == {"validation->test": 1}


def test_rows_without_a_mark_are_trained_on_where_nothing_else_could_be() -> None:
    records = [record("Same?", "One.", split="test"), record("Same?", "Two.")]
    splits, report = split(records, 0.5, 0)
    assert [len(splits[side]) for side in ("train", "validation", "test")] == [2, 0, 0]
    assert (report.moved, report.followed) == ({"test->train": 1}, 0)


@pytest.mark.parametrize(
    ("marks", "held_out"),
    [
        ((None,), 0),
        ((None, None), 1),
        ((None, "train"), 1),
        ((None, "validation"), 1),
        ((None, "test"), 0),
        (("train", "train"), 0),
    ],
)
def test_validation_gets_a_row_as_soon_as_train_can_spare_one(
    marks: tuple[str | None, ...], held_out: int
) -> None:
    records = [record(f"Question {number}", split=mark) for number, mark in enumerate(marks)]
    splits, _ = split(records, 0.01, 0)
    assert len(splits["validation"]) == held_out
    assert splits["train"]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_bounds_is_an_error(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation_fraction"):
        split([], fraction, 0)


# Near duplicates, counts and a test set


@st.composite
def clustered(draw: st.DrawFn) -> tuple[list[Record], list[int]]:
    records = draw(row_lists())
    return records, draw(st.lists(st.integers(0, 8), min_size=len(records), max_size=len(records)))


@given(rows=clustered(), fraction=st.floats(0.0, 0.45), seed=st.integers(0, 3))
def test_a_cluster_crosses_only_where_marks_ask_for_it_and_that_is_reported(
    rows: tuple[list[Record], list[int]], fraction: float, seed: int
) -> None:
    records, clusters = rows
    splits, report = split(records, fraction, seed, test_fraction=fraction, clusters=clusters)
    prompts = sides(splits)
    assert sorted(row.row for found in splits.values() for row in found) == [r.row for r in records]
    where: dict[int, Counter[str]] = {}
    for row, number in zip(records, clusters, strict=True):
        where.setdefault(number, Counter())[prompts[prompt_key(row.messages)]] += 1
    crossing = {number: count for number, count in where.items() if len(count) > 1}
    assert [leak.cluster for leak in report.leaks] == sorted(crossing)
    assert all(leak.rows == dict(crossing[leak.cluster]) for leak in report.leaks)
    assert report.leaked == sum(n["validation"] + n["test"] for n in crossing.values())
    if not any(row.split for row in records):
        assert report.leaks == []


@given(rows=clustered(), seed=st.integers(0, 3), shuffle=st.randoms())
def test_order_does_not_matter_to_clusters(
    rows: tuple[list[Record], list[int]], seed: int, shuffle: random.Random
) -> None:
    records, clusters = rows
    before, report = split(records, 0.2, seed, test_fraction=0.2, clusters=clusters)
    order = list(range(len(records)))
    shuffle.shuffle(order)
    names = list(range(9))
    shuffle.shuffle(names)  # what a cluster is called does not matter either
    after, report_after = split(
        [records[place] for place in order],
        0.2,
        seed,
        test_fraction=0.2,
        clusters=[names[clusters[place]] for place in order],
    )
    assert sides(before) == sides(after)
    assert (report.counts, report.leaked) == (report_after.counts, report_after.leaked)


@given(records=row_lists(), fraction=FRACTIONS, seed=st.integers(0, 3))
def test_clusters_of_one_row_change_nothing(
    records: list[Record], fraction: float, seed: int
) -> None:
    without = split(records, fraction, seed)
    assert split(records, fraction, seed, clusters=range(len(records)))[0] == without[0]


def test_near_duplicates_stay_together() -> None:
    records = [record(f"Question {number}") for number in range(100)]
    clusters = [number // 5 for number in range(100)]
    splits, report = split(records, 0.2, 0, test_count=10, clusters=clusters)
    assert report.counts == {"train": 70, "validation": 20, "test": 10}
    side = {row.id: name for name, rows in splits.items() for row in rows}
    for number in range(20):
        assert len({side[row.id] for row in records[5 * number : 5 * number + 5]}) == 1
    assert (report.clusters, report.leaked, report.leaks) == (100, 0, [])


def test_marks_part_near_duplicates_and_the_leak_is_reported() -> None:
    records = [
        record("One?", split="train"),
        record("One, then?", split="test"),
        record("One, or so?"),
        record("Two?", split="test"),
        record("Two, then?"),
        record("Three?"),
    ]
    splits, report = split(records, 0.0, 0, clusters=[0, 0, 0, 3, 3, 5])
    assert [len(splits[side]) for side in ("train", "validation", "test")] == [3, 0, 3]
    assert report.moved == {}
    assert report.followed == 2
    assert report.leaked == 1
    assert [(leak.cluster, leak.rows) for leak in report.leaks] == [(0, {"test": 1, "train": 2})]


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_a_count_takes_the_place_of_the_fraction(count: int) -> None:
    records = [record(f"Question {number}") for number in range(100)]
    _, report = split(records, 0.5, 0, validation_count=count, test_fraction=0.5, test_count=3)
    assert report.counts == {"train": 97 - count, "validation": count, "test": 3}


def test_more_than_there_is_leaves_the_smallest_cluster_to_train() -> None:
    records = [record(f"Question {number}") for number in range(10)]
    _, report = split(records, 0.0, 0, validation_count=1_000)
    assert report.counts == {"train": 1, "validation": 9, "test": 0}
    _, report = split(records, 0.0, 0, test_count=1_000)
    assert report.counts == {"train": 1, "validation": 0, "test": 9}


@given(records=row_lists(), seed=st.integers(0, 3), tested=st.floats(0.0, 0.5))
def test_a_test_set_takes_nothing_from_validation(
    records: list[Record], seed: int, tested: float
) -> None:
    without = split(records, 0.2, seed)[0]
    splits, report = split(records, 0.2, seed, test_fraction=tested)
    assert splits["validation"] == without["validation"]
    assert bool(splits["train"]) == any(row.split in {None, "train"} for row in records)
    assert report.counts == {side: len(rows) for side, rows in splits.items()}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": 0.9}, "leave nothing"),
        ({"test_count": -1}, "test_count"),
        ({"validation_count": -1}, "validation_count"),
        ({"clusters": [1]}, "1 clusters for 0 records"),
    ],
)
def test_what_cannot_be_divided_so_is_an_error(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        split([], 0.1, 0, **settings)
