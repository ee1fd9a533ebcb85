"""Run directories for tests: real specs, real events with made-up times, real states."""

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

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

ARTIFACTS = [
    {"kind": "adapter", "path": "/runs/tickets/artifacts/adapter.gguf", "sha256": "a" * 64},
    {"kind": "modelfile", "path": "/runs/tickets/artifacts/Modelfile", "sha256": "b" * 64},
]


class RunBuilder:
    """A run that is being written; every event is half a second after the one before."""

    def __init__(
        self,
        name: str,
        model: str = "qwen2.5:3b",
        publish: str | None = None,
        questions: Sequence[str] = (),
    ) -> None:
        self.run: RunDirectory = create_run(name)
        self._seq = 0
        self._t = 0.0
        RunSpec(
            run=name,
            created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
            model=ResolvedModel(
                name=model,
                store=Path("/models"),
                blob=Path("/models/blobs/sha256-0"),
                digest="sha256:0",
                architecture="qwen2",
                quantization="Q4_K_M",
                context_length=32768,
            ),
            data=DataChoice(sources=[Path("rows.jsonl")]),
            training=TrainingSettings(),
            evaluation=EvaluationSettings(probe_prompts=list(questions)),
            publish=PublishChoice(name=publish),
        ).save(self.run.spec_file)

    def write(self, *written: events.Event, seconds: float = 0.5) -> None:
        with self.run.events_file.open("a", encoding="utf-8") as file:
            for event in written:
                self._seq += 1
                self._t += seconds
                file.write(replace(event, seq=self._seq, t=self._t, wall=0.0).to_json() + "\n")

    def state(self, state: RunState, *, alive: bool = True, **more: object) -> None:
        """Write `state.json`; the process behind it is the test's own, or none."""
        process = psutil.Process()
        status = Status(
            state=state,
            pid=os.getpid(),
            pid_started=process_start(process.pid) if alive else 1.0,
            host=socket.gethostname(),
        )
        self.run.write_status(replace(status, **more))  # type: ignore[arg-type]

    def begin(self) -> None:
        rows = {"read": 1000, "accepted": 980, "rejected": 8, "duplicates": 12}
        figures = {"rows": rows, "train": 880, "validation": 50, "test": 50, "shortened": 3}
        self.write(
            events.Started(run=self.run.id, pid=4242, model="qwen2.5:3b"),
            events.Stage(name="prepare", state="started"),
            events.Report(kind="data", figures=figures),
            events.Stage(name="prepare", state="finished", seconds=1.0),
            events.Stage(name="train", state="started"),
        )

    def train(self, steps: int, *, first: int = 1, total: int = 200) -> None:
        for number in range(first, first + steps):
            self.write(step(number, total))
            if number % 50 == 0:
                self.write(
                    events.Eval(step=number, loss=round(0.3 + 90 / (number + 30), 6), rows=50),
                    events.Checkpoint(step=number, path=f"/runs/x/checkpoint-{number}"),
                )

    def end_well(self) -> None:
        self.write(events.Stage(name="train", state="finished", seconds=93.0))
        for name in ("export", "verify", "evaluate"):
            self.write(events.Stage(name=name, state="started"))
            if name == "verify":
                self.write(events.Report(kind="fidelity", figures=FIDELITY))
            if name == "evaluate":
                for question, right, wrong in SAMPLES:
                    sample = events.Sample(prompt=question, expected=right, base=wrong, tuned=right)
                    self.write(sample)
                self.write(events.Report(kind="evaluation", figures=EVALUATION))
            self.write(events.Stage(name=name, state="finished", seconds=2.0))
        self.write(events.Stage(name="publish", state="skipped"))
        self.write(events.Finished(run=self.run.id, state="finished", artifacts=ARTIFACTS))


FIDELITY = {
    "kl_mean": 0.00031,
    "kl_limit": 0.0021,
    "loss_trained": 0.5121,
    "loss_served": 0.5124,
    "loss_base": 3.2201,
    "rows": 32,
    "tokens": 512,
    "passed": True,
    "reason": "",
}
EVALUATION = {
    "metric": "exact_match",
    "sets": [
        {
            "name": "held-out rows",
            "rows": 50,
            "base": {"exact_match": 0.04, "correct": 2},
            "tuned": {"exact_match": 0.96, "correct": 48},
        },
        {
            "name": "rows from templates never trained on",
            "rows": 40,
            "base": {"exact_match": 0.0, "correct": 0},
            "tuned": {"exact_match": 0.825, "correct": 33},
        },
    ],
}
SAMPLES = [
    ("Which team takes a lost card?", "cards", "I am sorry to hear that you lost your card."),
    ("Which team takes a wrong invoice?", "billing", "An invoice is a document."),
]


def step(number: int, total: int = 200) -> events.Step:
    """Return a step whose loss falls with some regular noise."""
    noise = 0.35 * (((number * 7919) % 13) / 13 - 0.5)
    return events.Step(
        step=number,
        total=total,
        loss=round(max(0.25 + 100 / (number + 30) + noise, 0.01), 6),
        learning_rate=2e-4 * (1 - number / (total + 1)),
        tokens_per_second=1234.5,
        memory_bytes=2_340_000_000,
        epoch=round(3 * number / total, 4),
        grad_norm=1.0,
        eta_seconds=(total - number) * 0.5,
    )
