"""Messages of trees, in any order: the best path is a conversation, ranks make pairs."""

import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.formats import read_records
from llamaforge.data.records import Record, Rejection
from llamaforge.data.trees import MAX_TURNS, Forest
from llamaforge.errors import RefusedError
from tests.unit.data.row_files import Row, jsonl


def node(id_: object, parent: object, role: str = "assistant", **fields: Any) -> Row:
    return {"message_id": id_, "parent_id": parent, "role": role, "text": f"t{id_}"} | fields


def ask(id_: object, parent: object = None, **fields: Any) -> Row:
    return node(id_, parent, "prompter", **fields)


def read(path: Path, want: Any = "sft") -> tuple[list[str], list[str]]:
    """Return what is learned, as texts in a row, and the reasons why something is not."""
    items = list(read_records(path, want=want))
    records = [item for item in items if isinstance(item, Record)]
    texts = [
        " ".join(turn.content for turn in record.messages)
        + "".join(f" > {turn.content}" for turn in record.chosen)
        + "".join(f" < {turn.content}" for turn in record.rejected)
        for record in records
    ]
    return texts, [item.reason for item in items if isinstance(item, Rejection)]


TREE = [
    ask(1),
    node(2, 1, rank=2),
    node(3, 1, rank=0),
    node(4, 1, rank=1),
    ask(5, 3, rank=1),
    ask(6, 3, rank=0),
    node(7, 6),
    ask(8, 7),
    node(9, 2),
]


def test_the_best_reply_is_followed_to_the_last_answer(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path / "rows.jsonl", TREE)) == (["t1 t3 t6 t7"], [])


def test_the_best_answer_is_preferred_to_each_that_is_ranked_below_it(tmp_path: Path) -> None:
    rows = [*TREE, node(10, 6, rank=3), node(11, 6, rank=3.5), node(12, 5, rank=0)]
    texts, reasons = read(jsonl(tmp_path / "rows.jsonl", rows), "preference")
    assert texts == ["t1 > t3 < t4", "t1 > t3 < t2", "t1 t3 t6 > t10 < t11"]
    assert reasons == []


def test_equal_ranks_and_none_make_no_pair(tmp_path: Path) -> None:
    rows = [ask(1), node(2, 1, rank=1), node(3, 1, rank=1), node(4, 1), node(5, 1, rank="")]
    texts, reasons = read(jsonl(tmp_path / "rows.jsonl", rows), "preference")
    assert texts == []
    assert reasons == ["no two answers to one question of this tree have different ranks"]


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, shuffle: random.Random
) -> None:
    rows = [*TREE, ask("b"), node("c", "b"), node("d", "b", rank=9)]
    shuffle.shuffle(rows)
    path = jsonl(tmp_path_factory.mktemp("trees") / "rows.jsonl", rows)
    texts, reasons = read(path)
    assert sorted(texts) == ["t1 t3 t6 t7", "tb td"]
    assert reasons == []
    assert sorted(read(path, "preference")[0]) == ["t1 > t3 < t2", "t1 > t3 < t4"]


@pytest.mark.parametrize(
    ("rows", "texts", "reasons"),
    [
        ([ask(1)], [], ["nobody answered in this tree"]),
        ([ask(1), ask(2, 1)], [], ["nobody answered in this tree"]),
        ([ask(1, deleted=True), node(2, 1)], [], ["the first message of the tree was deleted"]),
        ([ask(1), node(2, 1, rank=0, deleted=True), node(3, 1, rank=5)], ["t1 t3"], []),
        ([ask(1), node(2, 1, review_result=False), node(3, 1)], ["t1 t3"], []),
        ([ask(1), node(2, 1), node(3, 9)], ["t1 t2"], ["follows 9, which is not in the file"]),
        (
            [node("a", "b"), node("b", "a"), ask(1), node(2, 1)],
            ["t1 t2"],
            ["follows b, which no first message leads to", "follows a, which no first"],
        ),
        ([ask(1), node(1, 1), node(2, 1)], ["t1 t2"], ["another message before this one has its"]),
        # a number and a text are two ids
        ([ask(1), node(2, "1")], [], ["nobody answered", "follows 1, which is not in the file"]),
        ([ask(1, ""), node(2, 1)], ["t1 t2"], []),
        ([ask(1), node(2, 1, text=None)], [], ["text is null, not a text", "nobody answered"]),
        ([ask([1]), node(2, 1)], [], ["message_id is a list, not an id", "is not in the file"]),
        ([ask("")], [], ["message_id is empty"]),
        ([ask("x" * 300)], [], ["message_id is longer than 200 characters"]),
        ([ask(1), node(2, 1, "system")], [], ["role of the message is 'system', not", "nobody"]),
        ([ask(1), node(2, 1, rank=True)], [], ["rank is not a number", "nobody answered"]),
        ([ask(1), node(2, 1, rank="best")], [], ["rank is not a number", "nobody answered"]),
        ([node(1, None), ask(2, 1), node(3, 2)], ["t2 t3"], []),
        ([ask(1, text=" "), node(2, 1)], [], ["the prompt is empty"]),
        ([ask(1), node(2, 1, text="\ud800")], [], ["a text holds half a character"]),
        ([ask(1), node("\x1b[2J", "\u202e")], [], ["nobody", "follows \\u202e, which is not"]),
    ],
)
def test_what_belongs_to_no_tree_or_makes_none_says_why(
    tmp_path: Path, rows: list[Row], texts: list[str], reasons: Sequence[str]
) -> None:
    found = read(jsonl(tmp_path / "rows.jsonl", rows))
    assert found[0] == texts
    assert len(found[1]) == len(reasons)
    for given_, expected in zip(found[1], reasons, strict=True):
        assert expected in given_
        assert given_.isprintable()


def test_a_chain_without_end_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    rows = [ask(0)] + [
        node(n, n - 1, "assistant" if n % 2 else "prompter") for n in range(1, MAX_TURNS + 2)
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    assert read(path) == ([], [f"the tree is deeper than {MAX_TURNS:,} messages"])
    assert read(path, "preference")[1][0] == f"the tree is deeper than {MAX_TURNS:,} messages"


def test_a_full_disk_is_told_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Forest, "add", full)
    with pytest.raises(RefusedError, match="on disk: database or disk is full") as error:
        read(jsonl(tmp_path / "rows.jsonl", TREE))
    assert error.value.code == "no_room"


def test_whole_trees_in_rows_are_read_too_and_a_broken_one_leaves_nothing(tmp_path: Path) -> None:
    replies = [
        {"role": "assistant", "text": "bad", "rank": 1, "replies": []},
        {"role": "assistant", "text": "good", "rank": 0, "message_id": "x"},
    ]
    whole = {
        "message_tree_id": "t",
        "prompt": {"role": "prompter", "text": "Q", "replies": replies},
    }
    broken = {"prompt": {"role": "prompter", "text": "Q", "replies": [*replies, {"text": "?"}]}}
    path = jsonl(tmp_path / "rows.jsonl", [broken, whole, whole])
    assert read(path) == (["Q good"] * 2, ["message 4 of the tree has no text or no role"])
    assert read(path, "preference")[0] == ["Q > good < bad"] * 2


def test_a_trees_row_is_that_of_its_first_message_and_other_rows_come_first(tmp_path: Path) -> None:
    rows = [node(2, 1), ask(1), {"question": "Q", "answer": "A"}]
    records = list(read_records(jsonl(tmp_path / "rows.jsonl", rows)))
    assert [item.row for item in records] == [3, 2]
    assert isinstance(records[1], Record)
    assert records[1].meta == {"tree": "1"}
