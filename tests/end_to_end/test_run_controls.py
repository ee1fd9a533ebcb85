"""A person pauses, saves, asks and goes on, while a real worker trains."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from llamaforge.runs.directory import RunState
from tests.end_to_end.conftest import PROMPTS
from tests.end_to_end.finished import FinishedRun
from tests.end_to_end.program import Program
from tests.end_to_end.training import EXACT, adapter_values, train_words

pytestmark = pytest.mark.slow

LONG = {"max_steps": 4000, "save_steps": 3000, "eval_steps": 3000}


def events_of(program: Program, name: str) -> list[dict[str, Any]]:
    lines = program.directory(name).events_file.read_text().splitlines()
    return [json.loads(line) for line in lines]


def saved_steps(program: Program, name: str) -> list[int]:
    """Return the steps of the checkpoints that are there, but the best one."""
    return sorted(
        int(path.name[-6:]) for path in program.directory(name).checkpoints.glob("step-*")
    )


def test_a_run_outlives_its_terminal_and_is_saved_stopped_and_resumed(
    program: Program, rows: Path
) -> None:
    # Ctrl-C once: what was learned is saved, and no worker is left behind.
    directory = program.directory("night")
    training = program.start(*train_words(rows, "night", **LONG))
    program.wait_for_step("night", 3)
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    assert directory.process() is None, "no worker is left behind"
    shown = program.json("runs", "show", "night")
    assert shown["state"] == "stopped"
    assert 3 <= shown["step"] < 4000
    assert saved_steps(program, "night") == [shown["step"]]

    # A terminal that closes leaves the worker running.
    watching = program.start("runs", "resume", "night")
    program.wait_beyond("night", shown["step"])
    watching.send_signal(signal.SIGHUP)
    watching.communicate(timeout=120)
    before = program.json("runs", "show", "night")
    assert before["state"] == "running"
    program.wait_beyond("night", before["step"])

    # A run has one worker, which a wish stops.
    program.run("runs", "resume", "night", code=3)
    program.run("runs", "stop", "night")
    stopped = program.json("runs", "show", "night")
    assert (stopped["state"], directory.process()) == ("stopped", None)
    assert saved_steps(program, "night")[-1] == stopped["step"] > before["step"]


def test_a_paused_run_keeps_its_process_and_goes_on_where_it_was(
    program: Program, rows: Path
) -> None:
    training = program.start(*train_words(rows, "held", **LONG))
    program.wait_for_step("held", 2)
    pid = program.json("runs", "show", "held")["pid"]
    paused = program.json("runs", "pause", "held")
    shown = program.json("runs", "show", "held")
    assert (shown["state"], shown["pid"], shown["step"]) == ("paused", pid, paused["step"])
    assert program.json("runs", "pause", "held", code=3)["error"]["code"] == "run_paused"
    saved = [event["step"] for event in events_of(program, "held") if event["type"] == "checkpoint"]
    assert saved == [paused["step"]], "a pause loses nothing, whatever ends it"

    # Wishes that let training go on are fulfilled during a pause as well.
    [answer] = program.json("runs", "sample", "held", "Where does my invoice go?")
    assert answer["step"] == paused["step"]
    assert program.json("runs", "save", "held")["step"] == paused["step"]
    before = events_of(program, "held")
    assert before[-1]["type"] == "checkpoint"

    program.run("runs", "resume", "held", "--detach")
    program.wait_beyond("held", paused["step"])
    shown = program.json("runs", "show", "held")
    assert (shown["state"], shown["pid"], shown["message"]) == ("running", pid, "")
    after = [event for event in events_of(program, "held") if event["seq"] > before[-1]["seq"]]
    assert after[0]["type"] == "resumed"
    assert after[0]["seconds"] > 0
    steps = [event["step"] for event in after if event["type"] == "step"]
    assert steps[0] == paused["step"] + 1

    # A pause ends by a wish to stop.
    program.run("runs", "pause", "held")
    assert "is stopped" in program.run("runs", "stop", "held")
    assert program.directory("held").process() is None
    assert not list(program.directory("held").control.iterdir()), "no wish is left behind"
    training.communicate(timeout=120)
    assert training.returncode == 130

    # Ctrl-C twice: the worker is ended at once.
    step = program.json("runs", "show", "held")["step"]
    resumed = program.start("runs", "resume", "held")
    program.wait_beyond("held", step)
    resumed.send_signal(signal.SIGINT)
    asked = program.directory("held").control / "stop"
    program.wait(lambda: asked.exists() or program.directory("held").process() is None)
    resumed.send_signal(signal.SIGINT)
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 130, errors
    assert program.directory("held").process() is None, "no worker is left behind"
    assert program.directory("held").read_status().state in {RunState.STOPPED, RunState.LOST}


@pytest.mark.campaign
def test_a_paused_run_that_is_killed_goes_on_to_the_very_same_adapter(
    program: Program, rows: Path, finished: FinishedRun
) -> None:
    program.run(*train_words(rows, "killed", **EXACT, save_steps=100), "--detach")
    program.wait_for_step("killed", 4)
    step = program.json("runs", "pause", "killed")["step"]
    program.kill("killed")
    assert program.json("runs", "show", "killed")["state"] == "lost"
    events = program.events("runs", "resume", "killed")
    first = next(event["step"] for event in events if event["type"] == "step")
    assert first == step + 1, "nothing was lost"
    assert adapter_values(program, "killed") == adapter_values(finished.program, "whole")


def test_probe_prompts_are_answered_at_every_evaluation_beside_the_base(
    finished: FinishedRun,
) -> None:
    answers = [event for event in finished.events if event["type"] == "sample" and event["step"]]
    assert [(event["step"], event["prompt"]) for event in answers] == [
        (step, prompt) for step in (5, 10, 12) for prompt in PROMPTS
    ]
    for prompt in PROMPTS:
        said = {event["base"] for event in answers if event["prompt"] == prompt}
        assert len(said) == 1, "the base never changes"
    last = answers[-1]
    assert last["base"] != last["tuned"], "training changes answers"


def test_a_prompt_without_room_for_an_answer_is_refused_before_training(
    program: Program, rows: Path
) -> None:
    words = [*train_words(rows, "long"), "--set", f"probe_prompts=[{'word ' * 1500}]"]
    events = program.events(*words, code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "probe_prompt"
    assert not any(event["type"] == "step" for event in events)


def test_what_is_not_training_is_neither_saved_nor_asked(finished: FinishedRun) -> None:
    for verb in ("pause", "save", "sample"):
        refused = finished.program.json("runs", verb, "whole", code=3)
        assert refused["error"]["code"] == "not_running"
