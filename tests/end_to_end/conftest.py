"""A home of its own for each test, and rows to train on."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.runs.control import end_now
from llamaforge.runs.directory import list_runs
from tests.conftest import live_in
from tests.end_to_end.finished import FinishedRun, made_once
from tests.end_to_end.program import Program
from tests.end_to_end.training import EXACT, train_words


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    home = tmp_path / "home"
    monkeypatch.setenv("LLAMAFORGE_HOME", str(home))
    yield Program(home)
    for run in list_runs():
        end_now(run)


@pytest.fixture(scope="session")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes of a test session find what is made once for them."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


PROMPTS = ["What is a receipt?", "Help me, please"]
"""What the run `whole` is asked at every evaluation."""


@pytest.fixture(scope="session")
def finished(kept_folder: Path) -> FinishedRun:
    """The run `whole`, which nobody may change; tests that do take a copy."""
    folder = kept_folder / "whole"
    with pytest.MonkeyPatch.context() as patch:
        live_in(folder, patch)
        program = Program(folder / "home")
        asked = {"probe_prompts": json.dumps(PROMPTS), "probe_max_new_tokens": 6}
        settings = EXACT | asked
        events = made_once(
            folder, lambda: program.events(*train_words(write_rows(folder), "whole", **settings))
        )
    return FinishedRun(program, "whole", folder / "rows.jsonl", events)


def write_rows(folder: Path) -> Path:
    """Write the demo's first rows with some that are for testing."""
    lines = paths.embedded_data().read_text().splitlines()
    chosen = [line for line in lines if '"split"' not in line][:60]
    chosen += [line for line in lines if '"split": "test"' in line][:6]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(chosen) + "\n")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Some rows, a few of them for testing."""
    return write_rows(tmp_path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Some pairs of answers."""
    return write_pairs(tmp_path)


def write_pairs(folder: Path) -> Path:
    """Write the demo's first rows, each with an answer of another row as the worse one."""
    rows = [json.loads(line) for line in paths.embedded_data().read_text().splitlines()[:120]]
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for row, other in zip(rows, [*rows[7:], *rows[:7]], strict=True):
            *prompt, chosen = row["messages"]
            rejected = other["messages"][-1]
            if chosen["content"] != rejected["content"]:
                body = {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}
                file.write(json.dumps(body) + "\n")
    return path
