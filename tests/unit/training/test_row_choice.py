"""Which rows are compared and asked: evenly taken, and no more than it takes."""

import pytest

from llamaforge.data.chat import EncodedRow
from llamaforge.data.encoding import EncodedRecord
from llamaforge.data.records import Message, Record
from llamaforge.worker.evaluate import tokens_served
from llamaforge.worker.prepare import unusable_hint
from llamaforge.worker.sampling import spread
from llamaforge.worker.verify import _few, not_proven


def item(tokens: int) -> EncodedRecord:
    record = Record("0", "s", 1, (Message("user", "q"), Message("assistant", "a")))
    return EncodedRecord(record, EncodedRow([1] * tokens, [True] * tokens, terminated=True))


def test_rows_are_taken_evenly() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []


def test_long_rows_are_few_and_short_ones_all() -> None:
    assert len(_few([item(50)] * 32)) == 32
    assert len(_few([item(1000)] * 32)) == 5
    assert len(_few([item(100_000)] * 32)) == 4
    assert len(_few([item(100_000)] * 2)) == 2


@pytest.mark.parametrize(
    ("asked", "most_new", "longest", "context", "room"),
    [
        (100, 128, 50, 4096, 228),  # as much as is asked for
        (100, 1_000_000, 50, 4096, 4096),  # no answer goes beyond what the model was made for
        (100, 1_000_000, 9000, 4096, 9000),  # a row that is read has to fit in any case
        (5000, 128, 50, 4096, 5001),
        (100, 128, 50, 0, 228),  # not known
    ],
)
def test_llama_cpp_is_given_room_for_what_the_model_can_answer(
    asked: int, most_new: int, longest: int, context: int, room: int
) -> None:
    assert tokens_served(asked, asked + most_new, longest, context) == room


LONG = "its last exchange has 1,067 tokens, more than the 24 allowed"
PAIR = "its last question has, with an answer, more than the 24 tokens that a row may have"


@pytest.mark.parametrize(
    ("reasons", "max_length", "context", "said"),
    [
        ([LONG, LONG.replace("1,067", "67")], 24, 4096, "raise --set max_length=1067,"),
        ([LONG], 24, 512, "raise --set max_length=512,"),
        ([LONG], 512, 512, "512 tokens are the model's context"),
        ([PAIR], 24, 0, "raise --set max_length=48,"),
        ([PAIR], 24, 32, "raise --set max_length=32,"),
        (["it is a preference pair"], 24, 512, "Mend them, or allow"),
    ],
)
def test_what_to_do_about_rows_fits_the_reason_and_the_model(
    reasons: list[str], max_length: int, context: int, said: str
) -> None:
    hint = unusable_hint(reasons, max_length, context)
    assert said in hint
    assert ("max_length" in said) is ("max_length=" in hint)


def test_a_result_that_computes_no_numbers_is_told_as_what_it_is() -> None:
    figures = {"loss_served": None, "loss_base": 6.1, "reason": "values that are no numbers"}
    error = not_proven(figures, 0.5)
    assert (error.code, error.hint.endswith("learning_rate=0.05")) == ("diverged", True)
    for other in ({"loss_base": None}, {"loss_served": 5.0}):
        assert not_proven(figures | other, 0.5).code == "not_faithful"
