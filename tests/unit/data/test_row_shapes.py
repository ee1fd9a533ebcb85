"""Every format in the wild becomes one conversation, or a reason that names what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from llamaforge.data.records import ROLES, Message, RowError
from llamaforge.data.shapes import SHAPES, conversation_of, messages_of, shape_of
from llamaforge.data.tool_calls import CALLING_ROLES
from tests.unit.data.row_files import Row, chat, jsonl, read

SYSTEM, USER, ANSWER = Message("system", "S"), Message("user", "Q"), Message("assistant", "A")


def turns(*pairs: tuple[Any, Any], role: str = "role", content: str = "content") -> list[Row]:
    return [{role: who, content: what} for who, what in pairs]


QA = turns(("user", "Q"), ("assistant", "A"))
SHARED = turns(("human", "Q"), ("gpt", "A"), role="from", content="value")


@pytest.mark.parametrize(
    ("format_", "row", "expected"),
    [
        ("chat", {"messages": QA}, [USER, ANSWER]),
        ("chat", {"messages": turns(("developer", "S")) + QA}, [SYSTEM, USER, ANSWER]),
        ("chat", {"messages": QA, "system": "S"}, [SYSTEM, USER, ANSWER]),
        ("chat", {"messages": QA, "system": " ", "tools": []}, [USER, ANSWER]),
        ("chat", {"messages": QA, "rejected_message": None}, [USER, ANSWER]),
        ("chat", {"messages": SHARED}, [USER, ANSWER]),
        ("sharegpt", {"conversations": SHARED}, [USER, ANSWER]),
        ("sharegpt", {"conversations": QA}, [USER, ANSWER]),
        ("sharegpt", {"conversations": SHARED, "system": "S"}, [SYSTEM, USER, ANSWER]),
        ("prompt_completion", {"prompt": "Q", "completion": "A"}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": QA[:1], "completion": QA[1:]}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": QA[:1], "completion": "A"}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": "Q", "completion": "A", "label": 1}, [USER, ANSWER]),
        ("alpaca", {"instruction": "Q", "output": "A"}, [USER, ANSWER]),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, [USER, ANSWER]),
        ("alpaca", {"instruction": "", "input": "Q", "output": "A"}, [USER, ANSWER]),
        (
            "alpaca",
            {"instruction": "Q", "input": "X", "output": "A", "system": "S"},
            [SYSTEM, Message("user", "Q\n\nX"), ANSWER],
        ),
        (
            "alpaca",
            {"instruction": "Q2", "output": "A2", "history": [["Q", "A"]], "system": "S"},
            [SYSTEM, USER, ANSWER, Message("user", "Q2"), Message("assistant", "A2")],
        ),
        (
            "dolly",
            {"instruction": "Q", "context": "X", "response": "A", "category": "open_qa"},
            [Message("user", "Q\n\nX"), ANSWER],
        ),
        ("dolly", {"instruction": "Q", "context": None, "response": "A"}, [USER, ANSWER]),
        ("question_answer", {"question": "Q", "answer": "A"}, [USER, ANSWER]),
        ("question_answer", {"q": "Q", "a": "A"}, [USER, ANSWER]),
        ("question_answer", {"query": "Q", "response": "A"}, [USER, ANSWER]),
        ("question_answer", {"user": "Q", "assistant": "A", "system": "S"}, [SYSTEM, USER, ANSWER]),
    ],
)
def test_each_format_becomes_a_conversation(
    format_: str, row: Row, expected: list[Message]
) -> None:
    assert shape_of(row).name == format_
    assert list(messages_of(row)) == expected


@pytest.mark.parametrize(
    ("given", "role"), [pair for pair in ROLES.items() if pair[0] not in CALLING_ROLES]
)
def test_roles_get_one_name(given: str, role: str) -> None:
    before = [] if role == "user" else QA[:1]
    after = [] if role == "assistant" else turns(("assistant", "B"))
    between = turns((given, "text"))
    found = conversation_of({"messages": before + between + after})
    assert found.messages[len(before)] == Message(role, "text")
    assert found.repairs == ()
    between[0]["role"] = f" {given.upper()} "
    found = conversation_of({"messages": before + between + after})
    assert found.messages[len(before)] == Message(role, "text")
    assert found.repairs == ("role_spelling",)


def test_contents_stay_as_they_were_given() -> None:
    asked, answer = "  Q\r\n\t<|im_start|>[bold]\x1b[31m \ufeff.", "\tA  \n\n\n B\u200b"
    assert messages_of(chat(asked, answer)) == (
        Message("user", asked),
        Message("assistant", answer),
    )


@pytest.mark.parametrize(
    "parts",
    [
        ["one", "two"],
        [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}],
        [{"text": "one"}, {"type": "text", "text": "two", "image": None, "image_url": None}],
    ],
)
def test_text_parts_are_joined_by_line_breaks(parts: list[Any]) -> None:
    row = {"messages": turns(("user", parts), ("assistant", [{"type": "text", "text": "A"}]))}
    assert messages_of(row) == (Message("user", "one\ntwo"), ANSWER)


MEDIA = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "function": {"name": "f"}}],
}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        # no question, no answer
        ({"messages": []}, "the prompt is empty: no user message"),
        ({"messages": QA[1:]}, "the prompt is empty: no user message"),
        (chat(" \n", "A"), "the prompt is empty: a user message without text"),
        ({"messages": QA + turns(("user", ""))}, "the prompt is empty: a user message without"),
        ({"prompt": "", "completion": "A"}, "the prompt is empty: a user message without text"),
        ({"prompt": [], "completion": "A"}, "the prompt is empty: no user message"),
        ({"instruction": " ", "input": "", "output": "A"}, "the prompt is empty"),
        ({"messages": QA[:1]}, "the row has no answer"),
        ({"messages": [QA[1], QA[0]]}, "the row has no answer"),
        (chat("Q", "\t"), "the row has no answer: an assistant message is empty"),
        ({"messages": turns(("user", "Q"), ("assistant", []))}, "the row has no answer: an"),
        ({"messages": QA + turns(("assistant", ""))}, "the row has no answer: an assistant"),
        ({"question": "Q", "answer": ""}, "the row has no answer: an assistant message is empty"),
        ({"instruction": "Q", "output": ""}, "the row has no answer"),
        # wrong types
        ({"messages": "text"}, "messages is a text, not a list of messages"),
        ({"messages": None}, "messages is null, not a list of messages"),
        (
            {"conversations": {"from": "human"}},
            "conversations is an object, not a list of messages",
        ),
        ({"messages": [*QA, "text"]}, "message 3 is a text, not an object"),
        ({"messages": [{"content": "Q"}]}, "message 1 has no role: the key content"),
        ({"messages": [{}]}, "message 1 has no role: no keys"),
        ({"messages": [{"role": "user"}]}, "message 1 has no content"),
        ({"conversations": [{"from": "human"}]}, "message 1 has no value"),
        ({"messages": turns((7, "Q"))}, "the role of message 1 is a number, not a text"),
        ({"messages": turns(("user", None))}, "the content of message 1 is null, not a text"),
        ({"messages": turns(("user", 4))}, "the content of message 1 is a number, not a text"),
        ({"messages": turns(("user", [4]))}, "a part of message 1 is a number, not a text"),
        ({"messages": turns(("user", [{"type": "text"}]))}, "a text part of message 1 has no text"),
        ({"prompt": 1, "completion": "A"}, "prompt is a number, not a text"),
        ({"prompt": "Q", "completion": {"a": 1}}, "completion is an object, not a text"),
        ({"question": "Q", "answer": True}, "answer is true or false, not a text"),
        ({"instruction": ["Q"], "output": "A"}, "instruction is a list, not a text"),
        ({"instruction": "Q", "input": 1, "output": "A"}, "input is a number, not a text"),
        ({"instruction": "Q", "output": "A", "history": "x"}, "history is a text, not a list of"),
        (
            {"instruction": "Q", "output": "A", "history": [["Q", "A"], ["Q"]]},
            "history entry 2 is not a question and an answer",
        ),
        ({"messages": QA, "system": ["S"]}, "system is a list, not a text"),
        (
            {"messages": turns(("system", "S")) + QA, "system": "T"},
            "the row has a system text and a system message",
        ),
        # unknown roles and parts
        ({"messages": turns(("narrator", "Q"))}, "message 1 has the unknown role 'narrator'"),
        ({"messages": turns(("\x1b[2J", "Q"))}, "message 1 has the unknown role '\\x1b[2J'"),
        ({"conversations": SHARED[:1] + turns(("function_call", "f"))}, "cannot be read as JSON"),
        ({"messages": turns(("user", [{"type": ["x"]}]))}, "a part of unknown type ['x']"),
        ({"messages": turns(("user", [{"type": "poll"}]))}, "a part of unknown type 'poll'"),
        # what would be learned wrongly if it were dropped in silence
        ({"messages": turns(("user", [MEDIA]))}, "message 1 holds a part of type image, which a"),
        (
            {"messages": turns(("user", [{"image": "a.png"}]))},
            "message 1 holds a part of type image",
        ),
        ({"messages": turns(("user", [{"type": "input_audio"}]))}, "a part of type audio"),
        (
            {"messages": [CALL | {"role": "user"}, QA[1]]},
            "message 1 calls a tool, and is not an answer",
        ),
        ({"messages": QA, "tools": [{"type": "function"}]}, "tools entry 1 is no function"),
        ({"messages": [QA[0], QA[1] | {"weight": 0}]}, "no answer to learn: the weight of all"),
        ({"messages": [QA[0], QA[1] | {"weight": 0.5}]}, "message 2 has a weight that is neither"),
        ({"messages": [QA[0], QA[1] | {"weight": True}]}, "message 2 has a weight that is neither"),
        ({"messages": [QA[0], QA[1] | {"weight": [1]}]}, "message 2 has a weight that is neither"),
        # formats that supervised training must not take for something else
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "the row is a preference pair"),
        ({"messages": QA, "rejected_message": QA[1]}, "the row is a preference pair"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "a preference pair"),
        ({"prompt": "Q", "completion": "A", "label": False}, "is labelled good or bad"),
        ({"messages": QA, "label": True}, "is labelled good or bad"),
        ({"prompt": "Q", "completion": "A", "label": " False"}, "is labelled good or bad"),
        ({"messages": QA, "image": "cat.png"}, "the row holds a part of type image, which a"),
        ({"question": "Q", "answer": "A", "images": ["a"]}, "the row holds a part of type image"),
        ({"messages": "[1"}, "messages is a text that is not JSON: invalid JSON at character"),
        ({"messages": '[],"x":[]'}, "messages is a text that is not JSON"),
        ({"prompt": {"text": "Q", "role": "x", "replies": []}}, "one message of a tree"),
        ({"message_id": 1, "parent_id": 0, "text": "Q", "role": "x"}, "one message of a tree"),
        ({"input_ids": [1, 2]}, "the row holds token ids, which fit one tokenizer only"),
        ({"text": "A story."}, "the row is raw text, without a question and an answer"),
        ({}, "the row has no known format: no keys"),
        ({"a": 1}, "the row has no known format: the key a"),
        ({"ask": 1, "\u202ereply": 2}, "the row has no known format: the keys ask, \\u202ereply"),
        (
            {f"k{n}": n for n in range(20)},
            "the keys k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Row, reason: str) -> None:
    with pytest.raises(RowError) as error:
        messages_of(row)
    assert reason in str(error.value)
    assert str(error.value).isprintable()


def test_every_format_has_a_reader_or_a_refusal_and_its_own_name() -> None:
    named = {shape.name for shape in SHAPES if shape.keys}
    assert named == {shape.name for shape in SHAPES if shape.read} | {"preference", "oasst"}
    assert all((shape.read is None) == bool(shape.refusal) for shape in SHAPES[:-1])
    assert all(shape.covers <= {other.name for other in SHAPES} for shape in SHAPES)
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("train", "train"),
        ("VALID", "validation"),
        ("val", "validation"),
        ("validation", "validation"),
        (" test ", "test"),
        (None, None),
    ],
)
def test_a_row_may_ask_for_its_side(tmp_path: Path, given: str | None, split: str | None) -> None:
    records, _ = read(jsonl(tmp_path / "rows.jsonl", [chat(split=given), chat()]))
    assert [record.split for record in records] == [split, None]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("holdout", "split is 'holdout', not train, validation or test"),
        ("", "split is '', not train, validation or test"),
        (1, "split is a number, not train, validation or test"),
        (["test"], "split is a list, not train, validation or test"),
    ],
)
def test_a_side_that_is_unknown_rejects_the_row(tmp_path: Path, given: object, reason: str) -> None:
    records, rejected = read(jsonl(tmp_path / "rows.jsonl", [chat(split=given)]))
    assert not records
    assert [row.reason for row in rejected] == [reason]


@pytest.mark.parametrize(
    ("given", "meta"),
    [
        ({"task": "a", "n": [1, None]}, {"task": "a", "n": [1, None]}),
        (None, {}),
        ("x", {"meta": "x"}),
    ],
)
def test_meta_is_kept(tmp_path: Path, given: object, meta: Row) -> None:
    records, _ = read(jsonl(tmp_path / "rows.jsonl", [chat(meta=given)]))
    assert records[0].meta == meta


@pytest.mark.parametrize(
    ("fields", "missing"),
    [({"prompt": "a"}, "completion"), ({"instruction": "a", "input": "b"}, "output"),
     ({"question": "a"}, "answer")],
)  # fmt: skip
def test_a_row_that_only_asks_is_told_which_key_is_missing(
    fields: dict[str, str], missing: str
) -> None:
    with pytest.raises(RowError, match=f"no answer: .*, and {missing} is missing"):
        messages_of(fields)
