"""A run says which words of the assistant its template keeps from being learned."""

from types import SimpleNamespace
from typing import Any

import pytest

from llamaforge.data.encoding import Preference, encode_splits
from llamaforge.data.records import Message, Record
from llamaforge.worker import prepare
from tests.unit.chat.test_tool_masks import ASK, DROPS_WORDS, FOUND, OFFER, REPLY, TAGS, call
from tests.unit.chat.test_trained_tokens import renderer

SPOKEN = call("Bonn", content="I look, with the key sk-ant-api03-x9aB3dE5fG7hI9jK1lM2nO4pQ6.")
SILENT = call("Bonn")


def record(row: int, answer: Message) -> Record:
    return Record(str(row), "tools.jsonl", row, (OFFER, ASK, answer, FOUND, REPLY))


def pair(row: int) -> Record:
    worse = call("Ulm", content="I look.")
    return Record(str(row), "pairs.jsonl", row, (OFFER, ASK), chosen=(SILENT,), rejected=(worse,))


def told(template: str, rows: list[Record], preference: Preference = "refuse") -> list[str]:
    """Return what a run on `rows` warns of."""
    chat, _ = renderer(template)
    encoded = encode_splits(
        {"train": rows, "validation": [], "test": []}, chat, 4_096, preference=preference
    )
    assert not encoded.rejected
    said: list[str] = []
    job: Any = SimpleNamespace(warn=lambda code, message: said.append(f"{code}: {message}"))
    prepare._warn_of_unlearned_words(job, encoded)
    return said


def test_words_beside_a_call_are_counted_and_one_row_is_shown_masked() -> None:
    (said,) = told(DROPS_WORDS, [record(1, SILENT), record(2, SPOKEN), record(3, SPOKEN)])
    assert said.startswith("unlearned_words: In 2 of 3 rows")
    assert "beside a call of a tool" in said
    assert "tools.jsonl row 2, “I look, with the key sk…" in said
    assert "9aB3" not in said


@pytest.mark.parametrize("template", [TAGS, DROPS_WORDS])
def test_nothing_is_told_where_all_words_are_learned(template: str) -> None:
    assert told(template, [record(1, SPOKEN if template == TAGS else SILENT)]) == []


def test_both_answers_of_a_pair_are_looked_at() -> None:
    (said,) = told(DROPS_WORDS, [pair(4)], preference="pairs")
    assert said.startswith("unlearned_words: In 1 of 1 row ")
