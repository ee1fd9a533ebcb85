"""Models in several files, and files with more than text in them, through the real program."""

from pathlib import Path

import pytest

from llamaforge.gguf.header import read_header
from tests.contract.engine.engine_bench import VOCABULARY, make_model
from tests.end_to_end.program import Program
from tests.end_to_end.training import with_settings
from tests.unit.catalog.store_builder import StoreBuilder
from tools.ollama_models import write_ollama_model
from tools.split_models import split_model

pytestmark = pytest.mark.slow

SETTINGS = {
    "max_steps": 4,
    "max_length": 512,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "fidelity_rows": 2,
    "max_rows": 0,
}


def train(program: Program, store: Path, rows: Path) -> list[str]:
    """Train on the store's model; return the messages of its warnings."""
    words = ["train", "--store", str(store), "--model", "m:x", "--data", str(rows)]
    words += ["--name", "night", "--yes"]
    events = program.events(*with_settings(words, SETTINGS))
    assert events[-1]["state"] == "finished"
    return [event["message"] for event in events if event["type"] == "warning"]


def test_a_model_that_also_sees_is_trained_for_text(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    path, _ = write_ollama_model(tmp_path, "gemma3", VOCABULARY, "Q8_0")
    builder = StoreBuilder(tmp_path / "store")
    builder.add("m:x", path.read_bytes())
    (listed,) = program.json("models", "--store", str(builder.root))
    assert listed["status"] == "ready"
    assert "vision" in listed["capabilities"]
    warnings = train(program, builder.root, rows)
    assert any("images stays as it is" in message for message in warnings)
    assert program.json("verify", "night")["passed"] is True
    run = program.directory("night")
    assert not list(run.path.rglob("*.served.gguf"))
    merged = program.json("export", "night", "--as", "gguf")
    assert "v.patch_embedding.weight" in read_header(Path(merged["path"])).tensors
    assert merged["check"]["kl_mean"] < merged["check"]["kl_base_mean"]
    folder = program.json("export", "night", "--as", "hf", "--dtype", "float32")
    assert "config.json" in folder["files"]


def test_a_model_in_several_files_is_trained_and_becomes_one(
    program: Program, rows: Path, tmp_path: Path
) -> None:
    parts = split_model(make_model(tmp_path).path, tmp_path, tensors=7)
    builder = StoreBuilder(tmp_path / "store")
    # As they come: the manifest need not name them in their order.
    contents = [parts[number].read_bytes() for number in (1, 0, 2)]
    builder.add("m:x", contents[0], layers=[("model", data) for data in contents[1:]])
    (listed,) = program.json("models", "--store", str(builder.root))
    assert listed["status"] == "ready"
    shown = program.run("show", "m:x", "--store", str(builder.root))
    assert shown.count("further part") == len(listed["further_parts"]) == 2
    train(program, builder.root, rows)
    assert program.json("verify", "night")["passed"] is True
    merged = program.json("export", "night", "--as", "gguf")
    header = read_header(Path(merged["path"]))
    assert len(header.tensors) == 2 * 9 + 3
    assert "split.count" not in header.metadata
    assert merged["check"]["kl_mean"] < merged["check"]["kl_base_mean"]
    words = ("export", "night", "--as", "gguf", "--quant", "q5_k_m", "--imatrix", "--force")
    weighed = program.json(*words)
    assert weighed["imatrix_rows"] > 10
    said = read_header(Path(weighed["path"])).get("quantize.imatrix.chunks_count")
    assert said == weighed["imatrix_rows"]
    assert weighed["check"]["kl_mean"] < weighed["check"]["kl_base_mean"]
    kept = program.directory("night").artifacts / "imatrix.gguf"
    measured = kept.stat().st_mtime_ns
    assert program.json(*words)["sha256"] == weighed["sha256"]
    assert kept.stat().st_mtime_ns == measured, "it is measured once"
    program.run("export", "night", "--as", "hf", "--imatrix", code=2)
    damaged = next(path for path in builder.blobs.iterdir() if path.read_bytes() == contents[2])
    changed = bytearray(contents[2])
    changed[-5] ^= 1
    damaged.write_bytes(bytes(changed))
    assert "is damaged" in refusal(program, builder.root, rows)


def refusal(program: Program, store: Path, rows: Path) -> str:
    words = ["train", "--store", str(store), "--model", "m:x", "--data", str(rows)]
    events = program.events(*words, "--name", "again", "--yes", code=3)
    return str(next(event["message"] for event in events if event["type"] == "failed"))
