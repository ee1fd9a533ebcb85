"""`plan`: the real program says what a run would take, and `train` then does what was said."""

from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from tests.end_to_end.program import Program
from tests.end_to_end.training import BRIEF, with_settings

pytestmark = pytest.mark.slow


def words(rows: Path) -> list[str]:
    store = str(paths.embedded_store())
    return ["--model", "llamaforge-demo", "--store", store, "--data", str(rows)]


def planned(program: Program, rows: Path, *more: str, code: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = program.json("plan", *words(rows), *more, code=code)
    return body


def test_a_plan_has_every_part_and_makes_no_run(program: Program, rows: Path) -> None:
    body = planned(program, rows)
    parts = dict(body["memory_bytes"])
    total = parts.pop("total")
    assert set(parts) == {
        "weights", "adapter", "optimizer", "activations", "logits", "overhead"
    }  # fmt: skip
    assert total == sum(parts.values())
    assert all(part > 0 for part in parts.values())
    assert body["available_bytes"] > total
    low, high = body["seconds"]
    assert 0 < low < high
    assert body["settings"]["effective_batch_size"] == 16
    assert body["problems"] == []
    assert body["largest"]["per_device_train_batch_size"] == 16
    assert not (program.home / "runs").exists()


def test_what_does_not_fit_is_said_with_what_does(program: Program, rows: Path) -> None:
    program.environment["LLAMAFORGE_MEMORY_BYTES"] = "1000000"
    body = planned(program, rows, code=3)
    (problem,) = body["problems"]
    assert (problem["level"], problem["code"]) == ("stop", "no_memory")
    assert problem["message"].endswith(".")
    assert problem["fix"]
    assert body["seconds"] is None


def test_a_run_does_what_was_planned_and_keeps_both_figures(program: Program, rows: Path) -> None:
    steps = with_settings([], BRIEF | {"max_steps": 3})
    body = planned(program, rows, *steps)
    program.run("train", *words(rows), *steps, "--name", "one", "--json")
    estimate = program.json("runs", "show", "one")["estimate"]
    for key in ("per_device_train_batch_size", "gradient_checkpointing"):
        assert estimate["predicted"]["settings"][key] == body["settings"][key]
    assert estimate["predicted"]["steps"] == estimate["measured"]["steps"] == 3
    taken = estimate["measured"]["memory_bytes"]
    assert estimate["predicted"]["memory_bytes"]["total"] == pytest.approx(taken, rel=0.25)
    assert body["memory_bytes"]["total"] == pytest.approx(taken, rel=0.35)
