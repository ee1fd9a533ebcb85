"""The loss curve is drawn to scale, in exactly the room it has."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamaforge.tui.loss_history import LossPoint
from llamaforge.tui.widgets.loss_curve import EVAL_MARK, curve_lines
from llamaforge.tui.widgets.plot import Canvas, axis_of

FALLING = tuple(LossPoint(n, 4.0 - n / 50) for n in range(1, 151))
EVALS = (LossPoint(50, 3.0), LossPoint(100, 2.0))


def test_it_fills_its_room_exactly() -> None:
    for width, height in ((78, 12), (30, 6), (116, 20)):
        lines = curve_lines(FALLING, EVALS, width, height)
        assert len(lines) == height
        assert max(line.cell_length for line in lines) <= width


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right() -> None:
    rows = [line.plain for line in curve_lines(FALLING, (), 60, 12)][1:-2]
    firsts = [min((i for i, c in enumerate(row) if c > "⠀"), default=None) for row in rows]
    drawn = [first for first in firsts if first is not None]
    assert drawn == sorted(drawn)
    assert len(drawn) >= 8


def test_held_out_losses_have_a_mark_of_their_own() -> None:
    plain = "\n".join(line.plain for line in curve_lines(FALLING, EVALS, 60, 12))
    assert plain.count(EVAL_MARK) == 1 + len(EVALS)  # one is in the legend
    assert EVAL_MARK not in "\n".join(line.plain for line in curve_lines(FALLING, (), 60, 12))


def test_without_losses_it_says_when_there_will_be_some() -> None:
    assert "first training step" in curve_lines((), (), 60, 12)[0].plain


def test_without_room_it_says_so() -> None:
    assert "no room" in curve_lines(FALLING, (), 10, 3)[0].plain


@example([0.0, 5e-324], 60, 12)
@example([1.0, 1.0 + 2.3e-16], 60, 12)
@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=50),
    st.integers(1, 130),
    st.integers(1, 45),
)
def test_no_losses_and_no_room_break_it(losses: list[float], width: int, height: int) -> None:
    points = tuple(LossPoint(n, loss) for n, loss in enumerate(losses, start=1))
    curve_lines(points, points[:3], width, height)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.2, 3.9, ("1", "2", "3")),
        (1.2, 1.21, ("1.200", "1.205", "1.210")),
        (0.75, 1.0, ("0.8", "0.9", "1.0")),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, labels: tuple[str, ...]) -> None:
    assert axis_of(low, high, 3).labels == labels


def test_steps_have_whole_numbers() -> None:
    assert axis_of(1, 3, 5, whole=True).labels == ("1", "2", "3")
    assert axis_of(1, 50_000, 5, whole=True).labels == (
        "10,000",
        "20,000",
        "30,000",
        "40,000",
        "50,000",
    )


def test_a_dot_lands_where_it_belongs() -> None:
    canvas = Canvas(2, 1)
    canvas.dot(0, 0)
    canvas.dot(3, 3)
    canvas.dot(4, 0)  # outside
    assert (canvas.cell(0, 0), canvas.cell(1, 0)) == ("⡀", "⠈")
