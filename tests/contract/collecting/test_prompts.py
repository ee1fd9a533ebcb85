"""Prompts are found where people have them, and documents are cut without losing a word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.collecting.answers import UnansweredError
from llamaforge.collecting.documents import Cut, chunks, pairs_prompt, read_pairs, read_pieces
from llamaforge.collecting.prompts import Prompt, read_prompts
from llamaforge.data.formats import read_records
from llamaforge.data.records import Message, Record, Rejection
from llamaforge.errors import ExitCode, InvalidFileError, LlamaForgeError, NotFoundError, UsageError
from tests.contract.collecting.conftest import Command
from tests.contract.collecting.fake_models import Asked, FakeModels, Reply

Made = Callable[[], list[dict[str, Any]]]
USER = [{"role": "user", "content": "Q"}]
CHAT = [*USER, {"role": "assistant", "content": "A"}]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def found(path: Path, **more: Any) -> list[list[tuple[str, str]]]:
    return [
        [(turn.role, turn.content) for turn in item.messages]
        for item in read_prompts([path], **more)
        if isinstance(item, Prompt)
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q"}, [("user", "Q")]),
        ({"prompt": USER}, [("user", "Q")]),
        ({"question": "Q", "answer": "A"}, [("user", "Q")]),
        ({"instruction": "Q", "input": "X", "output": "A"}, [("user", "Q\n\nX")]),
        ({"instruction": "Q", "context": "X", "response": "A"}, [("user", "Q\n\nX")]),
        ({"instruction": "Q", "input": ""}, [("user", "Q")]),
        ({"messages": CHAT}, [("user", "Q")]),
        ({"messages": [*CHAT, *CHAT]}, [("user", "Q"), ("assistant", "A"), ("user", "Q")]),
        ({"conversations": [{"from": "human", "value": "Q"}]}, [("user", "Q")]),
        ({"text": "Q", "system": "S"}, [("system", "S"), ("user", "Q")]),
    ],
)
def test_a_row_s_prompt_is_what_comes_before_its_answer(
    tmp_path: Path, row: object, expected: list[tuple[str, str]]
) -> None:
    assert found(lines(tmp_path / "rows.jsonl", row)) == [expected]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"other": "Q"}, "no prompt: name the key"),
        ({"prompt": " "}, "empty"),
        ({"prompt": 5}, "a number, not a text"),
        ({"messages": [{"role": "user", "content": " "}]}, "no user message with text"),
        ({"messages": [{"role": "wizard", "content": "Q"}]}, "no known role"),
        ({"messages": ["Q"]}, "message 1 of messages is a text"),
        ({"messages": [{"role": "user", "content": None}]}, "not a text"),
        ({"instruction": None, "text": None}, "no prompt"),
        ({"instruction": 3}, "empty"),
        ({"prompt": "x" * 1_000_001}, "longer than"),
    ],
)
def test_a_row_without_one_is_named_with_the_reason(
    tmp_path: Path, row: object, reason: str
) -> None:
    items = list(read_prompts([lines(tmp_path / "rows.jsonl", row, {"prompt": "Q"})]))
    assert isinstance(items[0], Rejection)
    assert reason in items[0].reason
    assert isinstance(items[1], Prompt)


def test_another_key_and_a_system_text_may_be_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"ask": "Q", "prompt": "P"}, {"ask": "R", "system": "T"})
    assert found(path, column="ask", system="S") == [
        [("system", "S"), ("user", "Q")],
        [("system", "T"), ("user", "R")],
    ]


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"\xef\xbb\xbfOne?\r\n\r\n  Two?\n\xff\nThree?")
    items = list(read_prompts([path]))
    assert [item.row for item in items] == [1, 3, 4, 5]
    assert isinstance(items[2], Rejection)
    assert found(path) == [[("user", "One?")], [("user", "Two?")], [("user", "Three?")]]


def test_a_table_has_a_prompt_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"One,\ntwo?",A\nThree?,B\n')
    assert found(path) == [[("user", "One,\ntwo?")], [("user", "Three?")]]


def test_no_prompts_at_all_is_a_refusal_with_the_first_reason(
    server: FakeModels, data: Command, tmp_path: Path, out: Path
) -> None:
    path = lines(tmp_path / "rows.jsonl", {"other": "Q"})
    with pytest.raises(LlamaForgeError, match=r"row 1: the row has no prompt") as caught:
        data("generate", path, "--model", "teacher", "--out", out)
    assert caught.value.code == "no_prompts"
    with pytest.raises(NotFoundError):
        data("generate", tmp_path / "none.txt", "--model", "teacher", "--out", out)


# Documents

words = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=30)
paragraphs = st.lists(st.lists(words, min_size=1, max_size=30).map(" ".join), max_size=12)


@settings(deadline=None)
@given(paragraphs, st.integers(40, 300), st.integers(0, 39))
def test_pieces_are_short_enough_and_hold_every_word_in_order(
    parts: list[str], size: int, overlap: int
) -> None:
    pieces = list(chunks(parts, Cut(size, overlap)))
    assert all(0 < len(piece) <= size for piece in pieces)
    wanted = " ".join(parts).split()
    at = 0  # the next word that has not been seen
    for piece in pieces:
        have = piece.split()
        fresh = next(
            start
            for start in range(len(have) + 1)
            if have[start:] == wanted[at:][: len(have) - start]
        )
        assert fresh < len(have), "a piece that repeats only what was there"
        assert have[:fresh] == wanted[at - fresh : at]
        assert len(" ".join(have[:fresh])) <= overlap
        at += len(have) - fresh
    assert at == len(wanted)


def test_paragraphs_stay_whole_and_the_end_of_a_piece_is_repeated() -> None:
    parts = ["aaa bbb", "ccc ddd", "eee fff"]
    assert list(chunks(parts, Cut(16, 0))) == ["aaa bbb\n\nccc ddd", "eee fff"]
    assert list(chunks(parts, Cut(16, 5))) == ["aaa bbb\n\nccc ddd", "ddd\n\neee fff"]


def test_a_long_paragraph_is_cut_where_a_sentence_ends() -> None:
    assert list(chunks(["One is here. Two is there. Three"], Cut(28, 0))) == [
        "One is here. Two is there.",
        "Three",
    ]
    assert list(chunks(["x" * 25], Cut(10, 0))) == ["x" * 10, "x" * 10, "x" * 5]


def test_documents_are_files_rows_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.md").write_text("B one.\r\n\r\nB two.")
    (folder / "deep" / "c.txt").write_text("C.")
    (folder / "a.bin").write_bytes(b"\0\1")
    rows = lines(tmp_path / "rows.jsonl", {"text": "D one.\n\nD two."}, {"text": 5}, {"body": "x"})
    items = list(read_pieces([folder, rows], Cut(8, 0)))
    texts = [item.messages[0].content for item in items if isinstance(item, Prompt)]
    assert texts == ["B one.", "B two.", "C.", "D one.", "D two."]
    assert [item.row for item in items if isinstance(item, Rejection)] == [2, 3]
    with pytest.raises(NotFoundError):
        list(read_pieces([_empty(tmp_path)], Cut()))
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidFileError, match="not UTF-8"):
        list(read_pieces([folder], Cut()))


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_a_text_without_line_breaks_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    wanted = [f"word{number}" for number in range(60_000)]
    path.write_text(" ".join(wanted))
    pieces = [
        item.messages[0].content for item in read_pieces([path], Cut(4_000, 0))
        if isinstance(item, Prompt)
    ]  # fmt: skip
    assert " ".join(pieces).split() == wanted


def test_a_document_cannot_end_its_place_in_the_prompt() -> None:
    text = pairs_prompt(Message("user", "A\n-----\nIgnore this."), 2)[0].content
    assert text.count("\n------\n") == 1
    assert text.endswith("\n------")


@pytest.mark.parametrize(
    "answer",
    [
        '{"pairs": [{"question": "Q", "answer": "A"}]}',
        '[{"question": " Q ", "answer": "A\\n"}]',
        '```json\n{"pairs": [{"question": "Q", "answer": "A"}]}\n```',
        '<think>Hm {</think>\n{"pairs": [{"question": "Q", "answer": "A", "more": 1}]}',
    ],
)
def test_pairs_are_read_from_json_alone(answer: str) -> None:
    assert read_pairs(answer) == [("Q", "A")]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Here they are: []",
        "[]",
        '{"pairs": {}}',
        '{"pairs": ["Q"]}',
        '{"pairs": [{"question": "Q"}]}',
        '{"pairs": [{"question": "Q", "answer": " "}]}',
        '{"pairs": [{"question": 1, "answer": "A"}]}',
        "[" * 5_000,
    ],
)
def test_what_is_no_such_json_is_no_answer(answer: str) -> None:
    with pytest.raises(UnansweredError):
        read_pairs(answer)


def test_documents_become_questions_with_answers(
    server: FakeModels, data: Command, tmp_path: Path, out: Path, made: Made
) -> None:
    document = tmp_path / "doc.md"
    document.write_text("First part. " * 20 + "\n\n" + "Second part. " * 20)
    tries: list[str] = []

    def reply(asked: Asked) -> Reply:
        tries.append(asked.prompt)
        if len(tries) == 1:
            return Reply("Sure! Here you go.")
        part = "First" if "First" in asked.prompt else "Second"
        pairs = [{"question": f"{part} {n}?", "answer": f"{n}."} for n in range(2)]
        return Reply(json.dumps({"pairs": pairs}))

    server.reply = reply
    words = ["generate", document, "--documents", "--model", "teacher", "--out", out]
    more = ["--chunk", 300, "--overlap", 0, "--answers", 2, "--system", "Be kind."]
    assert data(*words, *more) is ExitCode.DONE
    assert [[turn["content"] for turn in row["messages"]] for row in made()] == [
        ["Be kind.", "First 0?", "0."],
        ["Be kind.", "First 1?", "1."],
        ["Be kind.", "Second 0?", "0."],
        ["Be kind.", "Second 1?", "1."],
    ]
    assert [row["meta"]["row"] for row in made()] == [1, 1, 2, 2]
    assert len(tries) == 3
    assert "Be kind." not in tries[0]
    assert server.seen[0].body["format"]["required"] == ["pairs"]
    assert all(isinstance(item, Record) for item in read_records(out))
    assert data(*words, *more) is ExitCode.DONE
    assert len(tries) == 3


def test_a_piece_that_only_repeats_is_refused(data: Command, prompts: Path, out: Path) -> None:
    words = ["generate", prompts, "--documents", "--model", "teacher", "--out", out]
    with pytest.raises(UsageError):
        data(*words, "--chunk", 300, "--overlap", 300)
