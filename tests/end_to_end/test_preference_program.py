"""Training on pairs through the command line and a worker of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llamaforge import paths
from tests.end_to_end.finished import FinishedRun
from tests.end_to_end.program import Program
from tests.end_to_end.training import SETTINGS, adapter_values, with_settings

pytestmark = pytest.mark.slow


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
        "max_new_tokens": 2,
    }
    return with_settings(found, usual | settings)


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


def test_pairs_are_checked_frozen_and_trained_on(program: Program, pairs: Path) -> None:
    store = str(paths.embedded_store())
    check = ("data", "check", str(pairs), "--model", "llamaforge-demo", "--store", store)
    refused = program.json(*check, code=2)
    assert "--method dpo" in json.dumps(refused)
    found = program.json(*check, "--preference", "pairs", "--keep")
    assert [item["format"] for item in found["sources"]] == ["preference"]
    assert found["tokens"]["max"] > 0
    snapshot = f"snapshot:{found['snapshot'][:12]}"
    program.run(*words(Path(snapshot), "kept", "--method", "orpo", max_steps=2, max_rows=2))
    report = program.directory("kept").artifacts / "evaluation.json"
    assert json.loads(report.read_text())["preferences"]["pairs"] == 2
    program.run(*words(Path(snapshot), "wrong", max_steps=2), code=3)
    events = program.directory("wrong").events_file.read_text()
    assert "it is a preference pair" in events


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """The demo's first rows, as conversations."""
    path = tmp_path / "answers.jsonl"
    lines = paths.embedded_data().read_text().splitlines()
    path.write_text("\n".join(lines[:60]) + "\n")
    return path


def two_phases(folder: Path, answers: Path, pairs: Path) -> Path:
    usual = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "save_steps": 2,
        "eval_steps": 4,
    }
    body = {
        "model": {"name": "llamaforge-demo", "store": str(paths.embedded_store())},
        "data": {"sources": [answers.name]},
        "training": usual | {"max_steps": 4, "lora_r": 4},
        "then": [
            {
                # Divided otherwise, so that what one phase holds out the other knows.
                "data": {"sources": [pairs.name], "split_seed": 5},
                "training": usual | {"method": "dpo", "max_steps": 6},
            }
        ],
        "evaluation": {"fidelity_rows": 2, "max_rows": 2, "max_new_tokens": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def test_two_phases_are_one_run_that_survives_its_worker(
    program: Program, answers: Path, pairs: Path, tmp_path: Path
) -> None:
    recipe = str(two_phases(tmp_path, answers, pairs))
    events = program.events("train", recipe, "--name", "through", "--yes")
    finished = [e["name"] for e in events if e["type"] == "stage" and e["state"] == "finished"]
    phases = ["prepare", "train", "prepare 2", "train 2"]
    assert finished == [*phases, "export", "verify", "evaluate"]
    steps = [(e["step"], e["total"]) for e in events if e["type"] == "step"]
    assert steps == [(n, 4) for n in range(1, 5)] + [(n, 10) for n in range(5, 11)]
    losses = [e["loss"] for e in events if e["type"] == "step"]
    assert losses[4] == pytest.approx(0.693147, abs=1e-5), "its reference is the first phase"
    codes = [e["code"] for e in events if e["type"] == "warning"]
    assert "known_prompts" in codes, "both phases know the same questions"

    program.run("train", recipe, "--name", "killed", "--yes", "--detach")
    program.wait_for_step("killed", 7)
    program.kill("killed")
    assert program.json("runs", "show", "killed")["state"] == "lost"
    program.run("runs", "resume", "killed")
    numbers = [json.loads(line)["seq"] for line in program.directory("killed").events_file.open()]
    assert numbers == list(range(1, len(numbers) + 1))
    shown = program.json("runs", "show", "killed")
    assert (shown["state"], shown["step"], shown["total"]) == ("finished", 10, 10)
    assert adapter_values(program, "killed") == adapter_values(program, "through")


def test_a_run_goes_on_from_the_adapter_of_another(
    finished: FinishedRun, program: Program, pairs: Path
) -> None:
    finished.copy_to(program)
    program.run(
        *("train", "--continue", "whole", "--data", str(pairs), "--method", "dpo"),
        *("--name", "second", "--yes", "--set", "max_steps=3", "--set", "max_rows=2"),
        *("--set", "learning_rate=1e-9", "--set", "max_new_tokens=2"),
    )
    spec = yaml.safe_load(program.directory("second").spec_file.read_text())
    assert spec["model"]["name"] == "llamaforge-demo"
    assert (spec["training"]["lora_r"], spec["start"]["run"]) == (SETTINGS["lora_r"], "whole")
    first, second = adapter_values(program, "whole"), adapter_values(program, "second")
    assert first.keys() == second.keys()
    for name, data in first.items():
        was, now = (np.frombuffer(part, np.float32) for part in (data, second[name]))
        assert np.allclose(was, now, atol=1e-6), "nothing was learned at this rate"

    refusal = program.json(
        *("train", "--continue", "whole", "--data", str(pairs), "--method", "dpo"),
        *("--yes", "--set", "lora_r=4"),
        code=2,
    )
    assert refusal["error"]["code"] == "other_adapter"
    run = program.directory("second")
    run.start_file.write_bytes(run.start_file.read_bytes()[:-1] + b"x")
    (run.checkpoints / "finished.json").unlink()
    worker = [sys.executable, "-m", "llamaforge.worker", str(run.path)]
    assert subprocess.run(worker, env=program.environment, check=False).returncode == 3
    assert "bad_start" in run.events_file.read_text()
