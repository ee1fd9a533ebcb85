"""What a run can go on from, and recipes of several phases: checked before anything is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamaforge.cli.main import main
from llamaforge.errors import RefusedError
from llamaforge.files import sha256_of
from llamaforge.recipe.resolve import with_settings
from llamaforge.recipe.spec import Recipe
from llamaforge.runs.base_digests import check_same_base, digest_of_link, note_digests
from llamaforge.runs.directory import RunDirectory, list_runs
from llamaforge.training.checkpoints import commit_checkpoint
from llamaforge.training.finished import ADAPTER_FILE, note_finished
from llamaforge.wizard.beginning import create, prepare

Capture = pytest.CaptureFixture[str]
PAIR = {"prompt": "Hi", "chosen": "Hello there", "rejected": "Go away"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(PAIR | {"prompt": f"Hi {n}"}) + "\n" for n in range(20)))
    return path


@pytest.fixture
def before(store: Path, rows: Path, home: Path) -> RunDirectory:
    """A run whose training ended; its adapter is what it is."""
    recipe = with_settings(
        {
            "name": "before",
            "model": {"name": "llamaforge-demo", "store": str(store)},
            "data": {"sources": [str(rows)]},
        },
        ["lora_r=4", "lora_alpha=8"],
    )
    run = create(prepare(recipe, store=None, numbered=False))
    written = run.checkpoints / ".partial" / "checkpoint-7"
    written.mkdir(parents=True)
    (written / ADAPTER_FILE).write_bytes(b"weights")
    commit_checkpoint(written, run.checkpoints, 7)
    note_finished(run.checkpoints, 7)
    return run


def ask(capsys: Capture, *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["train", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_model_and_the_shape_of_the_adapter_are_those_of_the_run_before(
    before: RunDirectory, pairs: Path, capsys: Capture
) -> None:
    code, spec = ask(
        capsys, "--continue", "before", "--data", str(pairs), "--method", "dpo", "--dry-run"
    )
    assert code == 0
    assert spec["model"]["name"] == "llamaforge-demo"
    assert (spec["training"]["lora_r"], spec["training"]["lora_alpha"]) == (4, 8)
    assert (spec["training"]["method"], spec["data"]["preference"]) == ("dpo", "pairs")
    assert (spec["start"]["run"], spec["start"]["step"]) == ("before", 7)
    assert [run.id for run in list_runs()] == ["before"], "nothing is made"


def test_the_adapter_is_copied_so_that_the_run_before_may_go(
    before: RunDirectory, store: Path, pairs: Path
) -> None:
    recipe = Recipe.model_validate(
        {
            "continue_from": "before",
            "name": "after",
            "model": {"name": "llamaforge-demo", "store": store},
            "data": {"sources": [str(pairs)]},
            "training": {"method": "dpo"},
        }
    )
    run = create(prepare(recipe, store=None, numbered=False))
    assert run.start_file.read_bytes() == b"weights"
    assert run.start_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--continue", "befor"], "no_run", 4),
        (["--continue", "before", "--set", "lora_r=8"], "other_adapter", 2),
        (["--continue", "before", "--set", "use_rslora=true"], "other_adapter", 2),
    ],
)
def test_what_does_not_fit_the_adapter_is_refused(
    words: list[str], code: str, exit_code: int, before: RunDirectory, rows: Path, capsys: Capture
) -> None:
    del before
    found, body = ask(capsys, *words, "--data", str(rows))
    assert (found, body["error"]["code"]) == (exit_code, code)
    assert body["error"]["hint"]


def test_an_adapter_of_other_weights_is_refused(
    before: RunDirectory, rows: Path, capsys: Capture
) -> None:
    spec = yaml.safe_load(before.spec_file.read_text())
    spec["model"]["digest"] = "sha256:" + "0" * 64
    before.spec_file.write_text(yaml.safe_dump(spec))
    code, body = ask(capsys, "--continue", "before", "--data", str(rows))
    assert (code, body["error"]["code"]) == (3, "other_base")


def test_what_did_not_pass_its_proof_is_neither_gone_on_from_nor_exported(
    before: RunDirectory, rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    report = {"passed": False, "reason": "the loss is 1 as trained and 9 as served"}
    (before.artifacts / "verify.json").write_text(json.dumps(report))
    code, body = ask(capsys, "--continue", "before", "--data", str(rows))
    assert (code, body["error"]["code"]) == (3, "not_verified")
    assert "9 as served" in body["error"]["message"]
    adapter = before.artifacts / "adapter.gguf"
    adapter.write_bytes(b"weights")
    before.list_artifact("adapter", adapter, sha256_of(adapter))
    out = tmp_path / "a.gguf"
    assert main(["export", "before", "--as", "adapter", "--out", str(out)]) == 3
    assert not out.exists()
    (before.artifacts / "verify.json").write_text(json.dumps(report | {"passed": True}))
    assert main(["export", "before", "--as", "adapter", "--out", str(out)]) == 0


@pytest.mark.parametrize("is_linked", [True, False])
def test_an_adapter_over_other_full_precision_weights_is_known_by_their_digests(
    is_linked: bool, before: RunDirectory, tmp_path: Path
) -> None:
    blob = tmp_path / ("b" * 64)
    blob.write_bytes(b"weights")
    file = tmp_path / "model.safetensors"
    file.symlink_to(blob if is_linked else tmp_path / "elsewhere")
    note_digests(before, {file.name: "a" * 64})
    found = {file.name: digest_of_link(file)}
    if not is_linked:  # the worker reads it
        check_same_base(before, found)
        return
    with pytest.raises(RefusedError, match="other full-precision weights") as caught:
        check_same_base(before, found)
    assert caught.value.code == "other_base"
    note_digests(before, found)
    check_same_base(before, found)


@pytest.mark.parametrize(
    ("end", "code"), [("unfinished", "not_trained"), ("torn", "bad_checkpoint")]
)
def test_a_run_without_a_whole_result_is_not_gone_on_from(
    end: str, code: str, before: RunDirectory, rows: Path, capsys: Capture
) -> None:
    if end == "unfinished":
        (before.checkpoints / "finished.json").unlink()
    else:
        (before.checkpoints / "step-000007" / ADAPTER_FILE).write_bytes(b"weighty")
    _, body = ask(capsys, "--continue", "before", "--data", str(rows))
    assert body["error"]["code"] == code
    assert "runs resume before" in body["error"]["hint"]


def recipe_of(folder: Path, store: Path, rows: Path, *then: dict[str, Any]) -> str:
    path = folder / "recipe.yaml"
    body = {
        "model": {"name": "llamaforge-demo", "store": str(store)},
        "data": {"sources": [str(rows)]},
        "training": {"lora_r": 4},
        "then": list(then),
    }
    path.write_text(yaml.safe_dump(body))
    return str(path)


def test_phases_have_rows_and_settings_of_their_own_and_one_adapter(
    store: Path, rows: Path, pairs: Path, tmp_path: Path, capsys: Capture
) -> None:
    phase = {"data": {"sources": ["pairs.jsonl"]}, "training": {"method": "dpo"}}
    code, spec = ask(capsys, recipe_of(tmp_path, store, rows, phase), "--dry-run")
    assert code == 0
    (second,) = spec["then"]
    assert second["data"]["sources"] == [str(pairs)], "beside the recipe"
    assert second["data"]["max_length"] == spec["data"]["max_length"]
    assert (second["training"]["lora_r"], second["training"]["loss_type"]) == (4, "sigmoid")
    assert spec["training"]["method"] == "sft"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"training": {"method": "dpo", "lora_r": 8}}, "other_adapter"),
        ({"training": {"method": "dpo", "lerning_rate": 1}}, "unknown_key"),
        ({"training": {"method": "sft"}}, "unsupported_format"),
        ({"trainig": {}}, "unknown_key"),
        ({"data": {"sources": ["gone.jsonl"]}}, "no_source"),
    ],
)
def test_a_later_phase_is_checked_as_the_first_one_is(
    change: dict[str, Any],
    code: str,
    store: Path,
    rows: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    phase = {"data": {"sources": [str(pairs)]}, "training": {"method": "dpo"}} | change
    _, body = ask(capsys, recipe_of(tmp_path, store, rows, phase))
    assert body["error"]["code"] == code
    assert not list_runs()
