"""Base and tuned model answer in a process of their own, which never outlives its asker."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.cli.main import main
from llamaforge.data.records import Message
from llamaforge.errors import LlamaForgeError
from llamaforge.evaluation.llama import Server
from llamaforge.export.adapter import Factors, write_adapter
from llamaforge.files import sha256_of
from llamaforge.gguf.model_file import read_model
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.chatting import ChatProcess
from llamaforge.runs.directory import RunDirectory, create_run
from llamaforge.worker.job import renderer_of
from tests.contract.publishing.fake_ollama import FakeOllama

QUESTION = "Grade this message: I moved to Oslo."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run of the embedded model with an adapter that changes its answers."""
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path))
    model = Store.open(paths.embedded_store()).require_trainable("llamaforge-demo")
    assert model.blob is not None
    body = {"model": {"name": model.name}, "data": {"sources": [str(paths.embedded_data())]}}
    facts = ModelFacts(
        store=paths.embedded_store(),
        blob=model.blob,
        digest=f"sha256:{model.blob_digest}",
        architecture=model.architecture,
        quantization=model.quantization,
        context_length=model.context_length,
    )
    made = create_run("r")
    resolve(with_settings(body, []), facts, made.id).save(made.spec_file)
    header = read_model(model.blob, ())
    shape = header.tensors["blk.0.ffn_down.weight"].shape
    noise = np.random.default_rng(0)
    factors = Factors(
        a=noise.normal(size=(4, shape[0])).astype(np.float32),
        b=noise.normal(size=(shape[1], 4)).astype(np.float32),
        scale=0.5,
    )
    path = made.artifacts / "adapter.gguf"
    layers = {"blk.0.ffn_down": factors}
    write_adapter(path, header, layers, name="r", base_digest="sha256:0")
    made.list_artifact("adapter", path, sha256_of(path))
    return made


def talk(process: ChatProcess, question: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what it is ready with, and what it says to a question of both arms."""
    said = process.lines()
    ready = next(said)
    assert ready["type"] == "ready", ready
    turns = [{"role": "user", "content": question}]
    process.ask({"base": turns, "tuned": turns})
    heard = []
    for body in said:
        heard.append(body)
        if body["type"] == "turn":
            break
    return ready, heard


def test_both_arms_answer_as_llama_cpp_does_and_in_parts(run: RunDirectory) -> None:
    with ChatProcess(run) as process:
        ready, heard = talk(process, QUESTION)
    assert ready["backend"] == "llama.cpp"
    assert ready["names"]["base"].startswith("llamaforge-demo")
    answers = {body["arm"]: body for body in heard if body["type"] == "answer"}
    for arm in ("base", "tuned"):
        parts = [body["text"] for body in heard if body["type"] == "part" and body["arm"] == arm]
        assert "".join(parts) == answers[arm]["text"]
        assert len(parts) > 1, "an answer comes in parts"

    spec = RunSpec.load(run.spec_file)
    header = read_model(spec.model.blob, ())
    tokenizer = GgufTokenizer(header)
    prompt = renderer_of(spec, tokenizer).encode_prompt([Message("user", QUESTION)])
    adapter = run.artifacts / "adapter.gguf"
    with Server(header.files, context=1024, adapter=adapter) as server:
        for arm, on in (("base", False), ("tuned", True)):
            server.use_adapter(on)
            ids = server.generate(prompt, max_new_tokens=512, end_ids=tokenizer.end_ids)
            assert answers[arm]["text"] == tokenizer.decode(ids)
            assert answers[arm]["tokens"] == len(ids)
    assert answers["base"]["text"] != answers["tuned"]["text"]


def test_a_wish_to_stop_ends_the_answers(run: RunDirectory) -> None:
    with ChatProcess(run) as process:
        said = process.lines()
        next(said)
        process.ask({"tuned": [{"role": "user", "content": QUESTION}]})
        assert next(said)["type"] == "part"
        process.stop()
        rest = []
        for body in said:
            rest.append(body)
            if body["type"] == "turn":
                break
    assert rest[-1]["type"] == "turn"


def test_it_ends_when_whoever_asks_is_killed(run: RunDirectory) -> None:
    script = (
        "import sys, time\n"
        "from llamaforge.runs.chatting import ChatProcess\n"
        "from llamaforge.runs.directory import RunDirectory\n"
        "from pathlib import Path\n"
        "process = ChatProcess(RunDirectory(Path(sys.argv[1])))\n"
        "process.start()\n"
        "print(process._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert asker.stdout is not None
    pid = int(asker.stdout.readline())
    asker.kill()
    asker.wait()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the models live on without anybody"
        time.sleep(0.05)


def test_a_run_that_made_nothing_is_told(run: RunDirectory) -> None:
    (run.artifacts / "artifacts.json").unlink()
    with ChatProcess(run) as process:
        said = list(process.lines())
    assert [body["type"] for body in said] == ["error"]
    assert said[0]["code"] == "no_adapter"


def test_a_process_that_dies_is_told(run: RunDirectory) -> None:
    with ChatProcess(run) as process:
        said = process.lines()
        next(said)
        assert process._process is not None
        os.kill(process._process.pid, 9)
        with pytest.raises(LlamaForgeError, match="was killed"):
            list(said)


def test_ollama_answers_where_the_result_is_published(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama() as server:
        server.add("llamaforge-demo", "a" * 64)
        server.add("graded:v1", "a" * 64)
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        with ChatProcess(run, "graded:v1") as process:
            ready, heard = talk(process, QUESTION)
        assert ready == {
            "type": "ready",
            "backend": "ollama",
            "names": {"base": "llamaforge-demo:latest", "tuned": "graded:v1"},
        }
        texts = {body["arm"]: body["text"] for body in heard if body["type"] == "answer"}
        assert texts == dict.fromkeys(("base", "tuned"), "Hello, I am\x1b[2J here.")
        with ChatProcess(run, "gone") as process:
            said = list(process.lines())
        assert said[-1]["code"] == "no_model"


def test_the_verb_prints_both_answers_and_keeps_them_where_asked(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "talks.jsonl"
    asked = ["chat", run.id, QUESTION, "/before", "And this: hello.", "--json"]
    assert main([*asked, "--keep", str(kept), "--keep-answers", "before"]) == 0
    told = capsys.readouterr()
    found = [json.loads(line) for line in _documents(told.out)]
    assert [item["prompt"] for item in found] == [QUESTION, "And this: hello."]
    assert all(item[arm]["tokens"] >= 0 for item in found for arm in ("base", "tuned"))
    (row,) = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == [
        words for item in found for words in (item["prompt"], item["base"]["text"].strip())
    ]
    (pair,) = [
        json.loads(line) for line in (tmp_path / "talks.pairs.jsonl").read_text().splitlines()
    ]
    assert pair["chosen"][0]["content"] == found[0]["base"]["text"].strip()
    assert pair["rejected"][0]["content"] == found[0]["tuned"]["text"].strip()
    assert "llamaforge data review" in told.err


def _documents(text: str) -> list[str]:
    decoder = json.JSONDecoder()
    found, rest = [], text.strip()
    while rest:
        body, end = decoder.raw_decode(rest)
        found.append(json.dumps(body))
        rest = rest[end:].strip()
    return found
