"""What a run was expected to take stands beside what it took, wherever a run is shown."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from llamaforge.cli.main import main
from llamaforge.cli.picture import Picture
from llamaforge.cli.report import estimate_words
from llamaforge.files import write_json
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState

Capture = pytest.CaptureFixture[str]
PREDICTED = {
    "memory_bytes": {"weights": 1, "total": 1_100_000_000},
    "seconds_per_step": 1.5,
    "seconds": 90.0,
}
MEASURED = {"memory_bytes": 1_000_000_000, "seconds_per_step": 2.0, "seconds": 120.0, "steps": 60}


def test_both_figures_are_said_with_the_error() -> None:
    assert estimate_words({"predicted": PREDICTED, "measured": MEASURED}) == {
        "memory at most": "1.0 GB; 1.1 GB were expected (+10 %)",
        "time a step": "2 s; 1.5 s were expected (-25 %)",
        "time to train": "2 min 00 s; 1 min 30 s were expected (-25 %)",
    }


def test_before_the_end_there_is_only_what_is_expected() -> None:
    words = estimate_words({"predicted": PREDICTED, "measured": None})
    assert words["memory at most"] == "1.1 GB expected"


@pytest.mark.parametrize("body", [None, {}, [], {"predicted": 3}, {"predicted": {}}])
def test_what_is_no_estimate_says_nothing(body: Any) -> None:
    assert estimate_words(body) == {}


def test_runs_show_has_it(make_run: Callable[..., RunDirectory], capsys: Capture) -> None:
    run = make_run("one", state=RunState.STOPPED)
    write_json(run.estimate_file, {"predicted": PREDICTED, "measured": MEASURED})
    assert main(["runs", "show", "one"]) == 0
    assert "memory at most: 1.0 GB; 1.1 GB were expected (+10 %)" in capsys.readouterr().out
    assert main(["runs", "show", "one", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["estimate"]
    assert shown["predicted"]["memory_bytes"]["total"] == 1_100_000_000
    assert shown["measured"] == MEASURED


def test_of_several_phases_each_is_shown(
    make_run: Callable[..., RunDirectory], capsys: Capture
) -> None:
    run = make_run("one", state=RunState.STOPPED)
    for number in (1, 2):
        file = run.of_phase(number).estimate_file
        file.parent.mkdir(exist_ok=True)
        write_json(file, {"predicted": PREDICTED, "measured": None})
    assert main(["runs", "show", "one"]) == 0
    assert "phase 2, memory at most: 1.1 GB expected" in capsys.readouterr().out
    assert main(["runs", "show", "one", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["estimates"]) == 2


def test_who_watches_is_told_what_to_expect() -> None:
    told = events.Report(kind="predicted", figures=PREDICTED)
    line = Picture().take(told)
    assert line == "train: about 1 min 30 s and 1.1 GB of memory are expected"
    for figures in ({}, {"seconds": "x"}, {"seconds": 3.0, "memory_bytes": 4}):
        assert Picture().take(events.Report(kind="predicted", figures=figures)) is None
