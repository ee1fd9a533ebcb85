"""From a finished run into an Ollama server, through the command line."""

import json
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.files import sha256_of
from llamaforge.gguf.header import read_header
from tests.contract.publishing.fake_ollama import FakeOllama
from tests.end_to_end.finished import FinishedRun
from tests.end_to_end.program import Program
from tests.end_to_end.training import BRIEF, train_words
from tests.unit.catalog.store_builder import StoreBuilder

pytestmark = pytest.mark.slow


def test_train_publishes_the_proven_adapter_over_the_very_blob(
    program: Program, rows: Path
) -> None:
    base = Store.open(paths.embedded_store()).find("llamaforge-demo")
    with FakeOllama() as server:
        server.add("llamaforge-demo", base.blob_digest)
        program.environment["OLLAMA_HOST"] = server.url
        events = program.events(*train_words(rows, "r", **BRIEF), "--publish", "graded:v1")
        assert events[-1]["state"] == "finished"
        published = next(e for e in events if e["type"] == "report" and e["kind"] == "published")
        assert published["figures"]["name"] == "graded:v1"
        model = server.models["graded:v1"]
        adapter = program.directory("r").artifacts / "adapter.gguf"
        assert model.adapters == [sha256_of(adapter)]
        assert model.weights == base.blob_digest
        assert set(server.models) == {"llamaforge-demo:latest", "graded:v1"}, "no trial is left"

        again = program.json("publish", "r", "--name", "graded:v2")
        assert again["published"] is True
        assert server.models["graded:v2"].adapters == model.adapters


def test_another_template_and_a_server_that_is_away_are_told(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    stored = Store.open(paths.embedded_store()).find("llamaforge-demo")
    assert stored.blob is not None
    builder = StoreBuilder(tmp_path / "store")
    layers = [("template", b"[INST] {{ .Prompt }} [/INST]")]
    builder.add("other:x", stored.blob.read_bytes(), layers=layers)
    words = train_words(rows, "r", max_steps=1, **BRIEF)
    words[words.index("--store") + 1] = str(builder.root)
    words[words.index("--model") + 1] = "other:x"
    events = program.events(*words, "--publish", "graded")
    assert events[-1]["state"] == "finished"
    template, server = (event for event in events if event["type"] == "warning")
    assert template["code"] == "other_template"
    assert "<|im_start|>" in template["message"]
    assert server["code"] == "no_server"
    assert "llamaforge publish r --name graded" in server["message"]
    by_hand = program.json("publish", "r", "--name", "graded", code=1)
    assert by_hand["published"] is False
    modelfile = Path(by_hand["modelfile"])
    assert by_hand["commands"][0].startswith("ollama create graded")
    assert "ADAPTER" in modelfile.read_text()


def test_what_is_not_proven_is_not_published(finished: FinishedRun, program: Program) -> None:
    finished.copy_to(program)
    report = program.directory("whole").artifacts / "verify.json"
    body = json.loads(report.read_text())
    report.write_text(json.dumps(body | {"passed": False, "reason": "it differs"}))
    with FakeOllama() as server:
        server.add("llamaforge-demo", "0" * 64)
        program.environment["OLLAMA_HOST"] = server.url
        refused = program.json("publish", "whole", "--name", "graded", code=3)
        assert refused["error"]["code"] == "not_verified"
        assert set(server.models) == {"llamaforge-demo:latest"}


def test_a_server_that_takes_no_adapters_gets_one_merged_file(program: Program, rows: Path) -> None:
    base = Store.open(paths.embedded_store()).find("llamaforge-demo")
    with FakeOllama("0.40.0") as server:
        server.takes_adapters = False
        program.environment["OLLAMA_HOST"] = server.url
        events = program.events(*train_words(rows, "r", **BRIEF), "--publish", "graded:v1")
        assert events[-1]["state"] == "finished"
        published = next(e for e in events if e["type"] == "report" and e["kind"] == "published")
        assert published["figures"]["form"] == "gguf"
        model = server.models["graded:v1"]
        merged = program.directory("r").artifacts / "merged.gguf"
        assert (model.weights, model.adapters) == (sha256_of(merged), [])
        assert model.template == base.template
        assert model.parameters == base.parameters
        assert set(server.models) == {"graded:v1"}, "no trial is left"

        changed = merged.stat().st_mtime_ns
        again = program.json("publish", "r", "--name", "graded:v2")
        assert (again["published"], again["form"]) == (True, "gguf")
        assert merged.stat().st_mtime_ns == changed, "the file that is there is taken"

        words = ("publish", "r", "--name", "graded:v3", "--quant", "Q8_0", "--imatrix")
        finer = program.json(*words)
        assert finer["file_sha256"] != again["file_sha256"]
        said = read_header(program.directory("r").artifacts / "merged-Q8_0.gguf")
        assert said.get("quantize.imatrix.chunks_count") > 10
        refused = program.json("publish", "r", "--name", "x", "--as", "adapter", code=3)
        assert refused["error"]["code"] == "adapters_unsupported"
        program.run("publish", "r", "--name", "x", "--as", "adapter", "--imatrix", code=2)


def test_a_merged_file_can_be_published_by_hand(finished: FinishedRun, program: Program) -> None:
    finished.copy_to(program)
    by_hand = program.json("publish", "whole", "--name", "graded", "--as", "gguf", code=1)
    text = Path(by_hand["modelfile"]).read_text()
    merged = program.directory("whole").artifacts / "merged.gguf"
    assert f'FROM "{merged}"' in text
    assert "TEMPLATE" in text
    assert "ADAPTER" not in text
