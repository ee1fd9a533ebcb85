"""The campaign of faults: `make faults`, or `python -m tools.faults --help`.

Each trial has its own seed: what fails once can be made to fail again by `--row N --seed S`.
"""

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in the worker's own environment

import torch
import transformers

import llamaforge.training.trainer
import llamaforge.worker.__main__
from tools import fault_hub, fault_trials
from tools.fault_bench import Bench
from tools.fault_trials import Row, SkippedError, explain

ROWS: Final = (
    Row(
        1,
        "kill -9 at random times",
        "resumed bit for bit, steps since the last save lost",
        fault_trials.killed,
        40,
        2,
    ),
    Row(
        2,
        "kill at an operation of a save",
        "a whole checkpoint is left, bit for bit",
        fault_trials.killed_while_saving,
        40,
        2,
    ),
    Row(
        3,
        "watcher killed, terminal closed",
        "worker unaffected, no event lost or doubled",
        fault_trials.watcher_killed,
        12,
    ),
    Row(
        4,
        "SIGTERM and Ctrl-C, once and twice",
        "saved and stopped within 30 s, nothing left running",
        fault_trials.asked_to_stop,
        20,
    ),
    Row(
        5,
        "disk full at a stage",
        "waits and says the bytes, goes on once there is room",
        fault_trials.disk_full,
        16,
    ),
    Row(
        6,
        "no memory left from some step on",
        "classified, smaller batches, resumable",
        fault_trials.out_of_memory,
        14,
    ),
    Row(
        7, "bit flipped, file cut", "named, passed over, never trained on", fault_trials.flipped, 20
    ),
    Row(8, "rows change during a run", "the run reads its own", fault_trials.rows_change, 10),
    Row(9, "clock jumps a day", "durations and order stay right", fault_trials.clock_jumps, 10),
    Row(
        10,
        "twenty starts at once",
        "one has the run, the others are told who",
        fault_trials.started_at_once,
        4,
    ),
    Row(
        14,
        "Hub refuses, breaks off, is away",
        "words of its own, nothing damaged, gone on from",
        fault_hub.hub_fails,
        20,
    ),
    Row(
        17,
        "loss is no number",
        "stops at once, last finite checkpoint kept, no export",
        fault_trials.diverges,
        10,
    ),
    Row(
        18,
        "worker hangs (SIGSTOP)",
        "told, can be ended, resumed bit for bit",
        fault_trials.hangs,
        12,
    ),
)


@dataclass
class Outcome:
    """What came of one row's trials."""

    row: Row
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0


def campaign(rows: list[Row], *, short: bool, seed: int, only: int | None = None) -> list[Outcome]:
    """Try each row as often as it says; `only` is the number of the one trial that is wanted."""
    home = Path(tempfile.mkdtemp(prefix="llamaforge-faults-"))
    before = dict(os.environ)
    try:
        bench = Bench(home)
        bench.measure()
        return [
            _outcome(bench, row, row.short if short else row.trials, seed, only) for row in rows
        ]
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


def _outcome(bench: Bench, row: Row, trials: int, seed: int, only: int | None) -> Outcome:
    outcome = Outcome(row)
    started = time.monotonic()
    for number in range(trials) if only is None else [only]:
        try:
            row.trial(bench, random.Random(f"{seed}:{row.number}:{number}"))
        except SkippedError as reason:
            outcome.skipped = str(reason)
            break
        except Exception as error:
            outcome.failures.append(f"row {row.number}, trial {number}: {explain(error)}")
            print(outcome.failures[-1], file=sys.stderr, flush=True)
        outcome.trials += 1
        shutil.rmtree(bench.home / "runs", ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    print(f"row {row.number}: {outcome.trials} trials, {len(outcome.failures)} failures, "
          f"{outcome.seconds:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """Return the trials and failures as a table of Markdown."""
    lines = ["| # | fault | must hold | trials | failures |", "|---|---|---|---|---|"]
    for item in outcomes:
        failures = item.skipped or str(len(item.failures))
        row = item.row
        lines.append(f"| {row.number} | {row.fault} | {row.must} | {item.trials} | {failures} |")
    trials = sum(item.trials for item in outcomes)
    failed = sum(len(item.failures) for item in outcomes)
    lines.append(f"| | | all | {trials} | {failed} |")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", type=int, action="append", help="only this row of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=int, help="only the trial of this number")
    parser.add_argument("--short", action="store_true", help="one or two trials a row")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.row or row.number in options.row]
    outcomes = campaign(rows, short=options.short, seed=options.seed, only=options.trial)
    names = ("torch", "transformers", "peft", "accelerate")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {versions}, "
          f"seed {options.seed}\n")  # fmt: skip
    print(table(outcomes))
    for item in outcomes:
        for failure in item.failures:
            print(f"\n- {failure}")
    return 1 if any(item.failures for item in outcomes) else 0


_LOADED: Final = (torch, transformers, llamaforge)  # forks begin with them

if __name__ == "__main__":
    raise SystemExit(main())
