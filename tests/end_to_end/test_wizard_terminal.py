"""The wizard in a real terminal, from the first screen to a model that a server has."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.files import sha256_of
from llamaforge.runs import control
from llamaforge.runs.directory import RunState
from tests.contract.publishing.fake_ollama import FakeOllama
from tests.end_to_end.program import Program
from tests.end_to_end.terminal import Terminal, needs_tmux

pytestmark = [pytest.mark.slow, needs_tmux]

PROGRAM = [sys.executable, "-m", "llamaforge"]


def environment(program: Program, **more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    home = {"LLAMAFORGE_HOME": str(program.home), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
    return kept | home | {"OLLAMA_MODELS": str(paths.embedded_store())} | more


def test_the_screens_lead_to_a_published_model(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    base = Store.open(paths.embedded_store()).find("llamaforge-demo")
    with FakeOllama() as server, Terminal(tmp_path) as terminal:
        server.add("llamaforge-demo", base.blob_digest)
        terminal.start(PROGRAM, environment(program, OLLAMA_HOST=server.url), tmp_path)
        terminal.wait_for("1 can be trained")
        terminal.press("Enter")
        terminal.wait_for("ready to train")
        terminal.press("Enter")
        terminal.wait_for("What to train on")
        terminal.press("Enter")
        terminal.wait_for("Files, folders or datasets")
        terminal.type(str(rows))
        terminal.press("Enter")
        terminal.wait_for("How many rows to hold back")
        terminal.storm()
        terminal.press("Enter")
        terminal.wait_for("What you want")
        terminal.press("Down", "Enter")  # classify or extract
        terminal.wait_for("How much time it gets")
        terminal.press("Enter")
        terminal.wait_for("takes  memory")
        terminal.press("Down", "Down", "Down", "Enter")
        terminal.wait_for("max_steps=")
        terminal.type("20 max_rows=4 samples=2 fidelity_rows=4")
        terminal.press("Enter")
        terminal.wait_for("Go on with 4 changed")
        terminal.press("Enter")
        terminal.wait_for("Questions to watch")
        terminal.press("Enter")
        terminal.wait_for("The name of the run")
        terminal.type("typed")
        terminal.press("Enter")
        terminal.wait_for("The name in Ollama")
        terminal.press("Enter")  # published later, from the result
        terminal.wait_for("Go on to the last page")
        assert not (program.home / "runs" / "typed").exists(), "nothing is written before the end"
        terminal.press("Enter")
        terminal.wait_for("The recipe")
        terminal.press("b")
        run = program.directory("typed")
        terminal.wait_for("Run typed")
        program.wait_for_step("typed", 2)

        terminal.kill()  # the screens are gone, and the run goes on
        program.wait_for_step("typed", run.read_status().step + 2)
        control.ask(run, control.Request.PAUSE)
        program.wait(lambda: run.read_status().state is RunState.PAUSED)

        terminal.start_again()
        terminal.wait_for("Watch typed")
        terminal.press("Down", "Enter")
        terminal.wait_for("Paused after step")
        terminal.storm(times=5)
        terminal.wait_for("Paused after step")

        program.kill("typed")  # the worker is gone under the screens
        terminal.wait_for("The worker is gone")
        terminal.press("p")
        program.wait(lambda: run.read_status().state is RunState.FINISHED)
        terminal.wait_for("Finished.")

        terminal.press("u")
        terminal.wait_for("Under which name?")
        terminal.type("graded:v1")
        terminal.press("Enter")
        terminal.wait_for("graded:v1 is in Ollama")
        adapter = sha256_of(run.artifacts / "adapter.gguf")
        assert server.models["graded:v1"].adapters == [adapter]
        terminal.press("Escape")
        terminal.wait_until_gone("Under which name?")
        terminal.press("t")
        terminal.wait_for("Ask something that your rows teach")
        terminal.type("hello")
        terminal.press("Enter")
        terminal.wait_for("tokens,")
        models = [
            child
            for child in psutil.Process(terminal.process).children()
            if child.status() != psutil.STATUS_ZOMBIE
            and "llamaforge.worker.chat" in " ".join(child.cmdline())
        ]
        assert models, "llama.cpp answers in a process of its own"
        terminal.press("Escape")
        terminal.wait_for("Finished.")
        program.wait(lambda: not any(child.is_running() for child in models))
        terminal.press("q")
        terminal.wait_until_ended()


def test_the_plain_way_asks_the_same_and_ends_with_the_recipe(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    with Terminal(tmp_path) as terminal:
        words = [*PROGRAM, "wizard", "--plain"]
        terminal.start(words, environment(program, OLLAMA_HOST="127.0.0.1:9"), tmp_path)
        terminal.wait_for("The model to train")
        terminal.press("Enter")
        terminal.wait_for("What to train on")
        terminal.press("Enter")
        terminal.wait_for("Files, folders or datasets")
        terminal.type("nowhere.jsonl")
        terminal.press("Enter")
        terminal.wait_for("There is no file")
        terminal.type(str(rows))
        terminal.press("Enter")
        terminal.wait_for("How many rows to hold back")
        terminal.press("Enter")
        terminal.wait_for("See the first row")
        terminal.press("Enter")
        terminal.wait_for("What you want")
        terminal.press("Down", "Enter")
        terminal.wait_for("How much time it gets")
        terminal.press("Enter")
        terminal.wait_for("Settings to change")
        terminal.type("seed=7")
        terminal.press("Enter")
        terminal.wait_for("Questions to watch")
        terminal.press("Enter")
        terminal.wait_for("The name of the run")
        terminal.type("plain")
        terminal.press("Enter")
        terminal.wait_for("The name in Ollama")
        terminal.press("Enter")
        terminal.wait_for("plain.yaml?")
        terminal.type("y")
        terminal.wait_for("Begin the run now?")
        terminal.type("n")
        terminal.wait_for("llamaforge train")
    text = (tmp_path / "plain.yaml").read_text()
    assert "seed: 7" in text
    store = ("--store", str(paths.embedded_store()))
    program.run("train", str(tmp_path / "plain.yaml"), *store, "--dry-run")


def test_answers_are_kept_when_the_terminal_goes_away(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.start([*PROGRAM, "wizard", "--plain"], environment(program), tmp_path)
        terminal.wait_for("The model to train")
        terminal.press("Enter")
        terminal.wait_for("What to train on")
        terminal.press("Enter")
        terminal.wait_for("Files, folders or datasets")
        terminal.type(str(rows))
        terminal.press("Enter")
        terminal.wait_for("How many rows to hold back")
    other = tmp_path / "again"
    other.mkdir()
    with Terminal(other) as terminal:
        terminal.start([*PROGRAM, "wizard", "--plain"], environment(program), tmp_path)
        terminal.wait_for("llamaforge-demo:latest with rows.jsonl")
        terminal.press("Enter")
        terminal.wait_for("How many rows to hold back")
