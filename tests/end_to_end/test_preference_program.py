"""Training on pairs through the command line and a worker of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from tests.end_to_end.program import Program

pytestmark = pytest.mark.slow


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


def words(pairs: Path, name: str, *more: str, **settings: Any) -> list[str]:
    found = ["train", "--store", str(paths.embedded_store()), "--model", "llamaforge-demo"]
    found += ["--data", str(pairs), "--name", name, "--yes", *more]
    usual = {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "eval_steps": 6,
        "fidelity_rows": 4,
        "max_rows": 6,
        "max_new_tokens": 8,
    }
    for key, value in (usual | settings).items():
        found += ["--set", f"{key}={value}"]
    return found


def test_dpo_reports_rewards_and_what_the_served_models_prefer(
    program: Program, pairs: Path
) -> None:
    events = program.events(*words(pairs, "liked", "--method", "dpo"))
    assert events[-1]["state"] == "finished"
    steps = [event for event in events if event["type"] == "step"]
    assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert steps[0]["metrics"]["rewards/margins"] == 0.0
    evals = [event for event in events if event["type"] == "eval"]
    assert [event["step"] for event in evals] == [0, 6, 12]
    assert evals[-1]["loss"] < evals[0]["loss"]
    assert evals[-1]["metrics"]["rewards/margins"] > 0.05
    assert evals[-1]["metrics"]["rewards/accuracies"] > 0.5
    report = program.directory("liked").artifacts / "evaluation.json"
    found = json.loads(report.read_text())["preferences"]
    assert found["pairs"] == 6
    assert found["tuned"]["margin"] > found["base"]["margin"], "in llama.cpp, as it is served"
    gained = found["tuned"]["margin"] - found["base"]["margin"]
    assert found["rewards"]["margin"] == pytest.approx(0.1 * gained)
    shown = program.json("runs", "show", "liked")["metrics"]
    assert shown["rewards/accuracies"] is not None
    assert shown["preference_accuracy_tuned"] == found["tuned"]["accuracy"]
    assert "Better answers that are the likelier ones" in program.run("runs", "attach", "liked")
