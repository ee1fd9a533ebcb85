"""No prompt is on two sides, marks are honoured, and the choice is one that stays."""

import random
from collections import Counter

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
