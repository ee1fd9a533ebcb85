"""A home of its own for each test, runs as a worker leaves them, and a store that may be spoilt."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.hardware import process_start
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    PublishChoice,
    ResolvedModel,
    RunSpec,
)
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, Status, create_run

MakeRun = Callable[..., RunDirectory]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an empty store; output 80 columns wide."""
    store = tmp_path / "empty-store"
    store.mkdir()
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "home"


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run in a state, with the events that a worker wrote."""

    def make(
        name: str = "one",
        *written: events.Event,
        state: RunState = RunState.CREATED,
        store: Path | None = None,
        model: str = "qwen2.5:3b",
        **status: Any,
    ) -> RunDirectory:
        run = create_run(name)
        RunSpec(
            run=name,
            model=ResolvedModel(
                name=model,
                store=store or tmp_path / "store",
                blob=tmp_path / "blob",
                digest="sha256:" + "0" * 64,
                architecture="qwen2",
                quantization="Q4_K_M",
                context_length=128,
            ),
            data=DataChoice(sources=[tmp_path / "rows.jsonl"]),
            training=TrainingSettings(),
            evaluation=EvaluationSettings(),
            publish=PublishChoice(),
        ).save(run.spec_file)
        if written:
            writer = events.EventWriter(run.events_file)
            for event in written:
                writer.write(event)
            writer.close()
        if state is not RunState.CREATED:
            run.write_status(Status(state=state, **status))
        return run

    return make


@pytest.fixture
def alive() -> dict[str, Any]:
    """What a state says whose worker is this very process."""
    return {"pid": os.getpid(), "pid_started": process_start(os.getpid())}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy of the store that the package carries."""
    return Path(shutil.copytree(paths.embedded_store(), tmp_path / "demo-store"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Ten rows with a question and an answer."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"What is {n}?", "completion": f"{n}."}) for n in range(10)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def figures() -> dict[str, dict[str, Any]]:
    """The report events of a finished run, by kind."""
    return {
        "data": {
            "rows": {"read": 1_200, "accepted": 1_190, "rejected": 10, "duplicates": 3},
            "train": 1_000,
            "validation": 90,
            "test": 100,
            "shortened": 0,
        },
        "fidelity": {
            "kl_mean": 0.00032,
            "kl_max": 0.01,
            "kl_base_mean": 0.0023,
            "kl_limit": 0.018,
            "loss_trained": 0.2862,
            "loss_served": 0.2897,
            "loss_base": 5.0674,
            "loss_tolerance": 0.02,
            "rows": 32,
            "tokens": 226,
            "passed": True,
            "reason": "",
        },
        "evaluation": {
            "metric": "exact_match",
            "sets": [
                {
                    "name": "held-out rows",
                    "rows": 50,
                    "base": {"exact_match": 0.02, "correct": 1},
                    "tuned": {"exact_match": 0.76, "correct": 38},
                }
            ],
            "samples": [
                {"prompt": "Q?", "expected": "A", "base": "All right.", "tuned": "A"},
            ],
        },
    }
