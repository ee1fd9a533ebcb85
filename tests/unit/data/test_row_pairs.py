"""Two answers to one prompt become a pair, whatever the file calls them; else it says why."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.formats import detect, read_records, require_readable
from llamaforge.data.records import Message, Record, Rejection, RowError, canonical_line, record_id
from llamaforge.data.shapes import pair_of
from llamaforge.errors import UsageError
from tests.unit.data.row_files import Row, chat, jsonl

SYSTEM, USER = Message("system", "S"), Message("user", "Q")
GOOD, BAD = Message("assistant", "A"), Message("assistant", "B")


def say(*turns: tuple[str, str]) -> list[Row]:
    return [{"role": role, "content": content} for role, content in turns]


Q, A, B = say(("user", "Q")), say(("assistant", "A")), say(("assistant", "B"))
S = say(("system", "S"))
LONG = say(("user", "Q0"), ("assistant", "A0"), ("user", "Q"))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [USER]),
        ({"prompt": "Q", "chosen": A, "rejected": B}, [USER]),
        ({"prompt": Q, "chosen": "A", "rejected": "B"}, [USER]),
        ({"prompt": S + Q, "chosen": A, "rejected": B}, [SYSTEM, USER]),
        ({"prompt": "Q", "chosen": Q + A, "rejected": Q + B}, [USER]),
        ({"prompt": "Q", "chosen": S + Q + A, "rejected": S + Q + B}, [SYSTEM, USER]),
        ({"prompt": S + Q, "chosen": Q + A, "rejected": Q + B}, [SYSTEM, USER]),
        ({"chosen": Q + A, "rejected": Q + B}, [USER]),
        ({"chosen": S + Q + A, "rejected": S + Q + B, "prompt": None}, [SYSTEM, USER]),
        ({"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}, [SYSTEM, USER]),
        (
            {"instruction": "Q", "input": "X", "chosen": "A", "rejected": "B"},
            [Message("user", "Q\n\nX")],
        ),
        ({"messages": Q + A, "rejected_message": B[0]}, [USER]),
        ({"input": {"messages": Q}, "preferred_output": A, "non_preferred_output": B}, [USER]),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
            },
            [USER],
        ),
        ({"messages": Q + A, "chosen": "A", "rejected": "B"}, [USER]),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
            [USER],
        ),
        ({"chosen": "Q A", "rejected": "Q B"}, [USER]),
        (
            {"prompt": "Q0", "chosen": LONG + A, "rejected": LONG + B},
            [Message("user", "Q0"), Message("assistant", "A0"), USER],
        ),
    ],
)
def test_every_form_of_a_pair_is_read(row: Row, prompt: list[Message]) -> None:
    found = pair_of(row)
    assert list(found.messages) == prompt
    assert (found.chosen, found.rejected) == ((GOOD,), (BAD,))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": " A\n"}, "chosen and rejected are the same"),
        ({"prompt": "Q", "chosen": "A", "rejected": " "}, "rejected is empty"),
        ({"prompt": "Q", "chosen": [], "rejected": B}, "chosen is empty"),
        ({"prompt": " ", "chosen": A, "rejected": B}, "no prompt: chosen and rejected begin"),
        ({"prompt": "Q", "chosen": 1, "rejected": B}, "chosen is a number, neither a text nor"),
        ({"prompt": "Q", "chosen": "A", "rejected": None}, "rejected is null, neither a text nor"),
        ({"prompt": 1, "chosen": A, "rejected": B}, "prompt is a number, not a text"),
        ({"prompt": "Q", "chosen": Q, "rejected": B}, "chosen is not an answer to the prompt"),
        ({"prompt": "Other", "chosen": Q + A, "rejected": Q + B}, "do not begin with the prompt"),
        ({"prompt": Q + A, "chosen": A, "rejected": B}, "does not end with a question"),
        ({"chosen": "A", "rejected": "B"}, "the pair has no prompt: chosen and rejected begin"),
        ({"chosen": "Apple", "rejected": "Apples"}, "the pair has no prompt"),
        ({"chosen": A, "rejected": B}, "the pair has no prompt: chosen and rejected begin"),
        ({"chosen": None, "rejected": None}, "a preference pair whose two answers are null"),
        ({"messages": Q, "rejected_message": B[0]}, "messages do not end with the answer"),
        ({"messages": Q + A, "rejected_message": "B"}, "rejected_message is a text, not an object"),
        (
            {"input": {"messages": Q, "tools": [1]}, "preferred_output": A,
             "non_preferred_output": B},
            "tools entry 1 is a number, not an object",
        ),
        ({"input": 7, "preferred_output": A, "non_preferred_output": B}, "input is a number, not"),
        ({"prompt": "Q", "completion": "A", "label": True}, "labelled good or bad by itself"),
        (chat(), "the row is chat, not a preference pair"),
        ({"x": 1}, "the row has no known format: the key x"),
    ],
)  # fmt: skip
def test_what_makes_no_pair_says_why(row: Row, reason: str) -> None:
    with pytest.raises(RowError) as error:
        pair_of(row)
    assert reason in str(error.value)
    assert str(error.value).isprintable()


def test_a_question_made_of_common_words_is_told_as_a_repair_and_never_cuts_a_word() -> None:
    found = pair_of({"chosen": "The sky is blue.", "rejected": "The sky is blood red."})
    assert found.messages == (Message("user", "The sky is"),)
    assert [side[0].content for side in (found.chosen, found.rejected)] == ["blue.", "blood red."]
    assert "prompt_from_common_text" in found.repairs


def test_the_id_of_a_pair_covers_both_answers_and_is_not_that_of_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"prompt": "Q", "chosen": A, "rejected": B},
        {"prompt": "Q", "chosen": "B", "rejected": "A"},
    ]
    found = list(read_records(jsonl(tmp_path / "rows.jsonl", rows), want="preference"))
    ids = [item.id for item in found if isinstance(item, Record)]
    assert ids[0] == ids[1] != ids[2]
    assert record_id((USER,)) not in ids


def test_supervised_training_refuses_pairs_and_names_the_way_to_the_better_answers(
    tmp_path: Path,
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}])
    found = detect(path)
    with pytest.raises(UsageError, match="the row is a preference pair, which") as error:
        require_readable(path, found)
    assert "--preference chosen" in error.value.hint
    require_readable(path, found, preference="chosen")
    require_readable(path, found, want="preference")
    require_readable(path, found, want="any")
    (refused,) = read_records(path)
    assert isinstance(refused, Rejection)
    (kept,) = read_records(path, preference="chosen")
    assert isinstance(kept, Record)
    assert (kept.messages, kept.chosen, kept.rejected) == ((USER, GOOD), (), ())
    assert kept.id == record_id((USER, GOOD))


def test_conversations_are_no_preference_data(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [chat()])
    with pytest.raises(UsageError, match="holds no preference pairs: its rows are chat"):
        require_readable(path, detect(path), want="preference")


@pytest.mark.parametrize("want", ["sft", "preference", "any"])
def test_labelled_answers_are_never_read_as_pairs(tmp_path: Path, want: Any) -> None:
    rows = [{"prompt": "Q", "completion": c, "label": c == "A"} for c in ("A", "B")]
    items = list(read_records(jsonl(tmp_path / "rows.jsonl", rows), want=want))
    assert all(isinstance(item, Rejection) and "labelled" in item.reason for item in items)


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


@given(prompt=WORDS, chosen=WORDS, rejected=WORDS)
def test_texts_and_messages_say_the_same(prompt: str, chosen: str, rejected: str) -> None:
    sides = [say(("user", prompt), ("assistant", answer)) for answer in (chosen, rejected)]
    rows: list[Row] = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        {"chosen": sides[0], "rejected": sides[1]},
        {"messages": sides[0], "rejected_message": sides[1][1]},
        {
            "input": {"messages": sides[0][:1]},
            "preferred_output": sides[0][1:],
            "non_preferred_output": sides[1][1:],
        },
    ]
    found = {_answer(row) for row in rows}
    assert len(found) == 1


def _answer(row: Row) -> object:
    try:
        return pair_of(row)
    except RowError as error:
        return str(error)


def test_a_pair_is_written_with_both_answers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B "}])
    (found,) = read_records(path, want="preference")
    assert isinstance(found, Record)
    line = canonical_line(found)
    assert b'"rejected":[{"content":"B","role":"assistant"}]' in line
    assert b'"repairs":["outer_white_space"]' in line
