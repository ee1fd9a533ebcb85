"""Columns mapped by hand: what a person says is followed exactly, and slips are named."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.formats import detect, preview_mapping, read_records, require_readable
from llamaforge.data.mapping import Mapping, Template, paths_of, suggested_mapping
from llamaforge.data.mapping import Path as Column
from llamaforge.data.records import Message, Record, Rejection, RowError
from llamaforge.errors import UsageError
from tests.unit.data.row_files import Row, chat, jsonl

ROW: Row = {
    "title": "T",
    "body": "B",
    "n": 3,
    "ok": True,
    "none": None,
    "a.b": "dotted",
    "my column": "spaced",
    "data": {"turns": [{"text": "first"}, {"text": "last"}]},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("title", "T"),
        (" title ", "T"),
        ("n", "3"),
        ("ok", "true"),
        ("none", ""),
        ("a.b", "dotted"),
        ("my column", "spaced"),
        ("data.turns[0].text", "first"),
        ("data.turns[-1].text", "last"),
        ("data.turns", [{"text": "first"}, {"text": "last"}]),
        ('"{title}\\n\\n{body}"', "T\n\nB"),
        ('"{{{title}}} \\"{data.turns[1].text}\\" \\\\ {n}"', '{T} "last" \\ 3'),
        ('"a, {title}=b"', "a, T=b"),
        ('"only words"', "only words"),
        ('"about {none}"', ""),
        ('"{title}"', "T"),
    ],
)
def test_values_are_columns_paths_or_texts_with_columns(text: str, value: object) -> None:
    mapping = Mapping.parse(f"prompt={text},completion=body")
    assert mapping.apply(ROW) == {"prompt": value, "completion": "B"}
    assert Mapping.parse(str(mapping)) == mapping


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("prompt", "prompt has no value"),
        ("prompt=a,completion", "completion has no value"),
        ("prompt=,completion=b", "prompt has no value"),
        ("prompt=a,completion=b,", "it ends with a comma"),
        ("prompt=a,completion=b,prompt=c", "prompt is named twice"),
        ("roles.AI=user,messages=m,roles.ai=user", "roles.ai is named twice"),
        ("promt=a,completion=b", "there is no promt (did you mean prompt?)"),
        ("\x1b[2J=a", "there is no \\x1b[2J; a row has prompt, completion"),
        ("prompt=a", "it names prompt; name prompt and completion, or messages"),
        ("system=a", "it names no column to ask or to answer"),
        ("prompt=a,messages=b", "it names messages, prompt;"),
        ("prompt=a,chosen=b", "it names chosen, prompt;"),
        ("prompt=a,completion=b,rejected=c", "it names completion, prompt, rejected;"),
        ('prompt="{a}', "the quotes around a text are not closed"),
        ('prompt="{a" ,completion=b', "a brace in a text is not closed around a column"),
        ('prompt="{}",completion=b', "a brace in a text is not closed around a column"),
        ('prompt="a}",completion=b', "a brace in a text is closed without a column"),
        ('prompt="\\x",completion=b', "the escape \\x is not one of"),
        ('prompt="\\', "the escape \\ is not one of"),
        ('prompt="{a}"completion=b', "a comma is missing after the value of prompt"),
        ("messages=m,roles.ai=asistant", "not system, user, assistant or tool (did you mean ass"),
        ('messages=m,roles.ai="a {b}"', "roles.ai is one name, not a text with columns"),
        ("messages=m,roles.=user", "there is no roles."),
    ],
)
def test_a_mapping_that_says_nothing_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as error:
        Mapping.parse(text)
    assert problem in error.value.message
    assert error.value.message.isprintable()
    assert error.value.code == "bad_mapping"
    assert "--map prompt=question,completion=answer" in error.value.hint


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="{}"), min_size=1, max_size=8).map(
    str.strip
).filter(bool)  # fmt: skip
COLUMNS = NAMES.map(lambda name: Template((Column(name),)))
TEXTS = st.lists(st.text(max_size=5).filter(bool) | NAMES.map(Column), max_size=4).map(
    # Two texts in a row are one, and no text at all is an empty one.
    lambda parts: Template(
        tuple(p for i, p in enumerate(parts) if i == 0 or isinstance(p, Column) or isinstance(
            parts[i - 1], Column)) or ("",)
    )
)  # fmt: skip


@given(
    prompt=COLUMNS | TEXTS,
    completion=COLUMNS,
    system=st.none() | TEXTS,
    roles=st.dictionaries(
        st.text("abcdé_- .", min_size=1, max_size=6).map(str.strip).filter(bool),
        st.sampled_from(["system", "user", "assistant", "tool"]),
        max_size=3,
    ),
)
def test_a_mapping_is_what_its_text_says(
    prompt: Template, completion: Template, system: Template | None, roles: dict[str, str]
) -> None:
    columns = {"prompt": prompt, "completion": completion}
    mapping = Mapping(columns | ({"system": system} if system else {}), roles)
    assert Mapping.parse(str(mapping)) == mapping


@given(st.text('promtcleins=,"{}[].\\0-\x1b\u202e ', max_size=40))
def test_any_text_is_a_mapping_or_a_usage_error(text: str) -> None:
    said = ""
    try:
        mapping = Mapping.parse(text)
        assert Mapping.parse(str(mapping)) == mapping
        mapping.apply(ROW)
    except (UsageError, RowError) as error:
        said = str(error)
    assert said == "" or said.isprintable()


def records(path: Path, text: str, **choices: Any) -> list[Record | Rejection]:
    return list(read_records(path, mapping=Mapping.parse(text), **choices))


def test_rows_are_read_as_they_are_mapped(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"ask": {"text": "Q"}, "reply": ["A"], "who": "S", "split": "test", "meta": {"x": 1}},
        {"ask": {"text": "Q"}, "reply": []},
        {"ask": {"text": "Q"}, "reply": [["A"]]},
        {"ask": "Q", "reply": ["A"]},
        {"ask": {"text": "Q"}, "reply": ["A"], "who": None, "image": "cat.png"},
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UsageError):
        require_readable(path, detect(path))
    mapping = Mapping.parse("prompt=ask.text,completion=reply[0]")
    require_readable(path, detect(path), mapping=mapping)
    first, *rest = read_records(path, mapping=mapping)
    assert isinstance(first, Record)
    assert first.messages == (Message("user", "Q"), Message("assistant", "A"))
    assert (first.split, first.meta) == ("test", {"x": 1})
    assert [item.reason for item in rest if isinstance(item, Rejection)] == [
        "reply[0] is missing",
        "message 1 is a text, not an object",
        "ask.text is missing",
        "the row holds a part of type image, which a text model cannot learn from; images can be"
        " left out or kept as links where that is chosen",
    ]


def test_turns_with_names_of_their_own_are_read(tmp_path: Path) -> None:
    turns = [
        {"speaker": "Narrator", "line": "S"},
        {"speaker": "client", "line": "Q"},
        {"speaker": "AI", "line": "A"},
    ]
    path = jsonl(tmp_path / "rows.jsonl", [{"dialog": {"turns": turns}}])
    (found,) = records(
        path,
        "messages=dialog.turns,message.role=speaker,message.content=line,"
        "roles.ai=assistant,roles.client=user,roles.narrator=system",
    )
    assert isinstance(found, Record)
    assert [(turn.role, turn.content) for turn in found.messages] == [
        ("system", "S"),
        ("user", "Q"),
        ("assistant", "A"),
    ]
    missing = records(path, "messages=dialog.turns,message.role=speaker,message.content=line")[0]
    assert isinstance(missing, Rejection)
    assert missing.reason == "message 1 has the unknown role 'Narrator'"


def test_roles_alone_may_be_mapped(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "Alice", "value": "A"}]
    path = jsonl(tmp_path / "rows.jsonl", [{"conversations": turns}])
    (found,) = records(path, "roles.alice=assistant")
    assert isinstance(found, Record)
    assert found.repairs == ("role_spelling",)


def test_pairs_and_sides_may_be_mapped(tmp_path: Path) -> None:
    rows = [
        {"q": "Q", "good": "A", "bad": "B", "fold": "valid"},
        {"q": "Q", "good": "A", "bad": "B", "fold": ""},
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    found = records(path, "prompt=q,chosen=good,rejected=bad,split=fold", want="preference")
    assert [(item.split, item.chosen) for item in found if isinstance(item, Record)] == [
        ("validation", (Message("assistant", "A"),)),
        (None, (Message("assistant", "A"),)),
    ]


@pytest.mark.parametrize(
    ("text", "missing", "near"),
    [
        ("prompt=qestion,completion=answer", "prompt from qestion", "(did you mean question?)"),
        ("prompt=question,completion=data.tex", "completion from data.tex", "mean data.text"),
        ('prompt="{question} {zzz}",completion=answer', "prompt from zzz", ""),
    ],
)
def test_a_column_that_no_row_has_is_named_with_those_that_are_near(
    tmp_path: Path, text: str, missing: str, near: str
) -> None:
    rows = [{"question": "Q", "answer": "A", "data": {"text": "T"}, "\x1b[2J": 1}] * 3
    path = jsonl(tmp_path / "rows.jsonl", ["oops", *rows])
    with pytest.raises(UsageError) as error:
        records(path, text)
    assert error.value.code == "unknown_column"
    assert missing in error.value.message
    assert near in error.value.message
    assert "There are: question, answer, data, \\x1b[2J, data.text." in error.value.hint


def test_a_column_of_some_rows_only_is_enough(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"q": "Q", "a": "A"}, {"q": "Q", "a": "A", "s": "S"}])
    found = records(path, "prompt=q,completion=a,system=s")
    assert [isinstance(item, Record) for item in found] == [False, True]


def test_a_preview_shows_each_row_beside_what_becomes_of_it(tmp_path: Path) -> None:
    rows: list[object] = ["oops", {"q": "Q\x1b", "a": "A" * 200}, {"q": "", "a": "A"}, chat()]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    first, second = preview_mapping(path, Mapping.parse("prompt=q,completion=a"), rows=2)
    assert first.row == 2
    assert first.columns[0] == ("q", "Q\\x1b")
    assert first.columns[1][1].endswith("A…")
    assert isinstance(first.outcome, Record)
    assert isinstance(second.outcome, Rejection)
    assert second.outcome.reason == "the prompt is empty: a user message without text"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["ask", "reply"], "prompt=ask,completion=reply"),
        (["Problem", "Solution", "id"], "prompt=Problem,completion=Solution"),
        (["user_input", "bot_response"], "prompt=user_input,completion=bot_response"),
        (["a", "prompt"], "prompt=prompt,completion=a"),
        (["x", "y"], "prompt=COLUMN,completion=COLUMN"),
        (["the, question", "answer"], 'prompt="{the, question}",completion=answer'),
    ],
)
def test_a_mapping_is_suggested_by_names(keys: list[str], text: str) -> None:
    assert suggested_mapping(keys) == text
    assert Mapping.parse(suggested_mapping(keys)).columns.keys() == {"prompt", "completion"}


def test_the_advice_can_be_copied_into_a_shell_whatever_the_columns_are(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question'; reboot #": "Q", "x": "A"}])
    *_, flag, given_ = shlex.split(detect(path).advice)
    assert flag == "--map"
    assert Mapping.parse(given_).columns["prompt"] == Template((Column("question'; reboot #"),))


def test_paths_are_bounded_whatever_a_row_holds() -> None:
    assert len(paths_of({str(n): {str(m): m for m in range(300)} for n in range(300)})) == 200
    deep: Any = "x"
    for _ in range(50):
        deep = {"k": [deep]}
    assert len(paths_of(deep)) < 10
    assert json.dumps(paths_of({"\u202e": 1})) == '["\\\\u202e"]'
