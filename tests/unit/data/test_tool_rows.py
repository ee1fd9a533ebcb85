"""Rows that offer and call tools are read in every form, and written back as they were."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llamaforge.data.convert import Form, Rules, row_in
from llamaforge.data.records import Message, Record, RowError, canonical_line, record_id
from llamaforge.data.shapes import messages_of, pair_of

WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
OFFER = Message("tools", json.dumps([TOOL], ensure_ascii=False))
ASK = Message("user", "Rain in Köln?")
CALLING = Message("assistant", "", calls=json.dumps([CALL], ensure_ascii=False))
FOUND = Message("tool", "rain")
REPLY = Message("assistant", "It rains.")
RECORD = TypeAdapter(Record)


def asked(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Rain in Köln?"}, *turns], **more}


def calling(arguments: Any = '{"city": "Köln"}', **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": arguments}, **more}
        ],
    }


END: list[dict[str, Any]] = [
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]


@pytest.mark.parametrize(
    "row",
    [
        asked(calling(), *END, tools=[TOOL]),
        asked(calling({"city": "Köln"}), *END, tools=[WEATHER]),
        asked(calling(), *END, tools=json.dumps([TOOL])),
        asked(
            {"role": "assistant", "function_call": {"name": "weather", "arguments":
             '{"city": "Köln"}'}},
            {"role": "function", "content": "rain"},
            END[1],
            functions=[WEATHER],
        ),
        {
            "conversations": [
                {"from": "human", "value": "Rain in Köln?"},
                {"from": "function_call",
                 "value": '{"name": "weather", "arguments": {"city": "Köln"}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "It rains."},
            ],
            "tools": json.dumps([WEATHER]),
        },
    ],
    ids=["openai", "plain", "text", "functions", "sharegpt"],
)  # fmt: skip
def test_every_form_reads_as_the_same_conversation(row: dict[str, Any]) -> None:
    assert messages_of(row) == (OFFER, ASK, CALLING, FOUND, REPLY)


def test_ids_of_calls_and_names_of_tools_are_kept() -> None:
    messages = messages_of(
        asked(calling(id="c1"), {"role": "tool", "content": "rain", "tool_call_id": "c1",
              "name": "weather"}, END[1])
    )  # fmt: skip
    assert json.loads(messages[1].calls)[0]["id"] == "c1"
    assert (messages[2].name, messages[2].call_id) == ("weather", "c1")


def test_a_row_does_not_become_another_by_the_ids_of_its_calls() -> None:
    rows = [messages_of(asked(calling(id=name), *END)) for name in ("c1", "c2")]
    assert record_id(rows[0]) == record_id(rows[1])
    other = messages_of(asked(calling({"city": "Bonn"}), *END))
    assert record_id(other) != record_id(rows[0])


def test_several_calls_at_once_and_words_beside_them() -> None:
    call = calling()
    call["content"] = "I look."
    call["tool_calls"] *= 2
    _, answer, *_ = messages_of(asked(call, *END))
    assert answer.content == "I look."
    assert [one["function"]["name"] for one in json.loads(answer.calls)] == ["weather"] * 2


def test_an_offer_without_a_call_is_kept() -> None:
    assert messages_of(asked(END[1], tools=[TOOL])) == (OFFER, ASK, REPLY)


@pytest.mark.parametrize("nothing", [None, [], "", "[]", "null"])
def test_an_empty_offer_is_none(nothing: Any) -> None:
    assert messages_of(asked(END[1], tools=nothing)) == (ASK, REPLY)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (asked(END[1], tools=7), "tools is a number, not a list of functions"),
        (asked(END[1], tools="not JSON"), "tools cannot be read as JSON"),
        (asked(END[1], tools=[{"function": {}}]), "tools entry 1 is no function with a name"),
        (asked(calling("not JSON")), "the arguments of a call of message 2 cannot be read as"),
        (asked(calling([1])), "the arguments of a call of message 2 are a list, not an object"),
        (asked({"role": "assistant", "tool_calls": [{}]}), "names no function"),
        (asked({"role": "assistant", "tool_calls": 7}), "is a number, not a list"),
        (asked({"role": "user", "tool_calls": calling()["tool_calls"]}), "is not an answer"),
        (asked(calling({"n": float("nan")})), "holds a number that is not finite"),
        (
            {"conversations": [{"from": "human", "value": "Q"},
                               {"from": "function_call", "value": "call it"}]},
            "the call of message 2 cannot be read as JSON",
        ),
    ],
)  # fmt: skip
def test_what_is_no_tool_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as error:
        messages_of(row)
    assert reason in str(error.value)
    assert str(error.value).isprintable()


def test_a_pair_keeps_its_tools() -> None:
    found = pair_of(
        {
            "input": {"messages": [{"role": "user", "content": "Rain in Köln?"}], "tools": [TOOL]},
            "preferred_output": [calling()],
            "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
        }
    )
    assert found.messages == (OFFER, ASK)
    assert found.chosen == (CALLING,)
    assert found.rejected == (Message("assistant", "No idea."),)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=2)
    ),
    max_leaves=4,
)
arguments = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values, max_size=3)


@given(arguments)
def test_what_is_frozen_is_what_was_read(given_arguments: dict[str, Any]) -> None:
    messages = messages_of(asked(calling(given_arguments, id="c1"), *END, tools=[TOOL]))
    record = Record(record_id(messages), "rows.jsonl", 1, messages)
    assert RECORD.validate_json(canonical_line(record)).messages == messages
    assert json.loads(messages[2].calls)[0]["function"]["arguments"] == given_arguments


@pytest.mark.parametrize("form", ["chat", "openpipe"])
@given(arguments)
def test_a_row_with_tools_is_written_as_it_reads(
    form: Form, given_arguments: dict[str, Any]
) -> None:
    messages = messages_of(asked(calling(given_arguments, id="c1"), *END, tools=[TOOL]))
    row, _ = row_in(form, Record("i", "rows.jsonl", 1, messages), Rules())
    assert messages_of(json.loads(json.dumps(row))) == messages


@pytest.mark.parametrize("form", ["sharegpt", "prompt-completion"])
def test_a_form_without_tools_refuses_the_row(form: Form) -> None:
    messages = messages_of(asked(calling(), *END))
    with pytest.raises(RowError, match=r"cannot hold \(chat and openpipe can\)"):
        row_in(form, Record("i", "rows.jsonl", 1, messages), Rules())
