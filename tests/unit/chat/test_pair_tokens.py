"""Both sides of a pair follow one prompt, and exactly the answers are trained."""

from datetime import UTC, datetime

import pytest

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.encoded_pairs import encode_pair
from llamaforge.data.encoding import encode_splits
from llamaforge.data.records import Message, Record, RowError
from llamaforge.data.split import Splits
from llamaforge.data.templates import CHATML, Template
from tests.unit.chat.letters import Letters

LETTERS = Letters()
RENDERER = ChatRenderer(LETTERS, Template("given", CHATML), datetime(2026, 1, 2, tzinfo=UTC))
PROMPT = (
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
)
BETTER, WORSE = "So long", "Why do you go so early on such a fine day"


def record(
    messages: tuple[Message, ...] = PROMPT, chosen: str = BETTER, rejected: str = WORSE
) -> Record:
    return Record(
        "id",
        "rows.jsonl",
        1,
        messages,
        chosen=(Message("assistant", chosen),) if chosen else (),
        rejected=(Message("assistant", rejected),) if rejected else (),
    )


def said(ids: list[int], marks: list[bool]) -> str:
    return LETTERS.texts([number for number, mark in zip(ids, marks, strict=True) if mark])


def test_only_the_two_answers_and_their_ends_are_trained() -> None:
    chosen, rejected = encode_pair(record(), RENDERER, 400)
    assert said(chosen.ids, chosen.trained) == f"{BETTER}<|im_end|>"
    assert said(rejected.ids, rejected.trained) == f"{WORSE}<|im_end|>"
    assert chosen.terminated
    assert rejected.terminated
    prompt = chosen.trained.index(True)
    assert prompt == rejected.trained.index(True)
    assert chosen.ids[:prompt] == rejected.ids[:prompt]
    assert "Hello" in LETTERS.texts(chosen.ids[:prompt])


def test_what_does_not_fit_one_side_is_left_out_of_both() -> None:
    whole = [len(row.ids) for row in encode_pair(record(), RENDERER, 400)]
    chosen, rejected = encode_pair(record(), RENDERER, max(whole) - 1)
    assert min(whole) <= max(whole) - 1, "the better side alone would fit"
    for row in (chosen, rejected):
        assert row.shortened == 2
        text = LETTERS.texts(row.ids)
        assert "Hello" not in text
        assert "Be brief." in text
        assert "Bye" in text


@pytest.mark.parametrize(
    ("pair", "limit", "reason"),
    [
        (record(), 60, "more than the 60 tokens allowed"),
        (record(rejected=""), 400, "no preference pair"),
        (record(rejected=BETTER), 400, "the same tokens"),
    ],
)
def test_a_row_that_makes_no_pair_is_left_out_with_its_reason(
    pair: Record, limit: int, reason: str
) -> None:
    with pytest.raises(RowError, match=reason):
        encode_pair(pair, RENDERER, limit)


def test_an_answer_of_several_turns_never_loses_its_beginning() -> None:
    turns = (
        Message("assistant", "Wait"),
        Message("user", "For what, if I may ask you now?"),
        Message("assistant", "The rain"),
    )
    pair = Record("id", "rows.jsonl", 1, (Message("user", "Bye"),), chosen=turns,
                  rejected=(Message("assistant", "No"),))  # fmt: skip
    chosen, _ = encode_pair(pair, RENDERER, 400)
    assert said(chosen.ids, chosen.trained) == "Wait<|im_end|>The rain<|im_end|>"
    with pytest.raises(RowError, match="tokens allowed"):
        encode_pair(pair, RENDERER, len(chosen.ids) - 1)


def test_pairs_are_refused_halved_or_kept_as_was_chosen() -> None:
    splits = Splits(train=[record()], validation=[], test=[])
    refused = encode_splits(splits, RENDERER, 400)
    assert [row.reason for row in refused.rejected] == ["it is a preference pair"]
    (better,) = encode_splits(splits, RENDERER, 400, preference="chosen").train
    assert better.rejected is None
    assert said(better.row.ids, better.row.trained) == f"Hello<|im_end|>{BETTER}<|im_end|>"
    (both,) = encode_splits(splits, RENDERER, 400, preference="pairs").train
    assert both.rejected is not None
    assert both.tokens == len(both.rejected.ids)
    assert both.messages == (*PROMPT, Message("assistant", BETTER))
