"""From a store to a proven adapter, through the command line and a worker of its own."""

import json
import shutil
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.files import sha256_of
from tests.end_to_end.finished import FinishedRun
from tests.end_to_end.program import Program
from tests.end_to_end.training import (
    BRIEF,
    EXACT,
    SETTINGS,
    STEPS,
    adapter_values,
    train_words,
    with_settings,
)
from tests.unit.catalog.store_builder import StoreBuilder
from tools.random_models import Shape, Vocabulary, write_random_model

pytestmark = pytest.mark.slow


def test_the_whole_job_streams_events_and_leaves_verified_artifacts(finished: FinishedRun) -> None:
    program, events = finished.program, finished.events
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {"v", "seq", "t", "type"} <= set(events[0])
    stages = [(e["name"], e["state"]) for e in events if e["type"] == "stage"]
    names = ["prepare", "train", "export", "verify", "evaluate"]
    assert stages == [
        *((name, state) for name in names for state in ("started", "finished")),
        ("publish", "skipped"),
    ]
    steps = [event for event in events if event["type"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert all(event["total"] == STEPS and event["tokens_per_second"] > 0 for event in steps)
    assert steps[-1]["loss"] < steps[0]["loss"] / 2, "it must have learned something"
    assert [event["step"] for event in events if event["type"] == "eval"] == [5, 10, 12]
    samples = [event for event in events if event["type"] == "sample" and not event["step"]]
    assert len(samples) == 2, "beside the answers during training"
    assert events[-1]["type"] == "finished"
    assert events[-1]["state"] == "finished"

    shown = program.json("runs", "show", "whole")
    assert (shown["state"], shown["step"], shown["total"]) == ("finished", STEPS, STEPS)
    kinds = {item["kind"] for item in shown["artifacts"]}
    assert kinds == {"adapter", "verify", "modelfile", "evaluation"}
    for item in shown["artifacts"]:
        assert sha256_of(Path(item["path"])) == item["sha256"]

    proof = program.json("verify", "whole")
    assert proof["passed"] is True
    assert proof["kl_mean"] <= proof["kl_limit"]
    assert proof["loss_served"] < proof["loss_base"]
    assert proof["rows"] == 4

    report = program.run("runs", "attach", "whole")
    assert "llamaforge publish" in report
    assert max(map(len, report.splitlines())) <= 80 or "/" in report  # only paths are longer


def test_a_finished_run_is_merged_and_the_file_is_listed(
    finished: FinishedRun, program: Program
) -> None:
    finished.copy_to(program)
    merged = program.json("export", "whole", "--quant", "Q8_0")
    assert sha256_of(Path(merged["path"])) == merged["sha256"]
    assert merged["check"]["loads"] is True
    assert merged["check"]["kl_mean"] < merged["check"]["kl_base_mean"] / 10
    listed = {item["kind"]: item for item in program.json("runs", "show", "whole")["artifacts"]}
    assert listed["merged"]["sha256"] == merged["sha256"]


@pytest.mark.campaign
def test_a_worker_that_was_killed_goes_on_to_the_very_same_adapter(
    program: Program, rows: Path, finished: FinishedRun
) -> None:
    program.run(*train_words(rows, "killed", **EXACT, **BRIEF), "--detach")
    program.wait_for_step("killed", 5)
    program.kill("killed")
    assert program.json("runs", "show", "killed")["state"] == "lost"
    program.run("runs", "resume", "killed")
    assert program.json("runs", "show", "killed")["state"] == "finished"
    assert adapter_values(program, "killed") == adapter_values(finished.program, "whole")
    lines = program.directory("killed").events_file.read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_blob_that_changed_is_never_trained_on(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(paths.embedded_store(), store)
    blob = max((store / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1000] ^= 1
    blob.write_bytes(bytes(content))
    words = train_words(rows, "damaged")
    words[words.index("--store") + 1] = str(store)
    events = program.events(*words, code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "damaged_blob"
    assert blob.name in failed["message"]
    assert events[-1]["state"] == "failed"


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("llama", marks=pytest.mark.campaign),
        pytest.param("qwen2", marks=pytest.mark.campaign),
        "qwen3",
    ],
)
def test_any_store_and_every_kind_of_rows(
    architecture: str, program: Program, tmp_path: Path
) -> None:
    shape = Shape(architecture=architecture, feed_forward=256)
    blob = write_random_model(tmp_path / "m.gguf", shape, Vocabulary.byte_level(), "Q5_K_M")
    builder = StoreBuilder(tmp_path / "store")
    builder.add("mine:small", blob.read_bytes())
    kinds = [
        {"messages": [{"role": "user", "content": "{}?"}, {"role": "assistant", "content": "no"}]},
        {"prompt": "is {} red?", "completion": "yes"},
        {"instruction": "say {}", "input": "now", "output": "said"},
    ]
    sources = []
    for number, kind in enumerate(kinds):
        path = tmp_path / f"{number}.jsonl"
        text = json.dumps(kind)
        path.write_text("".join(text.replace("{}", str(row)) + "\n" for row in range(12)))
        sources += ["--data", str(path)]
    words = ["train", "--store", str(builder.root), "--model", "mine:small", *sources]
    words += ["--name", "small", "--yes"]
    events = program.events(*with_settings(words, SETTINGS | {"max_steps": 3}))
    assert events[-1]["state"] == "finished"
    assert program.json("verify", "small")["passed"] is True


def test_an_adapter_that_was_changed_is_made_again_as_it_was_proven(
    finished: FinishedRun, program: Program
) -> None:
    finished.copy_to(program)
    directory = program.directory("whole")
    adapter = directory.artifacts / "adapter.gguf"
    digest = sha256_of(adapter)
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(bytes(content))
    status = json.loads(directory.state_file.read_text())
    directory.state_file.write_text(json.dumps(status | {"state": "stopped"}))
    events = program.events("runs", "resume", "whole")
    assert sha256_of(adapter) == digest
    stages = [(event["name"], event["state"]) for event in events if event["type"] == "stage"]
    assert [name for name, state in stages if state == "finished"] == ["export"]
    assert ("verify", "skipped") in stages, "the proof is of this very file"
    assert program.json("verify", "whole")["passed"] is True


def test_a_gpu_that_is_not_there_is_named(program: Program, rows: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    events = program.events(*train_words(rows, "r"), "--set", "device=cuda", code=3)
    failed = next(event for event in events if event["type"] == "failed")
    assert failed["code"] == "no_gpu"
    assert "device=cuda" in failed["hint"]


def test_frozen_rows_are_listed_compared_and_trained_on_again(
    finished: FinishedRun, program: Program, tmp_path: Path
) -> None:
    finished.copy_to(program)
    rows = finished.rows
    [kept] = program.json("data", "list")
    assert kept["runs"] == ["whole"]
    assert kept["counts"]["train"] > 0
    words = train_words(rows, "second", max_steps=1, **BRIEF)
    words[words.index("--data") + 1] = f"snapshot:{kept['id'][:8]}"
    program.run(*words)
    assert program.json("data", "list")[0]["runs"] == ["second", "whole"]
    assert program.json("data", "diff", "whole", "second")["added"] == []
    changed = tmp_path / "more.jsonl"
    changed.write_text(rows.read_text() + '{"prompt": "new?", "completion": "yes"}\n')
    different = program.json("data", "diff", "whole", str(changed), code=1)
    assert [row["messages"][0]["content"] for row in different["added"]] == ["new?"]
    missing = program.json("data", "diff", "whole", "nothing", code=4)
    assert missing["error"]["code"] == "no_rows"
    refused = program.json(*train_words(rows, "r3"), "--data", f"snapshot:{kept['id']}", code=2)
    assert refused["error"]["code"] == "snapshot_and_files"
