"""Lengths in tokens: percentiles, bins, a limit that fits, and what it costs."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.lengths import (
    RowLength,
    by_text,
    histogram,
    measure_lengths,
    percentile,
    suggest_max_length,
)
from llamaforge.data.records import Message, Record, record_id
from tests.unit.data.row_files import record

SIZES = st.lists(st.integers(1, 50_000), min_size=1, max_size=200)


def rows(sizes: list[int]) -> list[Record]:
    return [record("q", "x" * size, row=n) for n, size in enumerate(sizes, start=1)]


def answer_length(item: Record) -> RowLength:
    size = len(item.messages[-1].content)
    return RowLength(size, size)


def ascending(sizes: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.sort(np.array(sizes, np.int64))


@given(SIZES, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_length_that_holds_its_part(
    sizes: list[int], part: float
) -> None:
    found = percentile(ascending(sizes), part)
    assert found in sizes
    assert sum(size <= found for size in sizes) >= part * len(sizes)
    assert sum(size < found for size in sizes) < part * len(sizes)


@given(SIZES)
def test_every_row_is_in_one_bin_and_the_bins_have_no_gaps(sizes: list[int]) -> None:
    bins = histogram(ascending(sizes))
    assert 1 <= len(bins) <= 12
    assert sum(item.rows for item in bins) == len(sizes)
    assert (bins[0].low, bins[-1].high) == (min(sizes), max(sizes))
    for item in bins:
        assert item.rows == sum(item.low <= size <= item.high for size in sizes)
    for one, other in pairwise(bins):
        assert other.low == one.high + 1


@given(SIZES, st.one_of(st.none(), st.integers(64, 40_000)))
def test_a_suggested_limit_holds_nearly_all_rows_or_what_the_model_takes(
    sizes: list[int], context: int | None
) -> None:
    found = suggest_max_length(ascending(sizes), context)
    assert found % 64 == 0 or found == context
    assert context is None or found <= context
    if found != context:
        assert sum(size <= found for size in sizes) >= 0.99 * len(sizes)
        assert found - 64 < max(sizes)


@pytest.mark.parametrize(
    ("sizes", "context", "limit"),
    [
        ([100] * 100, None, 128),
        ([100] * 990 + [5_000] * 10, None, 128),
        ([100] * 990 + [500] * 10, None, 512),
        ([1_000] * 990 + [1_200] * 10, None, 1_216),
        ([1_000] * 990 + [2_000] * 10, None, 1_024),
        ([5_000] * 10, 4_096, 4_096),
        ([64], None, 64),
        ([65], 100, 100),
        ([], None, 64),
    ],
)
def test_the_limit_is_longer_only_where_that_costs_little(
    sizes: list[int], context: int | None, limit: int
) -> None:
    assert suggest_max_length(ascending(sizes), context) == limit


@given(SIZES, st.integers(1, 50_000))
@settings(deadline=None)
def test_what_a_limit_costs_is_what_a_count_says(sizes: list[int], limit: int) -> None:
    found = measure_lengths(rows([min(s, 3_000) for s in sizes]), answer_length, max_length=limit)
    over = sum(min(size, 3_000) > limit for size in sizes)
    assert (found.truncated_answers, found.shortened) == (over, 0)
    assert found.truncated_at(limit) == over
    assert len(found.truncated_examples) == min(over, 5)
    assert found.total == sum(min(size, 3_000) for size in sizes)


def test_figures_do_not_depend_on_the_order() -> None:
    sizes = list(range(1, 1_001))
    random.Random(0).shuffle(sizes)
    found = measure_lengths(rows(sizes), answer_length)
    assert (found.p50, found.p95, found.p99, found.max) == (500, 950, 990, 1_000)
    assert found.to_json()["tokens"] == {"p50": 500, "p95": 950, "p99": 990, "max": 1_000}
    assert found.suggested_max_length == found.max_length == 1_024
    assert found.truncated_at(900) == 100


def test_old_turns_are_left_out_before_an_answer_is_lost() -> None:
    turns = (
        Message("system", "s" * 10),
        Message("user", "u" * 100),
        Message("assistant", "a" * 100),
        Message("user", "u" * 20),
        Message("assistant", "a" * 30),
    )
    talk = Record(record_id(turns), "a.jsonl", 1, turns)
    measure = by_text(len, turn_tokens=0)
    assert measure(talk) == RowLength(260, 60)
    assert measure_lengths([talk], measure, max_length=100).shortened == 1
    cut = measure_lengths([talk], measure, max_length=59)
    assert (cut.shortened, cut.truncated_answers) == (0, 1)
    assert cut.truncated_examples[0].text == "60 tokens"


def test_a_pair_is_as_long_as_its_longer_answer() -> None:
    turns = (Message("user", "u" * 10),)
    pair = Record(
        record_id(turns), "a.jsonl", 1, turns,
        chosen=(Message("assistant", "c" * 20),), rejected=(Message("assistant", "r" * 30),),
    )  # fmt: skip
    assert by_text(len, turn_tokens=1)(pair) == RowLength(42, 42)


def test_no_rows_have_no_lengths() -> None:
    found = measure_lengths([], answer_length)
    assert (found.rows, found.max, found.histogram, found.truncated_answers) == (0, 0, (), 0)
