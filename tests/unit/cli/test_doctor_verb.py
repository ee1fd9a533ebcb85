"""`doctor`: what is offered, what is wrong with its way out, and an exit code for scripts."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llamaforge import hardware, paths
from llamaforge.catalog import served
from llamaforge.cli.main import main
from llamaforge.errors import LlamaForgeError
from llamaforge.wizard import health
from llamaforge.wizard.checks import Check

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")


def unanswered(*_: Any, **__: Any) -> None:
    raise LlamaForgeError("No server answers.", "Start it.")


def examined(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["doctor", *words, "--json"]) == code
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def codes(body: dict[str, Any]) -> set[str]:
    return {problem["code"] for problem in body["problems"]}


def test_every_place_is_looked_at_and_every_problem_has_a_way_out(
    store: Path, capsys: Capture
) -> None:
    body = examined(capsys, "--store", str(store))
    names = [section["name"] for section in body["sections"]]
    assert names == ["machine", "environment", "program", "ollama", "hub", "runs"]
    facts = {section["name"]: section["facts"] for section in body["sections"]}
    assert facts["machine"]["cores"] == hardware.physical_cores()
    assert facts["ollama"]["trainable"] == 1
    assert facts["program"]["versions"]["torch"]
    assert codes(body) == {"ollama.server"}
    assert all(problem["fix"] for problem in body["problems"])


def test_people_get_marks_and_a_last_word(store: Path, capsys: Capture) -> None:
    assert main(["doctor", "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "  ok    Models: 1 of 1 model" in printed
    assert "  note  Server: No Ollama server answers" in printed
    assert printed.rstrip().endswith("what is marked note could be better.")


def test_a_machine_without_ollama_is_told_how_to_begin(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OLLAMA_HOST")
    monkeypatch.setattr(health, "_server", lambda: Check("Server", "pass", "There."))
    monkeypatch.setattr(paths, "store_places", lambda: (paths.StorePlace(tmp_path / "no", "me"),))
    monkeypatch.setattr(served, "ask_server", unanswered)
    body = examined(capsys)
    (problem,) = [item for item in body["problems"] if item["code"] == "ollama.store"]
    assert problem["level"] == "warn"
    assert "llamaforge demo" in problem["fix"]


def test_a_folder_that_cannot_be_written_fails(
    store: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    body = examined(capsys, "--store", str(store), code=1)
    assert {"machine.folder", "hub.cache"} <= codes(body)


def test_little_memory_few_threads_and_an_unused_gpu_are_noted(
    store: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LLAMAFORGE_MEMORY_BYTES", "1000000000")
    monkeypatch.setattr(hardware, "physical_cores", lambda: 8)
    monkeypatch.setattr(hardware, "gpus", lambda: [hardware.Gpu("RTX", 8 << 30, 7 << 30)])
    monkeypatch.setattr(health, "_version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(health, "_wrong_packages", lambda: iter(()))
    body = examined(capsys, "--store", str(store))
    assert {"machine.memory", "machine.gpu", "environment.omp_num_threads"} <= codes(body)


def test_a_limit_that_is_no_number_is_said_in_its_own_place(
    store: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFORGE_MEMORY_BYTES", "8 GB")
    body = examined(capsys, "--store", str(store), code=1)
    (problem,) = [item for item in body["problems"] if item["code"] == "machine.machine"]
    assert "8 GB" in problem["message"]
    assert [section["name"] for section in body["sections"]][-1] == "runs"


def test_packages_that_are_absent_or_too_old_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    required = ["one>=2.0", "two[extra]>=1,<3", "three>=1; extra == 'dev'", "four"]
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    versions = {"one": "1.9", "two": "2.5", "four": ""}
    monkeypatch.setattr(health, "_version", lambda name: versions[name])
    assert list(health._wrong_packages()) == [("one", ">=2.0", "1.9"), ("four", "", "")]


def test_a_token_is_never_shown(
    store: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    capsys.readouterr()
    main(["doctor", "--store", str(store), "--json"])
    assert "hf_xxx" not in capsys.readouterr().out
