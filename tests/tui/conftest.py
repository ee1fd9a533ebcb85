"""A home of its own for every test, and runs in the states that screens must show."""

from pathlib import Path

import pytest

from llamaforge.runs import events
from llamaforge.runs.directory import RunState
from tests.tui.run_builder import RunBuilder


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("LLAMAFORGE_HOME", str(home))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "nothing"))
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_THEME", "LLAMAFORGE_THEME"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def running() -> RunBuilder:
    builder = RunBuilder("tickets")
    builder.begin()
    builder.train(120)
    builder.write(events.Warn(code="long_rows", message="3 rows were shortened."))
    builder.state(RunState.RUNNING, stage="train", step=120, total=200)
    return builder


@pytest.fixture
def finished() -> RunBuilder:
    builder = RunBuilder("tickets")
    builder.begin()
    builder.train(200)
    builder.end_well()
    builder.state(RunState.FINISHED, stage="evaluate", step=200, total=200)
    return builder
