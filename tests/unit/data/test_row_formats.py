"""A file's format is that of most of its rows; what cannot be read is named with its keys."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.formats import SAMPLE_ROWS, detect, require_readable
from llamaforge.data.records import Message, canonical_line, prompt_key, record_id
from llamaforge.errors import UsageError
from llamaforge.paths import embedded_data
from tests.unit.data.row_files import Row, chat, jsonl, read

ALPACA: Row = {"instruction": "Q", "input": "", "output": "A"}


def test_formats_may_differ_within_a_file_and_the_majority_names_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [ALPACA, chat(), chat(), {"q": "Q", "a": "A"}, "oops"])
    found = detect(path)
    assert (found.container, found.format, found.confidence) == ("jsonl", "chat", 0.4)
    assert found.reason == ("of 5 rows looked at: 2 chat, 1 alpaca, 1 question_answer, 1 not valid")
    records, rejected = read(path)
    assert [record.row for record in records] == [1, 2, 3, 4]
    assert [row.row for row in rejected] == [5]


def test_rows_that_can_be_read_name_the_file_even_where_most_cannot(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "t"}, {"x": 1}, {"x": 2}, ALPACA])
    found = detect(path)
    assert (found.format, found.confidence) == ("alpaca", 0.25)
    require_readable(path, found)


def test_rows_from_all_over_a_file_are_looked_at(tmp_path: Path) -> None:
    rows = [ALPACA] * SAMPLE_ROWS + [chat()] * SAMPLE_ROWS * 3
    found = detect(jsonl(tmp_path / "rows.jsonl", rows))
    assert found.format == "chat"
    assert found.confidence == pytest.approx(0.75, abs=0.05)
    assert found.ambiguous == ("chat", "alpaca")
    assert found.reason.startswith("of 1,000 rows looked at: ")


def test_of_what_cannot_be_entered_the_head_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ALPACA] * SAMPLE_ROWS + [chat()] * 10), encoding="utf-8")
    assert (detect(path).format, detect(path).confidence) == ("alpaca", 1.0)
    text = "\n".join(json.dumps(row) for row in [ALPACA] * SAMPLE_ROWS + [chat()] * 10)
    path.write_text(text, encoding="utf-16")
    assert (detect(path).format, detect(path).confidence) == ("alpaca", 1.0)


def test_an_unknown_format_is_refused_with_its_keys_and_what_can_be_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"ask": 1, "reply": 2}, {"ask": 1, "\x1b[2J": 3}])
    found = detect(path)
    assert found.format == "unknown"
    with pytest.raises(UsageError, match="have no known format: the keys ask, reply,") as error:
        require_readable(path, found)
    assert error.value.code == "unknown_format"
    assert "\x1b" not in error.value.message
    for name in ("chat (messages)", "sharegpt", "alpaca", "dolly", "question, answer"):
        assert name in error.value.hint


@pytest.mark.parametrize(
    ("row", "format_"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "preference"),
        ({"prompt": "Q", "completion": "A", "label": True}, "unpaired_preference"),
        ({"input_ids": [1], "labels": [1]}, "tokenized"),
        ({"text": "A story."}, "text"),
    ],
)
def test_a_format_that_is_known_but_cannot_be_trained_on_is_refused_by_name(
    tmp_path: Path, row: Row, format_: str
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [row])
    found = detect(path)
    assert (found.format, found.confidence) == (format_, 1.0)
    with pytest.raises(UsageError, match="cannot be trained on: the row") as error:
        require_readable(path, found)
    assert error.value.code == "unsupported_format"


@pytest.mark.parametrize(("text", "reason"), [("", "no rows"), ("oops\n" * 3, "of 3 rows looked")])
def test_a_file_without_one_object_is_unknown_but_its_rows_are_to_blame(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    found = detect(path)
    assert (found.format, found.confidence, found.keys) == ("unknown", 0.0, ())
    assert reason in found.reason
    require_readable(path, found)


def test_the_demos_own_data_is_accepted_whole() -> None:
    records, rejected = read(embedded_data())
    assert detect(embedded_data()).format == "chat"
    assert len(records) > 1000
    assert not rejected
    assert {record.split for record in records} == {None, "test"}


TEXTS = st.text(max_size=20)


@given(text=TEXTS, answer=TEXTS)
def test_equal_ids_have_equal_prompts(text: str, answer: str) -> None:
    messages = (Message("user", text), Message("assistant", answer))
    padded = (Message("user", f"\r\n {text}\n"), Message("assistant", f"{answer}  "))
    assert record_id(messages) == record_id(padded)
    assert prompt_key(messages) == prompt_key(padded)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("a  b\n\tc", "A B C"), ("e\u0301", "É"), (" hi ", "Hi")],
)
def test_prompts_are_compared_without_case_and_white_space(one: str, other: str) -> None:
    assert prompt_key((Message("user", one),)) == prompt_key((Message("user", other),))


@pytest.mark.parametrize(
    "other",
    [
        (Message("user", "Q"), Message("assistant", "B")),
        (Message("user", "q"), Message("assistant", "A")),
        (Message("system", "Q"), Message("assistant", "A")),
        (Message("user", "Q"), Message("assistant", "A"), Message("user", "")),
    ],
)
def test_ids_differ_where_conversations_do(other: tuple[Message, ...]) -> None:
    assert record_id((Message("user", "Q"), Message("assistant", "A"))) != record_id(other)


def test_an_id_does_not_depend_on_the_format_or_the_file(tmp_path: Path) -> None:
    one, _ = read(jsonl(tmp_path / "one.jsonl", [chat("Q", "A"), ALPACA]))
    other, _ = read(jsonl(tmp_path / "other.jsonl", ["", chat("Q", "A", meta={"x": 1})]))
    assert {record.id for record in one + other} == {one[0].id}
    # Ids are written into snapshots: how they are made must never change.
    made = hashlib.sha256(b'[["user", "Q"], ["assistant", "A"]]').hexdigest()
    assert one[0].id == made[:16]


def test_a_canonical_line_is_sorted_json_with_one_line_end(tmp_path: Path) -> None:
    records, _ = read(jsonl(tmp_path / "rows.jsonl", [chat("Grüße\n\u2028!", "A", meta={"b": 1})]))
    line = canonical_line(records[0]).decode()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert "Grüße" in line
    body = json.loads(line)
    assert list(body) == sorted(body) == ["id", "messages", "meta", "row", "source", "split"]
