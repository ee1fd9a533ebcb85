"""A LoRA step on the CPU: packed blocks against dense weights, plain PEFT and TRL's trainer.

Usage: python benchmarks/lora_step.py [--quick] [--model 100m|500m] [--arms NAME,NAME…]

Every arm is a process of its own, with the same model, adapter, rows and optimizer; the arms take
turns, a step each, so that what else the machine does falls on all of them alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import (
    MODEL_100M,
    MODEL_500M,
    describe,
    load_now,
    mebibytes,
    model_file,
    spread,
    table,
    verdict,
)

_BATCH, _LENGTH = 4, 256
_MODELS: Final = {"100m": MODEL_100M, "500m": MODEL_500M}
_LOSS_TOLERANCE: Final = 5e-3
"""How far the first losses of arms on the same rows may lie apart, in nats: bfloat16's rounding."""


@dataclass(frozen=True)
class Arm:
    """One side of the comparison, as `step_arms.py` knows it."""

    key: str
    dtype: str
    words: str
    same_rows: bool = True
    """Whether its first step sees the first rows; trainers shuffle."""


ARMS: Final = {
    arm.key + (":16" if arm.dtype == "bfloat16" else ":32"): arm
    for arm in (
        Arm("packed", "bfloat16", "packed Q4_K_M, bfloat16"),
        Arm("dense", "bfloat16", "dense, bfloat16"),
        Arm("peft", "bfloat16", "transformers + PEFT, bfloat16"),
        Arm("packed", "float32", "packed Q4_K_M, float32"),
        Arm("dense", "float32", "dense, float32"),
        Arm("peft", "float32", "transformers + PEFT, float32"),
        Arm("trainer", "bfloat16", "llamaforge's trainer, bfloat16", same_rows=False),
        Arm("trl", "float32", "TRL SFTTrainer as it comes", same_rows=False),
        Arm("trl-float32", "float32", "TRL SFTTrainer, float32", same_rows=False),
        Arm("trl-plain", "float32", "TRL, float32, no checkpointing", same_rows=False),
    )
}
_RATIOS: Final[Sequence[tuple[str, str, float | None]]] = (
    ("packed:16", "dense:16", 0.9),
    ("packed:32", "dense:32", 0.9),
    ("packed:16", "peft:16", None),
    ("packed:32", "peft:32", None),
    ("trainer:16", "trl-float32:32", 1.7),
    ("trainer:16", "trl-plain:32", None),
    ("trainer:16", "trl:32", None),
)


@dataclass
class Side:
    """A running arm and what it measured."""

    arm: Arm
    process: "subprocess.Popen[str]"
    log: IO[str]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    first_loss: float = 0.0
    peak_bytes: int = 0
    imported_bytes: int = 0

    def ask(self, word: str) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            RuntimeError: the process ended instead.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.log.seek(0)
            said = self.log.read()[-2000:]
            raise RuntimeError(f"the arm {self.arm.words} ended with {status}:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def start(arm: Arm, model: Path, *more: str) -> Side:
    """Start an arm, with `more` of its own options, and wait until its model is loaded."""
    script = Path(__file__).with_name("step_arms.py")
    command = [sys.executable, str(script), arm.key, arm.dtype, str(model)]
    command += ["--batch", str(_BATCH), "--length", str(_LENGTH), *more]
    # Threads that wait by spinning lose whole time slices on a machine that others use too.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )
    side = Side(arm, process, log)
    side.answer()
    return side


def measure(sides: Sequence[Side], warm_up: int, rounds: int) -> None:
    """Let the sides take turns, a step each; the first `warm_up` rounds do not count."""
    for number in range(warm_up + rounds):
        for side in sides:
            times = psutil.Process(side.process.pid).cpu_times()
            side.ask("step")
            answer = side.answer()
            after = psutil.Process(side.process.pid).cpu_times()
            if number == 0:
                side.first_loss = answer["loss"]
            if number >= warm_up:
                side.seconds.append(answer["seconds"])
                side.cpu_seconds.append(after.user + after.system - times.user - times.system)
    for side in sides:
        side.ask("end")
        answer = side.answer()
        side.peak_bytes, side.imported_bytes = answer["peak_bytes"], answer["imported_bytes"]
        side.process.wait()


def check_losses(sides: Sequence[Side]) -> None:
    """Refuse to compare arms that do not compute the same thing."""
    losses = {side.arm: side.first_loss for side in sides if side.arm.same_rows}
    for arm, loss in losses.items():
        apart = abs(loss - next(iter(losses.values())))
        if apart > _LOSS_TOLERANCE:
            raise SystemExit(f"{arm.words}: its first loss is {apart:.4f} nats off; not compared")


def report(sides: dict[str, Side], rounds: int, load: float) -> str:
    """Return the tables."""
    tokens = _BATCH * _LENGTH
    rows = []
    for side in sides.values():
        middle = statistics.median(side.seconds)
        rows.append(
            (
                side.arm.words,
                f"{middle:.2f}",
                f"{min(side.seconds):.2f}",
                f"{statistics.median(side.cpu_seconds):.2f}",
                f"{spread(side.seconds):.0%}",
                f"{tokens / middle:,.0f}",
                mebibytes(side.peak_bytes),
                mebibytes(side.peak_bytes - side.imported_bytes),
                f"{side.first_loss:.4f}",
            )
        )
    head = (
        "arm",
        "s, median",
        "s, best",
        "CPU s",
        "spread",
        "tokens/s",
        "peak MiB",
        "above imports",
        "first loss",
    )
    ratios = []
    for ours, peer, aim in _RATIOS:
        if ours not in sides or peer not in sides:
            continue
        one, other = sides[ours], sides[peer]
        # Each round's pair was measured seconds apart: the median of their ratios is steadier
        # than the ratio of medians.
        pairs = [b / a for a, b in zip(one.seconds, other.seconds, strict=True)]
        speed = statistics.median(pairs)
        work = statistics.median(other.cpu_seconds) / statistics.median(one.cpu_seconds)
        ratios.append(
            (
                f"{one.arm.words} : {other.arm.words}",
                f"{speed:.2f}",
                f"{min(other.seconds) / min(one.seconds):.2f}",
                f"{work:.2f}",
                "" if aim is None else verdict(round(speed, 2), aim),
            )
        )
    ratio_head = ("speed against", "ratio", "of best", "of CPU time", "aim")
    note = f"batch {_BATCH} × {_LENGTH}, {rounds} rounds, load {load:.1f} to {load_now():.1f}"
    return f"{note}\n\n{table(head, rows)}\n\n{table(ratio_head, ratios)}"


def main() -> None:
    """Measure the arms and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--model", choices=list(_MODELS), default="100m")
    options = parser.parse_args()
    chosen = [ARMS[key] for key in options.arms.split(",")]
    model = model_file(_MODELS[options.model])
    load = load_now()
    print(describe(["torch", "transformers", "peft", "trl", "llama_cpp_python"]))
    sides: dict[str, Side] = {}
    try:
        for key, arm in zip(options.arms.split(","), chosen, strict=True):
            sides[key] = start(arm, model)
        warm_up, rounds = (1, 3) if options.quick else (2, 7)
        measure(list(sides.values()), warm_up, rounds)
    finally:
        for side in sides.values():
            side.process.terminate()
    check_losses(list(sides.values()))
    print(f"{model.parent.name}, {report(sides, rounds, load)}")


if __name__ == "__main__":
    main()
