"""Time left is a range that follows from what the newest steps took."""

import pytest

from llamaforge.tui.pace import Pace
from llamaforge.words import range_words


def marks(durations: list[float]) -> Pace:
    total, found = 0.0, []
    for step, seconds in enumerate(durations, start=1):
        total += seconds
        found.append((step, total))
    return Pace().extended(found)


def test_nobody_tells_from_a_few_steps() -> None:
    assert marks([1.0] * 3).seconds_left(100) is None


def test_an_even_pace_gives_a_narrow_range_around_it() -> None:
    low, high = marks([2.0] * 50).seconds_left(150) or (0, 0)
    assert low < 200 < high
    assert high - low < 15


def test_an_uneven_pace_gives_a_wide_one_that_holds_best_and_worst() -> None:
    low, high = marks([1.0] * 40 + [3.0] * 40).seconds_left(180) or (0, 0)
    assert low == pytest.approx(100)
    assert high == pytest.approx(300)


def test_a_step_back_begins_anew() -> None:
    pace = marks([1.0] * 40).extended([(10, 90.0)])
    assert pace.marks == ((10, 90.0),)


def test_only_the_newest_steps_count_and_no_more_are_kept() -> None:
    pace = marks([9.0] * 1000 + [1.0] * 300)
    assert len(pace.marks) < 300
    _, high = pace.seconds_left(1400) or (0, 0)
    assert high < 110


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (48, 55, "48–55 s"),
        (725, 905, "12–15 min"),
        (12_600, 15_120, "3.5–4.2 h"),
        (600, 610, "10 min"),
        (300_000, 400_000, "3.5–4.6 d"),
        (0, 0, "0 s"),
    ],
)
def test_a_range_has_one_unit(low: float, high: float, words: str) -> None:
    assert range_words(low, high) == words
