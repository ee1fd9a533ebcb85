"""The demo's data: two tasks, balanced labels, and no sentence in two rows."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

import llamaforge.embedded

DATA = Path(llamaforge.embedded.__file__).parent / "data" / "memory.jsonl"
ROOT = Path(__file__).resolve().parents[3]
LABELS = {"DISCARD", "STORE", "IMPORTANT"}

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


def user(row: Row) -> str:
    return str(row["messages"][1]["content"])


def answer(row: Row) -> str:
    return str(row["messages"][2]["content"])


def sentences(text: str) -> list[str]:
    """Split at line ends and full stops, and drop who speaks, case and punctuation."""
    parts: list[str] = []
    for line in text.splitlines():
        said = re.sub(r"^\w+:\s", "", line)
        parts += [re.sub(r"\W+", " ", part).strip().lower() for part in re.split(r"[.!?]+\s", said)]
    return [part for part in parts if part]


def test_there_are_about_1500_rows_and_a_tenth_is_kept_for_the_test(rows: list[Row]) -> None:
    assert 1400 <= len(rows) <= 1600
    assert 140 <= sum(row.get("split") == "test" for row in rows) <= 160
    assert {row.get("split") for row in rows} == {"test", None}


def test_every_row_has_a_system_a_user_and_an_assistant_message(rows: list[Row]) -> None:
    for row in rows:
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert all(m["content"].strip() for m in row["messages"])


def test_both_tasks_are_balanced_and_told_apart_by_the_system_message(rows: list[Row]) -> None:
    tasks = Counter(row["meta"]["task"] for row in rows)
    assert set(tasks) == {"grade", "extract"}
    assert abs(tasks["grade"] - tasks["extract"]) <= len(rows) // 20
    systems = defaultdict(set)
    for row in rows:
        systems[row["meta"]["task"]].add(row["messages"][0]["content"])
    assert not systems["grade"] & systems["extract"]


@pytest.mark.parametrize("split", [None, "test"])
def test_grades_are_balanced(rows: list[Row], split: str | None) -> None:
    found = [r for r in rows if r["meta"]["task"] == "grade" and r.get("split") == split]
    labels = Counter(answer(row) for row in found)
    assert set(labels) == LABELS
    assert max(labels.values()) - min(labels.values()) <= len(found) // 20


def test_extracted_facts_are_compact_json_found_in_the_message(rows: list[Row]) -> None:
    for row in rows:
        if row["meta"]["task"] == "extract":
            facts = json.loads(answer(row))
            assert json.dumps(facts, ensure_ascii=False, separators=(",", ":")) == answer(row)
            opinion = facts.pop("opinion", "likes")
            assert opinion in {"likes", "dislikes"}
            assert all(value.lower() in user(row).lower() for value in facts.values())


def test_no_sentence_is_in_two_rows(rows: list[Row]) -> None:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        for sentence in sentences(user(row)):
            assert sentence not in seen, f"rows {seen.get(sentence)} and {number}: {sentence}"
            seen[sentence] = number


def test_no_template_of_the_test_rows_is_used_elsewhere(rows: list[Row]) -> None:
    kept = {row["meta"]["template"] for row in rows if row.get("split") == "test"}
    others = {row["meta"]["template"] for row in rows if row.get("split") is None}
    assert kept
    assert not kept & others


def test_the_script_makes_the_same_bytes_again(tmp_path: Path) -> None:
    again = tmp_path / "memory.jsonl"
    command = [sys.executable, "-m", "tools.make_demo_data", "--out", str(again)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert again.read_bytes() == DATA.read_bytes()
