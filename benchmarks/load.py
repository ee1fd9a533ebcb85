"""Loading a model for training: packed blocks against transformers' `gguf_file`.

Usage: python benchmarks/load.py [--quick]

Both sides read the tokenizer, build the model, put LoRA on it and do one short forward pass, so
that nothing that was put off stays uncounted. Imports are outside the time; memory is the process'
peak, with and without what it held after its imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of both packages below

from benchmarks.common import (
    MODEL_100M,
    MODEL_500M,
    MODEL_500M_896,
    describe,
    load_now,
    mebibytes,
    model_file,
    peak_bytes,
    spread,
    table,
    verdict,
)

_TIME_AIM, _MEMORY_AIM = 10.0, 3.0
_SHORT: Final = 16
"""Tokens of the forward pass after loading."""
_SIDES: Final = {
    "ours": "llamaforge, packed",
    "bfloat16": "transformers, bfloat16",
    "float32": "transformers, float32",
}


def _ours(path: Path) -> dict[str, Any]:
    import torch

    from llamaforge.gguf.header import read_header
    from llamaforge.gguf.tokenizer import GgufTokenizer
    from llamaforge.recipe.training_settings import TrainingSettings
    from llamaforge.training.lora import attach_lora
    from llamaforge.training.model import load_packed_model
    from llamaforge.training.objective import token_loss

    def load() -> Callable[[], float]:
        header = read_header(path)
        tokenizer = GgufTokenizer(header)
        packed = load_packed_model(header, torch.bfloat16)
        model = attach_lora(packed, TrainingSettings())
        assert tokenizer.encode("one two")

        def forward() -> float:
            ids = torch.arange(_SHORT)[None]
            with torch.no_grad():
                total, count = token_loss(model, packed.head, ids, ids, torch.bfloat16)
            return float(total) / count

        return forward

    return _timed(load)


def _transformers(path: Path, dtype: str) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load() -> Callable[[], float]:
        folder, name = str(path.parent), path.name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        base = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=getattr(torch, dtype)
        )
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        assert tokenizer.encode("one two")

        def forward() -> float:
            ids = torch.arange(_SHORT)[None]
            with torch.no_grad():
                return float(model(input_ids=ids, labels=ids).loss)

        return forward

    return _timed(load)


def _timed(load: Callable[[], Callable[[], float]]) -> dict[str, Any]:
    import psutil

    imported = psutil.Process().memory_info().rss
    started = time.perf_counter()
    cpu = time.process_time()
    forward = load()
    loaded = time.perf_counter()
    cpu = time.process_time() - cpu
    loss = forward()
    return {
        "seconds": loaded - started,
        "cpu_seconds": cpu,
        "first_seconds": time.perf_counter() - started,
        "loss": loss,
        "peak_bytes": peak_bytes(),
        "imported_bytes": imported,
    }


def _in_a_process(side: str, path: Path) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, __file__, "--side", side, "--model", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
    )
    if finished.returncode != 0:
        raise SystemExit(f"{side} failed:\n{finished.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def _middle(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(float(run[key]) for run in runs)


def _compare(path: Path, rounds: int) -> str:
    """Run the sides in turns, and return the table of one model."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in _SIDES}
    load = load_now()
    for _ in range(rounds):
        for side, found in runs.items():
            found.append(_in_a_process(side, path))
    losses = {side: _middle(found, "loss") for side, found in runs.items()}
    if max(losses.values()) - min(losses.values()) > 0.05:
        raise SystemExit(f"the sides loaded different models: losses {losses}")
    ours = runs["ours"]
    rows = []
    for side, found in runs.items():
        above = [run["peak_bytes"] - run["imported_bytes"] for run in found]
        ours_above = statistics.median(run["peak_bytes"] - run["imported_bytes"] for run in ours)
        faster = _middle(found, "seconds") / _middle(ours, "seconds")
        smaller = statistics.median(above) / ours_above
        is_peer = side != "ours"
        rows.append(
            (
                _SIDES[side],
                f"{_middle(found, 'seconds'):.2f}",
                f"{_middle(found, 'cpu_seconds'):.2f}",
                f"{spread([run['seconds'] for run in found]):.0%}",
                f"{_middle(found, 'first_seconds'):.2f}",
                mebibytes(round(_middle(found, "peak_bytes"))),
                mebibytes(round(statistics.median(above))),
                f"{faster:.1f}×, {verdict(faster, _TIME_AIM)}" if is_peer else "",
                f"{smaller:.1f}×, {verdict(smaller, _MEMORY_AIM)}" if is_peer else "",
            )
        )
    head = (
        "loader",
        "s, median",
        "CPU s",
        "spread",
        "s to first loss",
        "peak MiB",
        "above imports",
        "ours is faster by",
        "and smaller by",
    )
    size = path.stat().st_size / 2**20
    note = f"{path.parent.name}, file {size:,.0f} MiB, {rounds} rounds, load before {load:.1f}"
    return f"{note}\n\n{table(head, rows)}\n"


def main() -> None:
    """Compare on every model, or be one side of one comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, the small model only")
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        measured = (
            _ours(options.model)
            if options.side == "ours"
            else _transformers(options.model, options.side)
        )
        print(json.dumps(measured))
        return
    print(describe(["torch", "transformers", "peft", "gguf", "llama_cpp_python"]), flush=True)
    models = (MODEL_100M,) if options.quick else (MODEL_100M, MODEL_500M, MODEL_500M_896)
    for model in models:
        rounds = 1 if options.quick else 3 if model is MODEL_100M else 2
        print(f"\n{_compare(model_file(model), rounds)}", flush=True)


if __name__ == "__main__":
    main()
