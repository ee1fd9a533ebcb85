"""A file is judged by rows from all over it, in little time and memory."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from llamaforge.data.formats import detect, read_records
from llamaforge.data.sample import PLACES, SAMPLE_ROWS, sample
from tests.unit.data.row_files import Row, chat, jsonl

ALPACA: Row = {"instruction": "Q", "input": "", "output": "A"}


def test_every_row_of_a_short_file_is_looked_at_once(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"n": n} for n in range(SAMPLE_ROWS)])
    assert [row.fields for row in sample(path)] == [{"n": n} for n in range(SAMPLE_ROWS)]


def test_no_row_is_looked_at_twice_and_the_first_and_last_parts_are_seen(tmp_path: Path) -> None:
    count = SAMPLE_ROWS * 3
    path = jsonl(tmp_path / "rows.jsonl", [{"n": n, "pad": "x" * (n % 97)} for n in range(count)])
    seen = [row.fields["n"] for row in sample(path) if row.fields is not None]
    assert len(seen) == len(set(seen)) == SAMPLE_ROWS
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] > count * (PLACES - 1) // PLACES


def test_long_rows_do_not_outweigh_short_ones_at_the_end(tmp_path: Path) -> None:
    long = [chat("Q", "A" * 20_000)] * 1000
    short = [ALPACA] * 9000
    found = detect(jsonl(tmp_path / "rows.jsonl", long + short))
    assert found.ambiguous == ("alpaca", "chat")
    assert found.confidence > 0.5


def test_a_format_that_begins_late_in_a_file_is_found(tmp_path: Path) -> None:
    chats = [chat()] * 5000
    found = detect(jsonl(tmp_path / "rows.jsonl", [ALPACA] * 5000 + chats))
    assert set(found.ambiguous) == {"alpaca", "chat"}
    assert found.confidence == pytest.approx(0.5, abs=0.1)
    assert found.advice.startswith("The rows could be ")


def test_lines_longer_than_a_place_and_broken_ones_are_survived(tmp_path: Path) -> None:
    long: list[object] = [chat("Q", "A" * 3_000_000), "{broken", b"\xff"]
    rows = [*long * 4, *[chat()] * 2000]
    found = detect(jsonl(tmp_path / "rows.jsonl", rows))
    assert found.format == "chat"
    assert "not valid" in found.reason


def test_a_large_file_is_judged_at_once_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    block = "".join(json.dumps(chat(f"Question {n}?", "A" * 500)) + "\n" for n in range(1700))
    with path.open("w", encoding="utf-8") as file:
        for _ in range(64):  # about 64 MiB
            file.write(block)
    tracemalloc.start()
    begin = time.monotonic()
    found = detect(path)
    seconds = time.monotonic() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.format == "chat"
    assert found.confidence == pytest.approx(1.0)
    assert seconds < 2
    assert peak < 8 * 2**20


def test_trees_need_little_memory_however_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(1500):
            root, answer = f"r{number}", f"a{number}"
            for id_, parent, role in ((root, None, "prompter"), (answer, root, "assistant")):
                row = {"message_id": id_, "parent_id": parent, "role": role, "text": "x" * 8000}
                file.write(json.dumps(row) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1500
    assert peak < 8 * 2**20
