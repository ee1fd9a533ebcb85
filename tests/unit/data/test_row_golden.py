"""Small files of every format, plain, odd and malformed: what they are taken for, the counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llamaforge.data.formats import detect, read_records
from llamaforge.data.quality import count
from llamaforge.data.records import Record, Rejection
from tests.unit.data.row_files import Row, chat, jsonl

QA: list[Row] = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHARED: list[Row] = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
CALL: Row = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
IMAGE: Row = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
PAIR: Row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
OPENAI_PAIR: Row = {
    "input": {"messages": QA[:1]},
    "preferred_output": QA[1:],
    "non_preferred_output": [{"role": "assistant", "content": "B"}],
}
Outcome = tuple[int, int, int]
"""Accepted, repaired and rejected rows."""


def node(id_: str, parent: str | None, role: str, **fields: Any) -> Row:
    return {"message_id": id_, "parent_id": parent, "role": role, "text": f"Text {id_}"} | fields


TREE = [
    node("a", None, "prompter"),
    node("b", "a", "assistant", rank=1),
    node("c", "a", "assistant", rank=0),
    node("d", "c", "prompter"),
]


@dataclass(frozen=True)
class Golden:
    """A file, and what has to be found in it."""

    name: str
    rows: Sequence[object]
    format: str
    sft: Outcome
    pairs: Outcome
    confidence: float = 1.0
    ambiguous: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)


def golden(
    name: str,
    rows: Sequence[object],
    format_: str,
    sft: Outcome,
    pairs: Outcome | None = None,
    **more: Any,
) -> Golden:
    """Return a file of which no row is a pair unless `pairs` says otherwise."""
    return Golden(name, rows, format_, sft, pairs or (0, 0, sum(sft)), **more)


FILES = [
    # OpenAI chat and OpenPipe
    golden("chat", [chat(), chat("Another?")], "chat", (2, 0, 0)),
    golden("openpipe", [{"messages": QA, "tools": [], "split": "TEST"}], "chat", (1, 0, 0)),
    golden(
        "openpipe-calls", [chat(), {"messages": [QA[0], CALL]}, chat(tools=[{}])], "chat", (1, 0, 2)
    ),
    golden("chat-weights", [{"messages": [*QA, QA[0], QA[1] | {"weight": 0}]}], "chat", (1, 0, 0)),
    golden(
        "chat-odd",
        [chat(" Q", "A\n"), {"messages": [QA[1], *QA]}, {"messages": [*QA, QA[0]]}],
        "chat",
        (0, 3, 0),
    ),
    golden("chat-in-cells", [{"messages": json.dumps(QA)}, chat()], "chat", (1, 1, 0)),
    golden(
        "chat-malformed",
        [chat(), {"messages": None}, {"messages": 7}, "{", b"\xff"],
        "chat",
        (1, 0, 4),
        confidence=0.2,
    ),
    # parts
    golden(
        "parts",
        [{"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, QA[1]]}],
        "chat",
        (1, 0, 0),
    ),
    golden(
        "parts-image",
        [chat(), {"messages": [{"role": "user", "content": ["Q", IMAGE]}, QA[1]]}],
        "chat",
        (1, 0, 1),
    ),
    golden(
        "parts-image-dropped",
        [{"messages": [{"role": "user", "content": ["Q", IMAGE]}, QA[1]]}],
        "chat",
        (0, 1, 0),
        choices={"images": "drop"},
    ),
    golden(
        "parts-image-only",
        [{"messages": [{"role": "user", "content": [IMAGE]}, QA[1]]}],
        "chat",
        (0, 0, 1),
        choices={"images": "drop"},
    ),
    # ShareGPT
    golden("sharegpt", [{"conversations": SHARED}, {"conversations": QA}], "sharegpt", (2, 0, 0)),
    golden("sharegpt-odd", [{"conversations": [SHARED[1], *SHARED]}], "sharegpt", (0, 1, 0)),
    golden(
        "sharegpt-malformed",
        [{"conversations": SHARED}, {"conversations": [{"from": "ai", "value": "A"}]}],
        "sharegpt",
        (1, 0, 1),
    ),
    # Alpaca
    golden("alpaca", [{"instruction": "Q", "input": "", "output": "A"}] * 2, "alpaca", (2, 0, 0)),
    golden(
        "alpaca-rendered",
        [{"instruction": "Q", "input": "X", "output": "A", "text": "### Instruction:"}],
        "alpaca",
        (1, 0, 0),
    ),
    golden(
        "alpaca-history",
        [{"instruction": "Q", "output": "A", "history": [["Q", "A"]], "system": "S"}],
        "alpaca",
        (1, 0, 0),
    ),
    golden(
        "alpaca-malformed",
        [{"instruction": 1, "output": "A"}, {"instruction": "Q", "output": "A", "history": [[1]]}],
        "alpaca",
        (0, 0, 2),
        confidence=0.5,
    ),
    # Dolly
    golden(
        "dolly",
        [{"instruction": "Q", "context": "", "response": "A", "category": "qa"}],
        "dolly",
        (1, 0, 0),
    ),
    golden("dolly-odd", [{"instruction": "Q", "response": "A\n\n"}], "dolly", (0, 1, 0)),
    golden(
        "dolly-malformed",
        [{"instruction": "Q", "context": [], "response": "A"}],
        "dolly",
        (0, 0, 1),
    ),
    golden(
        "alpaca-or-dolly",
        [{"instruction": "Q", "output": "A", "response": "B"}],
        "alpaca",
        (1, 0, 0),
        confidence=0.5,
        ambiguous=("alpaca", "dolly"),
    ),
    # OASST
    golden("oasst", TREE, "oasst", (1, 0, 0), (1, 0, 0)),
    golden(
        "oasst-shuffled",
        [*TREE[::-1], node("e", None, "prompter"), node("f", "e", "assistant")],
        "oasst",
        (2, 0, 0),
        (1, 0, 1),
    ),
    golden(
        "oasst-malformed",
        [*TREE, TREE[1], node("x", "gone", "assistant"), node("y", "y", "prompter")],
        "oasst",
        (1, 0, 3),
        (1, 0, 3),
    ),
    golden(
        "oasst-nested",
        [
            {
                "prompt": {
                    "text": "Q",
                    "role": "prompter",
                    "replies": [
                        {"text": "B", "role": "assistant", "rank": 1, "replies": []},
                        {"text": "A", "role": "assistant", "rank": 0},
                    ],
                }
            },
            {"prompt": {"text": "Q", "role": "prompter", "replies": [7]}},
        ],
        "oasst",
        (1, 0, 1),
        (1, 0, 1),
    ),
    # prompt and completion
    golden("completion", [{"prompt": "Q", "completion": "A"}], "prompt_completion", (1, 0, 0)),
    golden(
        "completion-messages",
        [{"prompt": QA[:1], "completion": QA[1:]}],
        "prompt_completion",
        (1, 0, 0),
    ),
    golden(
        "completion-odd",
        [{"prompt": "Q:\n", "completion": " A"}, {"prompt": "Q", "completion": "    return 1"}],
        "prompt_completion",
        (1, 1, 0),
    ),
    golden(
        "completion-malformed",
        [{"prompt": "Q", "completion": 1}, {"prompt": "", "completion": "A"}],
        "prompt_completion",
        (0, 0, 2),
        confidence=0.5,
    ),
    golden(
        "completion-or-labelled",
        [{"prompt": "Q", "completion": "A", "label": 1}],
        "prompt_completion",
        (1, 0, 0),
        confidence=0.5,
        ambiguous=("prompt_completion", "unpaired_preference"),
    ),
    # preference pairs
    golden("pairs", [PAIR, PAIR], "preference", (0, 0, 2), (2, 0, 0)),
    golden(
        "pairs-chosen",
        [PAIR],
        "preference",
        (1, 0, 0),
        (1, 0, 0),
        choices={"preference": "chosen"},
    ),
    golden(
        "pairs-implicit",
        [{"chosen": QA, "rejected": [QA[0], {"role": "assistant", "content": "B"}]}],
        "preference",
        (0, 0, 1),
        (1, 0, 0),
    ),
    golden(
        "pairs-openpipe",
        [{"messages": QA, "rejected_message": {"role": "assistant", "content": "B"}}],
        "preference",
        (0, 0, 1),
        (1, 0, 0),
    ),
    golden("pairs-openai", [OPENAI_PAIR], "preference", (0, 0, 1), (1, 0, 0)),
    golden(
        "pairs-odd",
        [PAIR | {"chosen": "A "}, {"chosen": "Sky is blue", "rejected": "Sky is green"}],
        "preference",
        (0, 0, 2),
        (0, 2, 0),
    ),
    golden(
        "pairs-malformed",
        [PAIR | {"rejected": "A"}, PAIR | {"chosen": ""}, PAIR | {"prompt": 7}, PAIR],
        "preference",
        (0, 0, 4),
        (1, 0, 3),
    ),
    golden(
        "pairs-or-completion",
        [PAIR | {"completion": "A"}],
        "preference",
        (0, 0, 1),
        (1, 0, 0),
        confidence=0.5,
        ambiguous=("preference", "prompt_completion"),
    ),
    # labelled answers
    golden(
        "labelled",
        [{"prompt": "Q", "completion": "A", "label": True}] * 2,
        "unpaired_preference",
        (0, 0, 2),
    ),
    golden(
        "labelled-in-cells",
        [{"prompt": "Q", "completion": "A", "label": "False"}],
        "unpaired_preference",
        (0, 0, 1),
    ),
    golden("labelled-chat", [{"messages": QA, "label": False}], "unpaired_preference", (0, 0, 1)),
    # question and answer
    golden("questions", [{"question": "Q", "answer": "A"}], "question_answer", (1, 0, 0)),
    golden(
        "questions-odd",
        [{"q": "Q", "a": "A", "answer": None}, {"query": "\ufeffQ", "response": "A"}],
        "question_answer",
        (1, 1, 0),
    ),
    golden(
        "questions-malformed",
        [{"user": "Q", "assistant": ["A"]}, {"user": "Q"}],
        "question_answer",
        (0, 0, 2),
        confidence=0.0,
    ),
    golden(
        "two-questions",
        [{"question": "Q", "answer": "A", "user": "U", "assistant": "B"}],
        "question_answer",
        (1, 0, 0),
        confidence=0.5,
        ambiguous=("question_answer (question, answer)", "question_answer (user, assistant)"),
    ),
    # what is not trained on
    golden("text", [{"text": "A story."}], "text", (0, 0, 1)),
    golden("tokenized", [{"input_ids": [1], "labels": [1]}], "tokenized", (0, 0, 1)),
    golden(
        "tokenized-beside",
        [{"prompt": "Q", "completion": "A", "input_ids": [1]}],
        "prompt_completion",
        (1, 0, 0),
    ),
    golden("unknown", [{"ask": "Q", "reply": "A"}], "unknown", (0, 0, 1), confidence=0.0),
    golden("unknown-empty", [{}], "unknown", (0, 0, 1), confidence=0.0),
    golden("no-object", ["7", "oops"], "unknown", (0, 0, 2), confidence=0.0),
    # several formats
    golden(
        "mixed",
        [chat(), chat(), {"conversations": SHARED}],
        "chat",
        (3, 0, 0),
        confidence=2 / 3,
        ambiguous=("chat", "sharegpt"),
    ),
    golden("a-stray", [chat()] * 19 + [PAIR], "chat", (19, 0, 1), (1, 0, 19), confidence=0.95),
    golden(
        "columns-of-all",
        [
            {"messages": QA, "prompt": None, "completion": None},
            {"messages": None, "prompt": "Q", "completion": "A"},
        ],
        "chat",
        (2, 0, 0),
        confidence=0.5,
        ambiguous=("chat", "prompt_completion"),
    ),
]


def outcome(items: list[Record | Rejection]) -> Outcome:
    records = [item for item in items if isinstance(item, Record)]
    rejected = [item for item in items if isinstance(item, Rejection)]
    assert all(row.reason.isprintable() for row in rejected)
    counts = count(len(items), records, rejected)
    return counts.accepted, counts.repaired, counts.rejected


def test_there_are_enough_files_and_each_has_its_own_name() -> None:
    assert len({file.name for file in FILES}) == len(FILES) >= 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_are_what_they_are_taken_for_and_counts_add_up(tmp_path: Path, file: Golden) -> None:
    path = jsonl(tmp_path / f"{file.name}.jsonl", file.rows)
    found = detect(path)
    assert (found.format, found.ambiguous) == (file.format, file.ambiguous)
    assert found.confidence == pytest.approx(file.confidence)
    assert bool(found.advice) == bool(file.ambiguous or (file.format == "unknown" and found.keys))
    assert "--map" in found.advice or not found.advice
    assert outcome(list(read_records(path, **file.choices))) == file.sft
    assert outcome(list(read_records(path, want="preference"))) == file.pairs
    # An array of the same rows says the same, where all of them are JSON.
    if not any(isinstance(row, str | bytes) for row in file.rows):
        path = path.with_suffix(".json")
        path.write_text(json.dumps(list(file.rows)), encoding="utf-8")
        assert (detect(path).format, detect(path).ambiguous) == (file.format, file.ambiguous)
        assert outcome(list(read_records(path, **file.choices))) == file.sft


def test_each_is_read_as_what_it_is_where_any_will_do(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [chat(), PAIR, *TREE, {"text": "t"}])
    items = list(read_records(path, want="any"))
    assert outcome(items) == (3, 0, 1)
    assert [bool(item.chosen) for item in items if isinstance(item, Record)] == [False, True, False]
