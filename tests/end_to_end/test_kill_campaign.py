"""The worker killed again and again, at times nobody chose: the adapter stays the same.

A campaign of N trials without a failure bounds the rate of failures at about 3/N.
"""

import os
import random
import time
from pathlib import Path

import pytest

from llamaforge.runs.directory import RunState
from tests.end_to_end.program import Program
from tests.end_to_end.training import adapter_values, train_words

pytestmark = pytest.mark.campaign

TRIALS = int(os.environ.get("LLAMAFORGE_TRIALS", "20"))
KILLS = 3
LONGEST_SECONDS = 12.0


def test_a_run_killed_at_random_ends_as_if_nothing_had_been(program: Program, rows: Path) -> None:
    program.run(*train_words(rows, "through"))
    expected = adapter_values(program, "through")
    for trial in range(TRIALS):
        chance = random.Random(trial)
        name = f"trial-{trial}"
        program.run(*train_words(rows, name), "--detach")
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, LONGEST_SECONDS))
            if program.directory(name).process() is None:
                break
            program.kill(name)
            program.run("runs", "resume", name, "--detach")
        program.wait_until_over(name)
        if program.directory(name).read_status().state is not RunState.FINISHED:
            program.run("runs", "resume", name)
        assert adapter_values(program, name) == expected, f"trial {trial}"
