"""`train --from hub`: what is fetched on consent, and what is refused before a run exists."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.cli import base as base_verb
from llamaforge.cli import launching
from llamaforge.cli.main import main
from llamaforge.errors import ExitCode
from llamaforge.runs.directory import RunDirectory, list_runs
from tests.contract.hub.fake_hub import TOKEN, FakeHub, FakeRepo, Fault
from tests.contract.hub.hub_desk import NAME, serve, single
from tests.unit.catalog.store_builder import StoreBuilder
from tools.random_models import CHATML

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    """Runs that would have been started."""
    found: list[RunDirectory] = []

    def carry_out(run: RunDirectory, **_: Any) -> ExitCode:
        found.append(run)
        return ExitCode.DONE

    monkeypatch.setattr(launching, "carry_out", carry_out)
    return found


@pytest.fixture
def flags(made: tuple[bytes, dict[str, bytes]], tmp_path: Path) -> list[str]:
    builder = StoreBuilder(tmp_path / "store")
    builder.add("mine:1", made[0])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "is it red?", "completion": "yes"}\n' * 3)
    return ["train", "--store", str(builder.root), "--model", "mine:1", "--data", str(rows)]


def refused(words: list[str], capsys: Capture) -> dict[str, Any]:
    """Run what must be refused, see that nothing was written; return the error."""
    capsys.readouterr()
    code = main([*words, "--json"])
    printed = capsys.readouterr()
    assert not list_runs()
    assert not (paths.home() / "runs").exists()
    assert "Traceback" not in printed.err
    error: dict[str, Any] = json.loads(printed.out)["error"]
    assert error["message"].endswith(".")
    assert error["hint"]
    return error | {"exit": code}


def folder_with(files: dict[str, bytes], folder: Path, **changes: bytes | None) -> str:
    """Write a base into `folder`; changes are contents of files, by name up to its ending."""
    folder.mkdir()
    for name, content in files.items():
        change = changes.get(name.partition(".")[0], content)
        if change is not None:
            (folder / name).write_bytes(change)
    return str(folder)


def test_a_base_is_fetched_once_somebody_agreed_and_the_run_begins(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], hub: FakeHub, begun: list[RunDirectory]
) -> None:
    serve(hub, made[1])
    assert main([*flags, "--base", NAME, "--yes"]) == ExitCode.DONE
    [run] = begun
    assert run.spec_file.exists()
    requests = len(hub.seen)
    assert main([*flags, "--base", NAME, "--yes"]) == ExitCode.DONE
    assert len(hub.seen) == requests, "what is there is not asked for again"


def test_nothing_is_fetched_where_nobody_agrees(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], hub: FakeHub, tmp_path: Path,
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, begun: list[RunDirectory],
) -> None:  # fmt: skip
    serve(hub, made[1])
    error = refused([*flags, "--base", NAME], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "not_agreed")
    monkeypatch.setattr(base_verb, "has_dialogue", lambda: True)
    monkeypatch.setattr(base_verb, "confirm", lambda *_, **__: False)
    assert main([*flags, "--base", NAME]) == ExitCode.INTERRUPTED
    assert not begun
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--data", "/absent/rows.jsonl"], "no_source"),
        (["--set", "max_length=100000"], "max_length"),
        (["--set", "target_modules=[q_prj]"], "target_modules"),
        (["--set", "chat_template={% if"], "chat_template"),
        (["--continue", "absent"], "no_run"),
        (["--publish", "no spaces"], "model_name"),
        (["--method", "dpo"], "unsupported_format"),
    ],
)
def test_nothing_is_fetched_for_a_run_that_could_not_begin(
    more: list[str], code: str, flags: list[str], made: tuple[bytes, dict[str, bytes]],
    hub: FakeHub, tmp_path: Path, capsys: Capture,
) -> None:  # fmt: skip
    serve(hub, made[1])
    assert refused([*flags, "--base", NAME, "--yes", *more], capsys)["code"] == code
    assert not (tmp_path / "hub").exists()
    assert not hub.seen


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hidden_size": 64}, "other_base"),
        ({"vocab_size": 99}, "other_base"),
        ({"quantization_config": {"bits": 4}}, "quantized_base"),
        ({"max_position_embeddings": 128}, "max_length"),
    ],
)
def test_a_base_that_does_not_suit_is_refused_by_its_small_files(
    changes: dict[str, Any], code: str, flags: list[str], made: tuple[bytes, dict[str, bytes]],
    hub: FakeHub, capsys: Capture,
) -> None:  # fmt: skip
    config = json.dumps(json.loads(made[1]["config.json"]) | changes).encode()
    serve(hub, made[1] | {"config.json": config})
    words = [*flags, "--base", NAME, "--yes", "--set", "max_length=200"]
    assert refused(words, capsys)["code"] == code
    assert not hub.asked(".safetensors"), "weights take hours"


ROWS = "maker/rows"


def test_rows_of_the_hub_that_nobody_here_can_have_are_refused_before_a_run_is_made(
    flags: list[str], hub: FakeHub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*flags[:-2], "--data", f"hf:{ROWS}"]
    error = refused(words, capsys)
    assert (error["exit"], error["code"]) == (ExitCode.NOT_FOUND, "no_dataset")
    assert f"/datasets/{ROWS}" in error["hint"]
    hub.repos[ROWS] = FakeRepo({}, gated=True)
    error = refused(words, capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "gated_dataset")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main([*words, "--dry-run"]) == ExitCode.DONE, "who is logged in may have been let in"


@pytest.mark.parametrize("way", ["offline", "broken", "cut", "there"])
def test_what_the_network_leaves_open_about_rows_is_left_to_the_run(
    way: str, flags: list[str], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "offline")
    hub.repos[ROWS] = FakeRepo({})
    faults = {"broken": Fault(status=500), "cut": Fault(cut_after=3)}
    hub.faults["about"] = [faults[way]] if way in faults else []
    assert main([*flags[:-2], "--data", f"hf:{ROWS}", "--dry-run"]) == ExitCode.DONE
    assert bool(hub.seen) is (way != "offline")


def test_a_dry_run_fetches_nothing(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], hub: FakeHub, capsys: Capture
) -> None:
    serve(hub, made[1])
    error = refused([*flags, "--base", NAME, "--yes", "--dry-run"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "base_not_there")
    assert "llamaforge base mine:1 --download" in error["hint"]
    assert not hub.seen


def test_a_repository_that_is_not_there_is_named(
    flags: list[str], hub: FakeHub, capsys: Capture
) -> None:
    error = refused([*flags, "--base", "maker/absent", "--yes"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.NOT_FOUND, "hub_not_found")
    assert "maker/absent" in error["message"]


def test_a_repository_behind_a_gate_is_named(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], hub: FakeHub, capsys: Capture
) -> None:
    repo = serve(hub, made[1], gated="manual")
    repo.gated = True
    error = refused([*flags, "--base", NAME, "--yes"], capsys)
    assert error["code"] == "hub_gated"
    assert NAME in error["message"]


def test_offline_means_that_nothing_is_asked(
    flags: list[str], hub: FakeHub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused([*flags, "--base", NAME, "--yes"], capsys)
    assert error["code"] == "hub_offline"
    assert not hub.seen


def test_a_repository_of_pickles_is_refused_with_the_reason(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], hub: FakeHub, capsys: Capture
) -> None:
    files = {name: data for name, data in made[1].items() if name != "model.safetensors"}
    serve(hub, files | {"pytorch_model.bin": b"x" * 100})
    error = refused([*flags, "--base", NAME, "--yes"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "pickled_weights")
    assert "never opened" in error["message"]
    assert not hub.asked("pytorch_model.bin")


def test_a_repository_that_wants_code_to_be_run_is_refused(
    flags: list[str], hub: FakeHub, capsys: Capture
) -> None:
    serve(hub, single(), config={"auto_map": {"AutoModel": "evil.Model"}})
    error = refused([*flags, "--base", NAME, "--yes"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "remote_code")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"config": b'{"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}'}, "remote_code"),
        ({"tokenizer_config": b"{}", "generation_config": None, "special_tokens_map": None,
          "config": b'{"model_type": "llama"}'}, "no_eos"),
        ({"model": None}, "no_base_folder"),
        ({"config": b'{"model_type": "llama", "eos_token_id": 1, "hidden_size": 9}'}, "other_base"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_base_is_refused(
    changes: dict[str, bytes | None], code: str, flags: list[str],
    made: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: Capture,
) -> None:  # fmt: skip
    folder = folder_with(made[1], tmp_path / "base", **changes)
    error = refused([*flags, "--base", folder], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, code)


def test_more_tokens_than_the_base_has_positions_are_refused(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: Capture
) -> None:
    config = json.loads(made[1]["config.json"]) | {"max_position_embeddings": 256}
    folder = folder_with(made[1], tmp_path / "base", config=json.dumps(config).encode())
    error = refused([*flags, "--base", folder, "--set", "max_length=300"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.USAGE, "max_length")
    assert "256" in error["message"]


def test_a_folder_beside_is_meant_where_it_is_written(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = folder_with(made[1], tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main([*flags, "--base", "./base", "--dry-run", "--json"]) == ExitCode.DONE
    spec = json.loads(capsys.readouterr().out)
    assert spec["model"]["full"]["folder"] == folder
    assert spec["model"]["full"]["revision"] is None
    assert spec["model"]["full"]["chat_template"] == CHATML
    assert spec["training"]["base"] == "hub"
    recipe = tmp_path / "sub" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(
        "model: {name: 'mine:1', base: ../base}\ndata: {sources: [../rows.jsonl]}\n"
        "training: {base: hub, use_peft: false}\n"
    )
    words = ["train", str(recipe), "--store", flags[2], "--dry-run", "--json"]
    assert main(words) == ExitCode.DONE
    spec = json.loads(capsys.readouterr().out)
    assert Path(spec["model"]["full"]["folder"]).resolve() == Path(folder)
    assert spec["training"]["learning_rate"] == 2e-5, "a tenth of what an adapter takes"


def test_four_bits_without_bitsandbytes_are_refused_before_anything_is_written(
    flags: list[str], made: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("llamaforge.recipe.preflight.importlib.util.find_spec", lambda name: None)
    folder = folder_with(made[1], tmp_path / "base")
    error = refused([*flags, "--base", folder, "--set", "load_in_4bit=true"], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.REFUSED, "no_bitsandbytes")


@pytest.mark.parametrize("setting", ["use_dora=true", "load_in_4bit=true", "use_peft=false"])
def test_what_needs_the_base_is_refused_without_it(
    setting: str, flags: list[str], capsys: Capture
) -> None:
    error = refused([*flags, "--set", setting], capsys)
    assert (error["exit"], error["code"]) == (ExitCode.USAGE, "bad_value")
    assert "--from hub" in error["message"]
