"""What passes of the model show, as lines with verdicts."""

from typing import Any

from llamaforge.wizard.draft import Draft
from llamaforge.wizard.measured import checks_of
from llamaforge.wizard.planning import Plan

DRAFT = Draft(model="m", settings={"seed": "7"})


def plan(*problems: dict[str, str], seconds: Any = (600, 1500), processes: int = 1) -> Plan:
    return Plan(
        {
            "memory_bytes": {
                "weights": 1_000_000_000,
                "adapter": 0,
                "optimizer": 400_000_000,
                "activations": 2_000_000_000,
                "logits": 0,
                "overhead": 600_000_000,
                "total": 4_000_000_000,
            },
            "processes": processes,
            "available_bytes": 8_000_000_000,
            "disk_peak_bytes": 1,
            "seconds": seconds,
            "settings": {
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 16,
                "gradient_checkpointing": True,
            },
            "largest": {"max_length": 512},
            "problems": list(problems),
        }
    )


def problem(code: str, level: str) -> dict[str, str]:
    return {"level": level, "code": code, "message": "It is so.", "fix": "Do something."}


def test_memory_and_time_are_told() -> None:
    memory, time = checks_of(plan(), DRAFT)
    parts = "activations 2.0 GB, the model 1.0 GB, the program 600 MB, the optimizer 400 MB"
    assert memory.message == f"At most 4.0 GB of 8.0 GB are taken: {parts}."
    each = checks_of(plan(processes=3), DRAFT)[0].message
    assert each == f"At most 4.0 GB of 8.0 GB are taken in each of 3 processes: {parts}."
    assert time.message == "The whole run takes 10 min 00 s to 25 min 00 s."
    assert {memory.verdict, time.verdict} == {"pass"}


def test_smaller_cuts_can_be_written_into_the_recipe() -> None:
    line = checks_of(plan(problem("fitted_to_memory", "warn")), DRAFT)[0]
    assert line.verdict == "warn"
    assert line.fix is not None
    training = (
        Draft(model="m", sources=("/r",)).with_answers(**line.fix.answers).recipe(()).training
    )
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (1, 16)
    assert training.gradient_checkpointing
    assert training.seed == 7


def test_too_long_rows_are_cut_to_what_fits() -> None:
    found = checks_of(plan(problem("no_memory", "stop"), seconds=None), DRAFT)
    assert [item.verdict for item in found] == ["fail"]
    assert found[0].fix is not None
    assert found[0].fix.answers["settings"]["max_length"] == "512"


def test_what_the_other_checks_tell_is_told_once() -> None:
    found = checks_of(plan(problem("no_disk_space", "stop")), DRAFT)
    assert [item.verdict for item in found] == ["pass", "pass"]
