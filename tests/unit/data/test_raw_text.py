"""Raw text is trained as it stands, in parts that fit, and only where a person says so."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.encoding import encode_splits
from llamaforge.data.formats import read_records, require_readable
from llamaforge.data.mapping import Mapping
from llamaforge.data.records import Message, Record, Rejection, RowError, prompt_key, record_id
from llamaforge.data.row_refs import answer_of
from llamaforge.data.shapes import messages_of
from llamaforge.data.templates import CHATML
from llamaforge.errors import UsageError
from tests.unit.chat.letters import Letters
from tests.unit.chat.test_trained_tokens import renderer

RAW = Mapping.parse("text=text")


def text_row(text: str) -> tuple[Message, ...]:
    return (Message("text", text),)


def texts(letters: Letters, ids: list[int]) -> str:
    return letters.texts(ids)


def test_a_text_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n\nIt rained.\n")
    [refused] = read_records(path)
    assert isinstance(refused, Rejection)
    assert "raw text" in refused.reason
    with pytest.raises(RowError, match="raw text"):
        messages_of({"text": "It rained."})
    [record] = read_records(path, mapping=RAW)
    assert isinstance(record, Record)
    assert record.messages == text_row("# Notes\n\nIt rained.")
    assert answer_of(record) == "# Notes\n\nIt rained."


def test_the_way_out_is_named(tmp_path: Path) -> None:
    from llamaforge.data.formats import detect

    path = tmp_path / "notes.txt"
    path.write_text("It rained.\n")
    with pytest.raises(UsageError) as error:
        require_readable(path, detect(path))
    assert "--map text=text" in str(error.value.hint)
    assert "data generate" in str(error.value.hint)


def test_columns_are_put_together_to_a_text(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    rows = [{"title": "Rain", "body": "It falls."}, {"title": "Sun", "body": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = Mapping.parse('text="{title}\\n{body}"')
    found = [item.messages for item in read_records(path, mapping=mapping)
             if isinstance(item, Record)]  # fmt: skip
    assert found == [text_row("Rain\nIt falls."), text_row("Sun\n")]
    assert str(Mapping.parse(str(mapping))) == str(mapping)


@pytest.mark.parametrize(
    ("fields", "reason"), [({"text": " "}, "text is empty"), ({"text": [1]}, "not a text")]
)
def test_what_is_no_text_is_rejected(
    fields: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(fields) + "\n")
    [found] = read_records(path, mapping=RAW)
    assert isinstance(found, Rejection)
    assert reason in found.reason


def test_text_goes_with_nothing_else() -> None:
    with pytest.raises(UsageError, match="or text alone"):
        Mapping.parse("text=a,prompt=b,completion=c")


def test_texts_do_not_ask_the_same() -> None:
    assert prompt_key(text_row("One.")) != prompt_key(text_row("Two."))


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_text_is_trained_whole_and_without_a_template(add_bos: bool) -> None:
    chat, letters = renderer(CHATML, add_bos=add_bos)
    row = chat.encode(text_row("Rain <|im_end|> falls."))
    assert row.terminated
    assert texts(letters, row.ids) == "<s>" * add_bos + "Rain <|im_end|> falls."
    assert row.trained == [False] * add_bos + [True] * (len(row.ids) - add_bos)
    assert not letters.special_ids.keys() & {letters.text_of(i) for i in row.ids[add_bos:]}
    with pytest.raises(RowError, match="asks nothing"):
        chat.encode_prompt(text_row("Rain"))


@given(
    st.text(st.sampled_from("ab .\n"), min_size=1, max_size=60).filter(str.strip),
    st.integers(2, 30),
    st.booleans(),
)
def test_a_long_text_is_cut_into_parts_that_fit(text: str, length: int, add_bos: bool) -> None:
    chat, letters = renderer(CHATML, add_bos=add_bos)
    parts = chat.encode_fitting(text_row(text), length)
    assert all(len(part.ids) <= length for part in parts)
    assert "".join(texts(letters, part.ids[add_bos:]) for part in parts) == text
    assert [part.is_part for part in parts] == [len(parts) > 1] * len(parts)
    for part in parts:
        assert part.terminated
        assert part.trained == [False] * add_bos + [True] * (len(part.ids) - add_bos)


def test_each_part_is_a_row_of_its_own() -> None:
    chat, _ = renderer(CHATML)
    messages = text_row("word " * 20)
    record = Record(record_id(messages), "a.txt", 1, messages)
    rows = encode_splits({"train": [record], "validation": [], "test": []}, chat, 30)
    assert len(rows.train) == 4
    assert all(item.record is record for item in rows.train)
    assert rows.figures()["shortened"] == 0
