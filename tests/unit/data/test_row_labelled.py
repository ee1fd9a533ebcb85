"""Answers that are labelled good or bad by themselves, in every form that people have them in."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge.data.analysis import analyse
from llamaforge.data.formats import detect, read_records, require_readable
from llamaforge.data.mapping import Mapping
from llamaforge.data.records import Record, Rejection, canonical_line
from llamaforge.errors import UsageError

QUESTION = [{"role": "user", "content": "Q"}]


def read(tmp_path: Path, *rows: dict[str, Any], **choices: Any) -> list[Record | Rejection]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_records(path, want="labelled", **choices))


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ({"prompt": "Q", "completion": "A", "label": True}, True),
        ({"prompt": "Q", "completion": "A", "label": False}, False),
        ({"prompt": "Q", "completion": "A", "label": "False"}, False),
        ({"prompt": "Q", "completion": "A", "label": 1}, True),
        ({"prompt": "Q", "completion": "A", "label": "0"}, False),
        ({"\ufeffprompt": "Q", "completion": "A", "label": 1}, True),
        (
            {
                "prompt": QUESTION,
                "completion": [{"role": "assistant", "content": "A"}],
                "label": True,
            },
            True,
        ),
        (
            {"messages": [*QUESTION, {"role": "assistant", "content": "A"}], "label": False},
            False,
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
                "label": True,
            },
            True,
        ),
    ],
)
def test_an_answer_stands_on_the_side_of_its_label(
    row: dict[str, Any], good: bool, tmp_path: Path
) -> None:
    [record] = read(tmp_path, row)
    assert isinstance(record, Record)
    assert [(turn.role, turn.content) for turn in record.messages] == [("user", "Q")]
    answer, other = (record.chosen, record.rejected) if good else (record.rejected, record.chosen)
    assert [(turn.role, turn.content) for turn in answer] == [("assistant", "A")]
    assert other == ()
    assert record.id != read(tmp_path, row | {"label": not good})[0].id  # type: ignore[union-attr]
    assert json.loads(canonical_line(record))["chosen"] == (
        [{"role": "assistant", "content": "A"}] if good else []
    )


def test_a_pair_is_two_labelled_answers_and_stays_one_record(tmp_path: Path) -> None:
    [record] = read(tmp_path, {"prompt": "Q", "chosen": "A", "rejected": "B"})
    assert isinstance(record, Record)
    assert record.chosen[0].content == "A"
    assert record.rejected[0].content == "B"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "completion": "A"}, "is not labelled good or bad"),
        ({"completion": "A", "label": True}, "no prompt"),
        ({"prompt": "Q", "completion": "", "label": True}, "is empty"),
        ({"messages": QUESTION, "label": True}, "do not end with the answer"),
        ({"prompt": "Q", "completion": "A", "label": 7}, "is not labelled good or bad"),
        ({"text": "A"}, "is not labelled good or bad"),
    ],
)
def test_rows_without_a_question_an_answer_and_a_label_are_rejected(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    [found] = read(tmp_path, row)
    assert isinstance(found, Rejection)
    assert reason in found.reason


def test_columns_can_be_named(tmp_path: Path) -> None:
    mapping = Mapping.parse("prompt=ask,completion=said,label=thumb")
    row = {"ask": "Q", "said": "A", "thumb": False}
    [record] = read(tmp_path, row, mapping=mapping)
    assert isinstance(record, Record)
    assert record.rejected[0].content == "A"


def test_who_wants_something_else_is_told_the_way(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "completion": "A", "label": True}) + "\n")
    found = detect(path)
    for want in ("sft", "preference"):
        with pytest.raises(UsageError) as caught:
            require_readable(path, found, want=want)
        assert "--method kto" in caught.value.hint
    require_readable(path, found, want="labelled")
    path.write_text(json.dumps({"prompt": "Q", "completion": "A"}) + "\n")
    with pytest.raises(UsageError) as caught:
        require_readable(path, detect(path), want="labelled")
    assert "label (true or false)" in caught.value.hint


def test_what_is_wrong_with_a_bad_answer_is_no_finding(tmp_path: Path) -> None:
    refusal = "I'm sorry, but I can't help with that."
    rows = [
        {"prompt": f"Question {n}?", "completion": refusal, "label": n % 3 == 0} for n in range(9)
    ]
    records = [item for item in read(tmp_path, *rows) if isinstance(item, Record)]
    flags = analyse(records).flags
    assert flags.labelled == {"good": 3, "bad": 6}
    assert flags.pairs == 0
    assert {flag.code: flag.rows for flag in flags.flags} == {"refusal": 3}
