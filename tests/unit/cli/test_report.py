"""The report of a finished run, and `verify`: figures in words, 80 columns, nothing obeyed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.cli.main import main
from llamaforge.cli.report import print_report
from llamaforge.files import sha256_of
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState

Capture = pytest.CaptureFixture[str]
MakeRun = Callable[..., RunDirectory]
Figures = dict[str, dict[str, Any]]
HOSTILE = "\x1b[2J\x9b31m\u202e\x07[red]\r" + "word " * 200


def reports(figures: Figures) -> list[events.Event]:
    return [events.Report(kind=kind, figures=body) for kind, body in figures.items()]


def reported(
    make_run: MakeRun, figures: Figures, capsys: Capture, name: str = "one", **more: Any
) -> str:
    run = make_run(name, *reports(figures), state=RunState.FINISHED, **more)
    print_report(run)
    return capsys.readouterr().out


def test_the_report_has_rows_scores_the_proof_and_the_next_command(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    shown = reported(make_run, figures, capsys)
    words = " ".join(shown.split())
    assert "1,200 read, 1,190 used: 1,000 to train on, 90 to validate, 100 to test." in words
    assert "10 cannot be used." in words
    assert "shortened" not in words
    assert "held-out rows 50 2 % 76 %" in words
    assert "asked Q? expected A before All right. after A" in words
    assert "Passed: llama.cpp serves what was trained, measured on 32 rows (226 tokens)." in words
    assert "0.00032 nats a token (KL), at most 0.018 is allowed; without the adapter" in words
    assert "0.2862 as trained, 0.2897 as served, 5.0674 for the model before" in words
    assert shown.endswith("llamaforge publish one --name qwen2.5-tuned\n")
    assert max(map(len, shown.splitlines())) <= 80


def test_figures_from_outside_cannot_command_the_terminal_or_break_the_tables(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    one = {"prompt": HOSTILE, "expected": HOSTILE, "base": "", "tuned": HOSTILE}
    figures["evaluation"]["samples"] = [one] * 5
    figures["evaluation"]["sets"][0]["name"] = HOSTILE
    figures["fidelity"] |= {"passed": False, "reason": HOSTILE}
    shown = reported(make_run, figures, capsys, model="a/" + HOSTILE)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "\\x1b[2J\\x9b31m\\u202e\\x07[red]" in shown
    *body, command = shown.splitlines()
    assert max(map(len, body)) <= 80
    assert command.startswith("llamaforge publish one --name ")
    assert "Sample 3" in shown
    assert "Sample 4" not in shown
    assert "(nothing)" in shown


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"data": {}, "fidelity": {}, "evaluation": {}, "published": {}},
        {"data": {"rows": 5}, "fidelity": {"kl_mean": "x"}, "evaluation": {"sets": [3]}},
        {"evaluation": {"sets": [], "samples": []}, "future": {"x": 1}},
        {"fidelity": {"kl_mean": None, "passed": False}},
    ],
)
def test_figures_that_are_missing_or_strange_are_passed_over(
    figures: Figures, make_run: MakeRun, capsys: Capture
) -> None:
    shown = reported(make_run, figures, capsys)
    assert shown.startswith("The run one on qwen2.5:3b is finished.")
    assert "llamaforge publish one" in shown


def test_the_newest_figures_of_a_resumed_run_count(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    older = {"fidelity": figures["fidelity"] | {"rows": 7}}
    run = make_run("one", *reports(older), *reports(figures), state=RunState.FINISHED)
    print_report(run)
    shown = capsys.readouterr().out
    assert "on 32 rows" in shown
    assert "on 7 rows" not in shown


def test_artifacts_are_named_with_paths_that_can_be_copied(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    run = make_run("n" * 60, *reports(figures), state=RunState.FINISHED)
    adapter = run.artifacts / "adapter.gguf"
    adapter.write_bytes(b"GGUF")
    listed = [
        {"kind": "adapter", "path": str(adapter), "sha256": "0"},
        {"kind": "verify", "path": str(run.artifacts / "gone.json"), "sha256": "0"},
    ]
    (run.artifacts / "artifacts.json").write_text(json.dumps(listed))
    print_report(run)
    shown = capsys.readouterr().out
    assert f"adapter: {adapter}\n" in shown
    assert "gone.json" not in shown


def test_after_the_demo_the_next_model_is_ones_own(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    shown = reported(make_run, figures, capsys, store=paths.embedded_store())
    assert "llamaforge train --model qwen2.5:3b --data rows.jsonl\n" in shown
    assert shown.endswith("llamaforge publish latest --name my-model\n")


def test_after_the_demo_a_model_of_ones_own_store_is_named(
    make_run: MakeRun, figures: Figures, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    store: Any,
) -> None:  # fmt: skip
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    shown = reported(make_run, figures, capsys, store=paths.embedded_store())
    assert "llamaforge train --model llamaforge-demo:latest --data rows.jsonl\n" in shown


def test_a_published_run_says_how_to_talk_to_it(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    published = figures | {"published": {"name": "mine:v1", "digest": "0"}}
    assert reported(make_run, published, capsys).endswith("\nollama run mine:v1\n")


def test_runs_show_prints_the_report_of_a_finished_run(
    make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    report = reported(make_run, figures, capsys)
    assert main(["runs", "show", "one"]) == 0
    assert capsys.readouterr().out == report


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_verify_prints_the_proof_and_says_by_its_exit_code_whether_it_passed(
    passed: bool, code: int, make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    run = make_run("one", state=RunState.FINISHED)
    figures["fidelity"] |= {"passed": passed, "reason": "" if passed else "it differs"}
    (run.artifacts / "verify.json").write_text(json.dumps(figures["fidelity"]))
    assert main(["verify", "one", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == figures["fidelity"]
    assert main(["verify", "one"]) == code
    shown = " ".join(capsys.readouterr().out.split())
    assert ("Passed: llama.cpp serves" in shown) is passed
    assert ("Not passed on 32 rows (226 tokens): it differs." in shown) is not passed


@pytest.mark.parametrize("name", ["adapter.gguf", "verify.json"])
def test_a_proof_is_not_shown_of_a_file_that_changed_since(
    name: str, make_run: MakeRun, figures: Figures, capsys: Capture
) -> None:
    run = make_run("one", state=RunState.FINISHED)
    (run.artifacts / "verify.json").write_text(json.dumps(figures["fidelity"]))
    (run.artifacts / "adapter.gguf").write_text("adapter")
    for kind, path in (("adapter", "adapter.gguf"), ("verify", "verify.json")):
        run.list_artifact(kind, run.artifacts / path, sha256_of(run.artifacts / path))
    assert main(["verify", "one"]) == 0
    with (run.artifacts / name).open("a") as file:
        file.write(" ")
    assert main(["verify", "one"]) == 3
    assert f"{name} changed after it was proven: its sha256 is" in capsys.readouterr().err


def test_a_run_without_a_proof_is_not_verified(make_run: MakeRun, capsys: Capture) -> None:
    make_run("one", state=RunState.STOPPED)
    assert main(["verify", "one", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not_verified"
    assert "llamaforge runs resume one" in error["hint"]


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"passed": "perhaps"}', "\udcff"])
def test_a_proof_that_is_damaged_is_not_believed(
    text: str, make_run: MakeRun, capsys: Capture
) -> None:
    run = make_run("one", state=RunState.FINISHED)
    (run.artifacts / "verify.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["verify", "one", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_file"
