"""What is predicted before training against what training takes: memory and time.

Usage: python benchmarks/estimate.py [--only NAME,NAME…] [--steps N]

Every configuration is a process of its own that does what the worker does: load, try, predict,
train. Rows are random tokens of random lengths; a prediction knows them as a run does.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import (
    MODEL_100M,
    MODEL_500M,
    MODEL_500M_896,
    BenchmarkModel,
    describe,
    load_now,
    model_file,
    table,
)
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs.launcher import worker_environment
from tools.random_models import Shape

_MEMORY_AIM: Final = 0.10
_TIME_AIM: Final = 0.20
_LLAMA: Final = BenchmarkModel(
    "llama-120m-q8",
    Shape("llama", 768, 12, 12, 4, 64, 2048, context=2048, tied=False),
    "Q8_0",
)
_SMALL: Final = BenchmarkModel(
    "llama-small-q6k", Shape("llama", 256, 8, 4, 2, 64, 1024, context=2048, tied=True), "Q6_K"
)


@dataclass(frozen=True)
class Configuration:
    """One training to predict."""

    name: str
    model: BenchmarkModel
    batch: int
    length: int
    rank: int = 16
    accumulation: int = 1
    checkpointing: bool = False
    dtype: str = "bfloat16"

    @property
    def settings(self) -> TrainingSettings:
        """As a run spec has them."""
        return TrainingSettings(
            per_device_train_batch_size=self.batch,
            gradient_accumulation_steps=self.accumulation,
            gradient_checkpointing=self.checkpointing,
            lora_r=self.rank,
            compute_dtype="float32" if self.dtype == "float32" else "bfloat16",
            save_steps=10_000,
            eval_steps=10_000,
        )


CONFIGURATIONS: Final = (
    Configuration("qwen2 100M", MODEL_100M, 4, 256),
    Configuration("qwen2 100M, long", MODEL_100M, 2, 1024),
    Configuration("qwen2 100M, rank 128", MODEL_100M, 8, 128, rank=128, accumulation=2),
    Configuration("llama 120M Q8_0, float32", _LLAMA, 4, 256, dtype="float32"),
    Configuration("llama 120M Q8_0", _LLAMA, 8, 384),
    Configuration("llama 8M Q6_K", _SMALL, 16, 256, accumulation=2),
    Configuration("qwen2 500M", MODEL_500M, 2, 512),
    Configuration("qwen2 500M, recomputed", MODEL_500M, 4, 512, checkpointing=True),
    Configuration("qwen2 500M, 896 wide", MODEL_500M_896, 4, 256, rank=8),
)


def arm(configuration: Configuration, steps: int) -> dict[str, Any]:
    """Do in this process what the worker does, and return its `estimate.json`."""
    import torch

    from llamaforge.data.chat import EncodedRow
    from llamaforge.gguf.header import read_header
    from llamaforge.hardware import physical_cores
    from llamaforge.recipe.estimate import RowSizes
    from llamaforge.runs import events
    from llamaforge.training.lora import attach_lora, compute_type
    from llamaforge.training.model import load_packed_model
    from llamaforge.training.objective import Supervised
    from llamaforge.training.trainer import Wishes, train
    from llamaforge.worker.estimating import Record, estimated, predicted

    torch.set_num_threads(physical_cores())
    settings = configuration.settings.model_copy(update={"max_steps": steps})
    header = read_header(model_file(configuration.model))
    packed = load_packed_model(header, compute_type(settings.compute_dtype))
    torch.manual_seed(0)
    model = attach_lora(packed, settings)
    draw = random.Random(0)
    rows = []
    step_rows = configuration.batch * configuration.accumulation
    for _ in range(max(64, steps * step_rows)):
        length = draw.randint(configuration.length // 2, configuration.length)
        ids = [draw.randrange(packed.head.weight.rows) for _ in range(length)]
        trained = [place >= length // 2 for place in range(length)]
        rows.append(EncodedRow(ids, trained, terminated=True))
    # The steps that are done see the first rows of one epoch, so these are what is predicted.
    sizes = RowSizes(
        train=tuple((len(row.ids), sum(row.trained)) for row in rows), train_rows=len(rows)
    )
    seen: list[float] = []

    def emit(event: events.Event) -> None:
        if isinstance(event, events.Step):
            seen.append(event.seconds or 0.0)

    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder, "estimate.json"))
        started = time.perf_counter(), time.process_time()
        found = estimated(packed, model, header, settings, sizes, thorough=True)
        record.predict(predicted(found))
        tried = time.perf_counter() - started[0], time.process_time() - started[1]
        started = time.perf_counter(), time.process_time()
        cut = found.fit.cut.applied(settings)
        record.begin(model.device)
        train(
            model,
            Supervised(packed.head, rows, [], cut),
            cut,
            Path(folder, "checkpoints"),
            emit=record.watched(emit),
            wishes=Wishes(stop=lambda: False, save=lambda: False),
        )
        done = time.perf_counter() - started[0], time.process_time() - started[1]
        body = record.end(model.device)
    return body | {
        "steps": seen,
        "cores": {"trial": tried[1] / tried[0], "training": done[1] / done[0]},
    }


def main() -> None:
    """Run every configuration in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="parts of names, separated by commas")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--arm", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm is not None:
        print(json.dumps(arm(CONFIGURATIONS[options.arm], options.steps)))
        return
    print(describe(["torch", "transformers", "peft"]))
    wanted = options.only.split(",") if options.only else [""]
    rows, worst_memory, worst_time = [], 0.0, 0.0
    for number, item in enumerate(CONFIGURATIONS):
        if not any(part in item.name for part in wanted):
            continue
        model_file(item.model)
        before = load_now()
        environment = os.environ | worker_environment()
        command = [sys.executable, __file__, "--arm", str(number), "--steps", str(options.steps)]
        answer = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        body = json.loads(answer.stdout.splitlines()[-1])
        expected, measured = body["predicted"], body["measured"]
        memory = expected["memory_bytes"]["total"] / measured["memory_bytes"] - 1
        seconds = expected["seconds_per_step"] / measured["seconds_per_step"] - 1
        # Processor time a step: what else the machine does falls on trial and training unequally.
        cores = body["cores"]
        fair = (1 + seconds) * cores["trial"] / cores["training"] - 1
        worst_memory, worst_time = max(worst_memory, abs(memory)), max(worst_time, abs(seconds))
        rows.append(
            [
                item.name,
                f"{item.batch} × {item.length}"
                + (f" × {item.accumulation}" * (item.accumulation > 1)),
                f"{expected['memory_bytes']['total'] / 1e6:,.0f}",
                f"{measured['memory_bytes'] / 1e6:,.0f}",
                f"{memory:+.0%}",
                f"{expected['seconds_per_step']:.2f}",
                f"{measured['seconds_per_step']:.2f}",
                f"{seconds:+.0%}",
                f"{fair:+.0%}",
                f"{expected['trial']['tokens']:,}",
                f"{expected['trial']['seconds']:.1f}",
                f"{before:.1f}",
            ]
        )
        print(json.dumps(body), file=sys.stderr)
    head = [
        "configuration", "rows", "MB", "taken", "error", "s a step", "taken", "error",
        "error, CPU time", "tokens tried", "s tried", "load",
    ]  # fmt: skip
    print(table(head, rows))
    for what, worst, aim in (
        ("memory", worst_memory, _MEMORY_AIM),
        ("time", worst_time, _TIME_AIM),
    ):
        print(f"largest error of {what}: {worst:.0%}, aim {aim:.0%}: "
              f"{'met' if worst <= aim else 'MISSED'}")  # fmt: skip


if __name__ == "__main__":
    main()
