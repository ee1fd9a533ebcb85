"""Training on the CPU against TRL's SFTTrainer with its defaults: tokens a second, peak memory.

Usage: python benchmarks/train_cpu.py [--model 100m|500m] [--epochs N]

Beside it, the peer as one sets it up who knows the machine: float32 throughout, and no activations
worked out twice. All train the same adapter on the same model and rows with the same batch and
learning rate, rows of mixed lengths whose second half is the answer. They take turns, a step each,
and all go through all rows the same number of times, so that they have read the same tokens. The
first epoch, in which kernels are compiled, does not count.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import (
    MODEL_100M,
    MODEL_500M,
    describe,
    load_now,
    mebibytes,
    model_file,
    table,
    verdict,
)
from benchmarks.lora_step import ARMS, Side, measure, start
from benchmarks.step_arms import MIXED_ROWS, mixed_rows
from llamaforge.gguf.header import read_header

_BATCH, _LONGEST = 4, 512
_OURS, _PEER, _TUNED_PEER = "trainer:16", "trl:32", "trl-plain:32"
_SPEED_AIM: Final = 1.7
_MODELS: Final = {"100m": MODEL_100M, "500m": MODEL_500M}


def main() -> None:
    """Train both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(_MODELS), default="100m")
    parser.add_argument("--epochs", type=int, default=2, help="that count")
    options = parser.parse_args()
    path = model_file(_MODELS[options.model])
    print(describe(["torch", "transformers", "peft", "trl"]))
    before = load_now()
    sides = [
        start(ARMS[key], path, "--batch", str(_BATCH), "--length", str(_LONGEST), "--mixed")
        for key in (_OURS, _PEER, _TUNED_PEER)
    ]
    steps = MIXED_ROWS // _BATCH
    measure(sides, warm_up=steps, rounds=options.epochs * steps)
    vocabulary = read_header(path).tensors["token_embd.weight"].rows
    lengths = [len(row.ids) for row in mixed_rows(vocabulary, _LONGEST)]
    tokens = options.epochs * sum(lengths)
    print(
        f"{_MODELS[options.model].name}, batch {_BATCH}, {MIXED_ROWS} rows of {min(lengths)} to "
        f"{max(lengths)} tokens (median {statistics.median(lengths):.0f}), {options.epochs} "
        f"epochs, load {before:.1f} to {load_now():.1f}"
    )
    rows = [
        [
            side.arm.words,
            f"{sum(side.seconds):.1f}",
            f"{sum(side.cpu_seconds):.1f}",
            f"{tokens / sum(side.seconds):,.0f}",
            mebibytes(side.peak_bytes),
            mebibytes(side.peak_bytes - side.imported_bytes),
        ]
        for side in sides
    ]
    print(table(["trainer", "s", "CPU s", "tokens/s", "peak MiB", "above imports"], rows))
    ours, *peers = sides
    for peer in peers:
        print(f"against {peer.arm.words}: {compared(ours, peer)}")


def compared(ours: Side, peer: Side) -> str:
    """Return how many times faster and smaller ours is."""
    speed = sum(peer.seconds) / sum(ours.seconds)
    cpu = sum(peer.cpu_seconds) / sum(ours.cpu_seconds)
    memory = peer.peak_bytes / ours.peak_bytes
    return (
        f"faster by {speed:.2f}× ({verdict(speed, _SPEED_AIM)}), by processor time {cpu:.2f}×; "
        f"peak memory {memory:.2f}× smaller ({verdict(memory, 1.0)})"
    )


if __name__ == "__main__":
    main()
