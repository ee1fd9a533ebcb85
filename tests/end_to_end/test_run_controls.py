"""A person pauses, saves, asks and goes on, while a real worker trains."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.program import Program
from tests.end_to_end.test_train_program import adapter_values, train_words

pytestmark = pytest.mark.slow

LONG = {"max_steps": 4000, "save_steps": 3000, "eval_steps": 3000}


def events_of(program: Program, name: str) -> list[dict[str, Any]]:
    lines = program.directory(name).events_file.read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_paused_run_keeps_its_process_and_goes_on_where_it_was(
    program: Program, rows: Path
) -> None:
    program.run(*train_words(rows, "held", **LONG), "--detach")
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
    program.wait(lambda: program.json("runs", "show", "held")["step"] > paused["step"])
    shown = program.json("runs", "show", "held")
    assert (shown["state"], shown["pid"], shown["message"]) == ("running", pid, "")
    after = [event for event in events_of(program, "held") if event["seq"] > before[-1]["seq"]]
    assert after[0]["type"] == "resumed"
    assert after[0]["seconds"] > 0
    steps = [event["step"] for event in after if event["type"] == "step"]
    assert steps[0] == paused["step"] + 1
    program.run("runs", "stop", "held")


@pytest.mark.campaign
def test_a_paused_run_that_is_killed_goes_on_to_the_very_same_adapter(
    program: Program, rows: Path
) -> None:
    program.run(*train_words(rows, "through"))
    program.run(*train_words(rows, "killed", save_steps=100), "--detach")
    program.wait_for_step("killed", 4)
    step = program.json("runs", "pause", "killed")["step"]
    program.kill("killed")
    assert program.json("runs", "show", "killed")["state"] == "lost"
    events = program.events("runs", "resume", "killed")
    first = next(event["step"] for event in events if event["type"] == "step")
    assert first == step + 1, "nothing was lost"
    assert adapter_values(program, "killed") == adapter_values(program, "through")


def test_a_pause_ends_by_a_wish_to_stop(program: Program, rows: Path) -> None:
    program.run(*train_words(rows, "held", **LONG), "--detach")
    program.wait_for_step("held", 1)
    program.run("runs", "pause", "held")
    assert "is stopped" in program.run("runs", "stop", "held")
    assert program.directory("held").process() is None
    assert not list(program.directory("held").control.iterdir()), "no wish is left behind"


def test_probe_prompts_are_answered_at_every_evaluation_beside_the_base(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("evaluation: {probe_prompts: ['What is a receipt?', 'Help me, please']}\n")
    words = train_words(rows, "asked")
    events = program.events(words[0], str(recipe), *words[1:], "--set", "probe_max_new_tokens=6")
    answers = [event for event in events if event["type"] == "sample" and event["step"]]
    prompts = ["What is a receipt?", "Help me, please"]
    assert [(event["step"], event["prompt"]) for event in answers] == [
        (step, prompt) for step in (5, 10, 12) for prompt in prompts
    ]
    for prompt in prompts:
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


def test_what_is_not_training_is_neither_saved_nor_asked(program: Program, rows: Path) -> None:
    program.run(*train_words(rows, "done", max_steps=1))
    for verb in ("pause", "save", "sample"):
        refused = program.json("runs", verb, "done", code=3)
        assert refused["error"]["code"] == "not_running"
