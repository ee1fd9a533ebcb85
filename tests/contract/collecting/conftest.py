import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llamaforge.cli import data_convert, data_generate, data_pairs, data_review
from llamaforge.errors import ExitCode
from tests.contract.collecting.fake_models import FakeModels

ACTIONS: list[ModuleType] = [data_convert, data_generate, data_pairs, data_review]

Command = Callable[..., ExitCode]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModels]:
    with FakeModels() as fake:
        monkeypatch.setenv("OLLAMA_HOST", fake.url)
        yield fake


@pytest.fixture
def data() -> Command:
    """Run one of the actions as `llamaforge data ACTION …` does."""

    def command(*words: object) -> ExitCode:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        actions = parser.add_subparsers()
        for action in ACTIONS:
            action.add_parser(actions)
        arguments = parser.parse_args([str(word) for word in words])
        code: ExitCode = arguments.run(arguments)
        return code

    return command


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Question {n}?\n" for n in range(8)), encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made.jsonl"


@pytest.fixture
def made(out: Path) -> Callable[[], list[dict[str, Any]]]:
    """The rows in the file."""
    return lambda: [json.loads(line) for line in out.read_bytes().splitlines()]
