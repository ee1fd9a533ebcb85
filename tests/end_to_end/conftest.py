"""A home of its own for each test, and rows to train on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.runs.control import end_now
from llamaforge.runs.directory import list_runs
from tests.end_to_end.program import Program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    home = tmp_path / "home"
    monkeypatch.setenv("LLAMAFORGE_HOME", str(home))
    yield Program(home)
    for run in list_runs():
        end_now(run)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The demo's first rows with some that are for testing."""
    lines = paths.embedded_data().read_text().splitlines()
    chosen = [line for line in lines if '"split"' not in line][:60]
    chosen += [line for line in lines if '"split": "test"' in line][:6]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(chosen) + "\n")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The demo's first rows, each with an answer of another row as the worse one."""
    rows = [json.loads(line) for line in paths.embedded_data().read_text().splitlines()[:120]]
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as file:
        for row, other in zip(rows, [*rows[7:], *rows[:7]], strict=True):
            *prompt, chosen = row["messages"]
            rejected = other["messages"][-1]
            if chosen["content"] != rejected["content"]:
                body = {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}
                file.write(json.dumps(body) + "\n")
    return path
