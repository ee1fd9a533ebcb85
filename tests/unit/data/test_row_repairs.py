"""What is mended is told by the name of its rule; nothing else in a row is changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.formats import detect, read_records
from llamaforge.data.quality import count
from llamaforge.data.records import Message, Record, Rejection, RowError, record_id
from llamaforge.data.repairs import RULES, Mender, Repaired, repair_counts, repaired_rows
from llamaforge.data.shapes import conversation_of
from llamaforge.data.turns import TurnChoices
from tests.unit.data.row_files import Row, chat, jsonl

USER, ANSWER = Message("user", "Q"), Message("assistant", "A")


def turns(*pairs: tuple[str, Any]) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


Q, A = ("user", "Q"), ("assistant", "A")
BOM = "\ufeff"


@pytest.mark.parametrize(
    ("row", "expected", "rules"),
    [
        (turns(Q, A), [USER, ANSWER], ()),
        (turns(("user", " Q \n"), ("assistant", "\n \nA ")), [USER, ANSWER],
         ("outer_white_space",)),
        (turns(("user", f"{BOM}Q"), A), [USER, ANSWER], ("byte_order_mark",)),
        (
            turns(("user", f" {BOM} Q"), A),
            [USER, ANSWER],
            ("outer_white_space", "byte_order_mark"),
        ),
        (turns(("system", " "), Q, A), [USER, ANSWER], ("outer_white_space", "empty_system")),
        (turns(("system", ""), Q, A), [USER, ANSWER], ("empty_system",)),
        (
            turns(("system", "S"), Q, A) | {"system": "S "},
            [Message("system", "S"), USER, ANSWER],
            ("repeated_system",),
        ),
        (turns(A, Q, A), [USER, ANSWER], ("leading_answer",)),
        (turns(Q, A, Q, ("tool", "t")), [USER, ANSWER], ("unanswered_end",)),
        (turns(Q, Q, A, A), [Message("user", "Q\n\nQ"), Message("assistant", "A\n\nA")],
         ("merged_turns",)),
        (turns(Q, ("tool", " 1 "), ("tool", "2"), A),
         [USER, Message("tool", " 1 "), Message("tool", "2"), ANSWER], ()),
        (turns(("USER", "Q"), A), [USER, ANSWER], ("role_spelling",)),
        ({"messages": json.dumps(turns(Q, A)["messages"])}, [USER, ANSWER], ("json_text",)),
        ({f"{BOM}question": "Q", "answer": "A"}, [USER, ANSWER], ("byte_order_mark",)),
    ],
)  # fmt: skip
def test_each_rule_mends_what_it_says_and_is_told(
    row: Row, expected: list[Message], rules: tuple[str, ...]
) -> None:
    found = conversation_of(row)
    assert list(found.messages) == expected
    assert found.repairs == rules
    assert set(rules) <= RULES.keys()


@pytest.mark.parametrize("text", ["    return 1", "\tx", "a\r\nb", "a  \n\n b", "\x00", "  a"])
def test_the_inside_of_a_text_and_its_indent_stay(text: str) -> None:
    found = conversation_of(chat("Q", text))
    assert found.messages[1].content == text
    assert found.repairs == ()


def test_answers_that_are_not_to_be_learned_stay_and_are_not_joined() -> None:
    row = turns(Q, A, A, Q, A)
    row["messages"][2]["weight"] = 0
    row["messages"][3]["weight"] = 0
    row["messages"][4]["weight"] = 1
    found = conversation_of(row)
    assert [turn.trained for turn in found.messages] == [True, True, False, True, True]
    assert found.repairs == ()
    assert record_id(found.messages) != record_id(tuple(Message(m.role, m.content)
                                                        for m in found.messages))  # fmt: skip


def test_a_row_whose_learned_answer_is_dropped_is_rejected() -> None:
    row = turns(A, Q, A)
    row["messages"][2]["weight"] = 0
    with pytest.raises(RowError, match="no answer to learn"):
        conversation_of(row)


def test_repairs_are_counted_and_listed(tmp_path: Path) -> None:
    rows: list[object] = [chat(), chat(" Q"), turns(A, ("user", "Q "), A), {"x": 1}]
    items = list(read_records(jsonl(tmp_path / "rows.jsonl", rows)))
    records = [item for item in items if isinstance(item, Record)]
    rejected = [item for item in items if isinstance(item, Rejection)]
    counts = count(len(items), records, rejected)
    assert (counts.read, counts.accepted, counts.repaired, counts.rejected) == (4, 1, 2, 1)
    source = str(tmp_path / "rows.jsonl")
    assert repaired_rows(records) == [
        Repaired(source, 2, "outer_white_space"),
        Repaired(source, 3, "outer_white_space"),
        Repaired(source, 3, "leading_answer"),
    ]
    assert repair_counts(records) == {"outer_white_space": 2, "leading_answer": 1}
    assert records[2].id == record_id((USER, ANSWER))


def test_a_rule_without_a_name_cannot_be_noted() -> None:
    with pytest.raises(KeyError):
        Mender().note("tidied")


CAT: Row = {"type": "image_url", "image_url": {"url": "https://e.org/cat.png"}}
DATA: Row = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("row", "dropped", "linked"),
    [
        (turns(("user", ["See", CAT]), A), "See", "See\nhttps://e.org/cat.png"),
        (turns(("user", ["See", {"image": "cat.png"}]), A), "See", "See\ncat.png"),
        (turns(("user", ["See", DATA]), A), "See", "stands in the row itself"),
        (turns(("user", ["See", {"type": "image"}]), A), "See", "without an address"),
        (turns(("user", "See <image>."), A) | {"images": ["cat.png"]}, "See .", "See cat.png."),
        (turns(("user", "See"), A) | {"image": {"path": "cat.png"}}, "See", "cat.png\nSee"),
        ({"question": "<image>See", "answer": "A", "image": "x"}, "See", "xSee"),
    ],
)
def test_images_are_left_out_or_linked_where_that_is_chosen(
    row: Row, dropped: str, linked: str
) -> None:
    with pytest.raises(RowError, match="part of type image, which a text model cannot learn"):
        conversation_of(row)
    found = conversation_of(row, TurnChoices(images="drop"))
    assert found.messages[0].content == dropped
    assert found.repairs == ("images_dropped",)
    if linked.endswith(("itself", "address")):
        with pytest.raises(RowError, match=linked):
            conversation_of(row, TurnChoices(images="link"))
        return
    found = conversation_of(row, TurnChoices(images="link"))
    assert found.messages[0].content == linked
    assert found.repairs == ("images_linked",)


def test_a_mark_of_an_image_is_only_text_where_the_row_has_none() -> None:
    for images in ("refuse", "drop", "link"):
        found = conversation_of(chat("What is <image>?"), TurnChoices(images=images))
        assert found.messages[0].content == "What is <image>?"
        assert found.repairs == ()


SPACES = st.text(st.sampled_from([*" \n\t\r\x0b\u2028\u3000\ufeff", *"ab<"]), max_size=8)
CHATS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "human", "GPT"]), SPACES),
    max_size=6,
).map(lambda pairs: turns(*pairs))


@given(CHATS)
@settings(max_examples=300)
def test_what_was_mended_once_needs_no_mending(row: Row) -> None:
    try:
        found = conversation_of(row)
    except RowError:
        return
    again = conversation_of(turns(*((turn.role, turn.content) for turn in found.messages)))
    assert again.messages == found.messages
    assert again.repairs == ()
    roles = [turn.role for turn in found.messages if turn.role != "system"]
    assert (roles[0], roles[-1]) == ("user", "assistant")
    if not found.repairs:
        aliases = {"human": "user", "GPT": "assistant"}
        assert [(turn.role, turn.content) for turn in found.messages] == [
            (aliases.get(turn["role"], turn["role"]), turn["content"]) for turn in row["messages"]
        ]


KEYS = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "chosen", "rejected", "instruction",
     "input", "output", "response", "text", "label", "message_id", "parent_id", "role", "rank",
     "question", "answer", "rejected_message", "preferred_output", "non_preferred_output", "system",
     "history", "tools", "images", "split", "meta", "from", "value", "content", "weight", "replies",
     "\ufeffprompt", "input_ids"]
)  # fmt: skip
SCALARS = st.sampled_from(
    [None, True, 0, 1, 1e308, -1, "", " ", "user", "assistant", "prompter", "Q", "\ud800",
     "\x1b]0;", "\u202e", "<image>", "[1]", "[]", "\n\nHuman: a\n\nAssistant: b", "data:x"]
)  # fmt: skip
HOSTILE = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(HOSTILE, min_size=1, max_size=6),
    want=st.sampled_from(["sft", "preference", "labelled", "any"]),
    preference=st.sampled_from(["refuse", "chosen"]),
    images=st.sampled_from(["refuse", "drop", "link"]),
)
def test_every_row_becomes_a_record_or_a_reason_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], want: Any, preference: Any,
    images: Any,
) -> None:  # fmt: skip
    path = jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)
    found = detect(path)
    assert 0.0 <= found.confidence <= 1.0
    assert found.reason.isprintable()
    assert found.advice.isprintable()
    items = list(read_records(path, want=want, preference=preference, images=images))
    numbers = {item.row for item in items}
    assert numbers <= set(range(1, len(rows) + 1))
    for item in items:
        if isinstance(item, Rejection):
            assert item.reason.isprintable()
        else:
            assert set(item.repairs) <= RULES.keys()
            assert bool(item.chosen) == bool(item.rejected) or want == "labelled"
            if want == "sft":
                assert not item.chosen
            if want == "preference":
                assert item.chosen
            if want == "labelled":
                assert item.chosen or item.rejected
