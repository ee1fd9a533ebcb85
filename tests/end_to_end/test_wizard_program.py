"""`llamaforge wizard`: from answers to a recipe that `train` runs unchanged."""

import shutil
from pathlib import Path

import pytest

from llamaforge import paths
from tests.end_to_end.program import Program
from tests.end_to_end.training import BRIEF, with_settings

pytestmark = pytest.mark.slow

STORE = ["--store", str(paths.embedded_store())]


def test_answers_on_the_command_line_make_a_recipe_that_trains(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    store = shutil.copytree(paths.embedded_store(), tmp_path / "store")  # no demo is told of
    words = ["wizard", "--store", str(store), "--model", "llamaforge-demo", "--data", str(rows)]
    words += ["--goal", "extract", "--preset", "quick", "--name", "mine", "--recipe", str(recipe)]
    words = with_settings(words, BRIEF | {"max_steps": 2})
    printed = program.run(*words)
    assert f"llamaforge train {recipe}" in printed
    assert "rank" in recipe.read_text()
    program.run(*words, code=2)  # the recipe is there already

    training = program.start("train", str(recipe), "--yes")
    report, told = training.communicate(timeout=120)
    assert training.returncode == 0, told
    assert "Passed: llama.cpp serves what was trained" in report
    assert "llamaforge publish mine --name llamaforge-demo-tuned" in report
    assert "train 2/2 steps" in told
    shown = program.json("runs", "show", "mine")
    assert (shown["state"], shown["step"], shown["total"]) == ("finished", 2, 2)
    assert {item["kind"] for item in shown["artifacts"]} >= {"adapter", "modelfile", "verify"}
    assert program.json("verify", "mine")["passed"] is True
    program.run("runs", "resume", "mine", code=3)


@pytest.mark.parametrize(
    ("missing", "flag"), [("model", "--model"), ("data", "--data"), ("goal", "")]
)
def test_without_a_terminal_a_missing_answer_names_its_option(
    program: Program, rows: Path, tmp_path: Path, missing: str, flag: str
) -> None:
    given = {"model": ["llamaforge-demo"], "data": [str(rows)], "goal": ["style"]}
    words = ["wizard", *STORE, "--recipe", str(tmp_path / "r.yaml")]
    for key, values in given.items():
        words += [f"--{key}", *values] if key != missing else []
    process = program.start(*words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (2 if flag else 0), errors  # a goal has a sensible default
    assert flag in errors
    assert (tmp_path / "r.yaml").exists() is (not flag)


def test_rows_that_cannot_be_trained_on_are_refused_before_anything_is_written(
    program: Program, tmp_path: Path
) -> None:
    bad = tmp_path / "rows.jsonl"
    bad.write_text('{"prompt": "a"}\n' * 30)
    recipe = tmp_path / "r.yaml"
    words = ["wizard", *STORE, "--model", "llamaforge-demo", "--data", str(bad), "--recipe"]
    process = program.start(*words, str(recipe))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--map" in errors, "columns are not guessed where nobody looks at them"
    bad.write_text('{"prompt": "a", "completion": ""}\n' * 30)
    program.run(*words, str(recipe), code=3)
    assert not recipe.exists()


def test_all_missing_answers_are_named_at_once(program: Program) -> None:
    process = program.start("wizard", *STORE, "--goal", "prompt")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert all(flag in errors for flag in ("--model", "--data", "--system"))


def test_the_way_without_training_ends_with_a_modelfile(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "Modelfile"
    words = ["wizard", *STORE, "--model", "llamaforge-demo", "--data", str(rows)]
    words += ["--goal", "prompt", "--system", "Be brief.", "--publish", "brief"]
    printed = program.run(*words, "--recipe", str(target))
    text = target.read_text()
    assert 'SYSTEM "Be brief."' in text
    assert text.count("MESSAGE user") == 4
    assert f"ollama create brief:latest -f {target}" in printed
