"""A run's merged file: taken again only where it is what would be written now."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.export.adapter import write_adapter
from llamaforge.export.merged_run import MergedRun, merge_run
from llamaforge.gguf.header import read_header
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from tests.contract.engine.engine_bench import make_trained, scaled
from tests.contract.export.test_export_verb import run, store
from tests.contract.export.test_importance import importance, measured

__all__ = ["run", "store"]


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's verdict, which other tests look at."""

    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, '{"loads": true}\n', "")

    monkeypatch.setattr(subprocess, "run", answer)


def list_adapter(run: RunDirectory, strength: float) -> None:
    """Let the run have trained another adapter."""
    model = RunSpec.load(run.spec_file).model
    header = read_header(model.blob)
    path = run.artifacts / "adapter.gguf"
    layers = scaled(make_trained(header).layers(), strength)
    write_adapter(path, header, layers, name="night", base_digest=model.digest)
    run.list_artifact("adapter", path, hashlib.sha256(path.read_bytes()).hexdigest())


def written_at(made: MergedRun) -> int:
    return made.merged.path.stat().st_mtime_ns


def test_a_file_that_is_there_is_taken(run: RunDirectory) -> None:
    first = written_at(merge_run(run, reuse=True))
    assert written_at(merge_run(run, reuse=True)) == first


def test_a_file_made_of_another_adapter_is_written_anew(run: RunDirectory) -> None:
    first = merge_run(run, reuse=True).merged.sha256
    list_adapter(run, 2.0)
    assert merge_run(run, reuse=True).merged.sha256 != first


def test_a_file_of_other_types_under_the_same_name_is_written_anew(run: RunDirectory) -> None:
    packed = merge_run(run, quantization="Q8_0", target=run.artifacts / "merged.gguf")
    assert merge_run(run, reuse=True).merged.sha256 != packed.merged.sha256


def test_a_file_that_was_weighed_otherwise_is_written_anew(run: RunDirectory) -> None:
    header = read_header(RunSpec.load(run.spec_file).model.blob)
    found = importance(measured(header, rows=2), run.artifacts)
    plain = merge_run(run, quantization="Q4_K_M", reuse=True).merged.sha256
    weighed = merge_run(run, quantization="Q4_K_M", reuse=True, importance=found)
    again = merge_run(run, quantization="Q4_K_M", reuse=True, importance=found)
    assert written_at(again) == written_at(weighed)
    assert weighed.merged.sha256 != plain
    assert merge_run(run, quantization="Q4_K_M", reuse=True).merged.sha256 == plain


def test_a_base_that_was_weighed_is_no_other_file(run: RunDirectory, tmp_path: Path) -> None:
    spec = RunSpec.load(run.spec_file)
    found = importance(measured(read_header(spec.model.blob), rows=2), run.artifacts)
    path = tmp_path / "base.gguf"
    base = merge_run(run, quantization="Q4_K_M", target=path, importance=found).merged
    changed = {"blob": path, "digest": f"sha256:{base.sha256}"}
    spec.model_copy(update={"model": spec.model.model_copy(update=changed)}).save(run.spec_file)
    list_adapter(run, 1.0)
    first = merge_run(run, reuse=True)
    said = read_header(first.merged.path).metadata
    assert not [key for key in said if key.startswith("quantize.imatrix")]
    assert written_at(merge_run(run, reuse=True)) == written_at(first)


def test_files_of_several_types_are_listed_beside_each_other(
    run: RunDirectory, tmp_path: Path
) -> None:
    first = written_at(merge_run(run, quantization="Q8_0", reuse=True))
    merge_run(run, quantization="Q4_K_M", reuse=True)
    merge_run(run, target=tmp_path / "away.gguf")
    assert written_at(merge_run(run, quantization="Q8_0", reuse=True)) == first
    listed = [Path(item["path"]).name for item in run.artifact_list() if item["kind"] == "merged"]
    assert sorted(listed) == ["away.gguf", "merged-Q4_K_M.gguf", "merged-Q8_0.gguf"]


def test_an_adapter_that_changed_is_not_merged(run: RunDirectory) -> None:
    path = run.artifacts / "adapter.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidFileError) as caught:
        merge_run(run)
    assert caught.value.code == "adapter_changed"


def test_a_file_that_takes_too_long_to_load_is_removed_and_said(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(command: list[str], **more: Any) -> None:
        raise subprocess.TimeoutExpired(command, more["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(LlamaForgeError, match="3,600 seconds") as caught:
        merge_run(run)
    assert caught.value.code == "not_loadable"
    assert not list(run.artifacts.glob("merged*"))


def test_answers_that_are_no_numbers_are_a_loss(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"loads": True, "kl_mean": float("nan"), "kl_base_mean": 0.1}
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, json.dumps(found), ""),
    )
    assert merge_run(run).loses_what_was_learned
