"""The campaign of faults in its short form: one or two seeded trials of every row."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_every_fault_has_the_outcome_that_it_must_have() -> None:
    campaign = subprocess.run(
        [sys.executable, "-m", "tools.faults", "--short", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr[-4000:]
    rows = [line for line in campaign.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 15, "thirteen rows, the head and the sum"
