"""`train`: recipe and flags, what is refused before anything is made, and how a run begins."""

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamaforge import hardware
from llamaforge.cli import launching
from llamaforge.cli.main import main
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, Status, list_runs
from llamaforge.wizard import beginning

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def flags(store: Path, rows: Path) -> list[str]:
    return ["train", "--model", "llamaforge-demo", "--store", str(store), "--data", str(rows)]


def only_blob(store: Path) -> Path:
    """Return the weights: the largest of the store's blobs."""
    return max((store / "blobs").iterdir(), key=lambda path: path.stat().st_size)


def manifest(store: Path) -> Path:
    return store / "manifests/registry.ollama.ai/library/llamaforge-demo/latest"


def add_layer(store: Path, kind: str, data: bytes) -> None:
    """Add a layer to the demo's manifest, with its blob."""
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs" / f"sha256-{digest}").write_bytes(data)
    body = json.loads(manifest(store).read_text())
    media_type = f"application/vnd.ollama.image.{kind}"
    body["layers"].append(
        {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
    )
    manifest(store).write_text(json.dumps(body))


def refused(words: list[str], capsys: Capture, home: Path) -> dict[str, str]:
    """Run what must be refused, see that nothing was made; return the error, with its exit code."""
    capsys.readouterr()
    code = main([*words, "--json"])
    printed = capsys.readouterr()
    assert not (home / "runs").exists()
    assert "Traceback" not in printed.err
    error: dict[str, str] = json.loads(printed.out)["error"]
    assert error["message"].endswith(".")
    assert error["hint"]
    return error | {"exit": str(code)}


def dry_run(words: list[str], capsys: Capture) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--dry-run", "--json"]) == 0
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def test_a_dry_run_prints_the_whole_spec_and_makes_nothing(
    flags: list[str], store: Path, rows: Path, home: Path, capsys: Capture
) -> None:
    assert main([*flags, "--dry-run"]) == 0
    spec = yaml.safe_load(capsys.readouterr().out)
    assert spec["model"]["store"] == str(store)
    assert spec["model"]["blob"] == str(only_blob(store))
    assert spec["model"]["digest"] == only_blob(store).name.replace("-", ":")
    assert spec["data"]["sources"] == [str(rows)]
    assert spec["data"]["max_length"] == 1024
    assert spec["training"]["compute_dtype"] in {"bfloat16", "float32"}
    assert spec["run"].startswith("llamaforge-demo-20")
    assert not (home / "runs").exists()


def test_flags_outrank_the_recipe_and_its_paths_are_relative_to_it(
    store: Path, rows: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "from-recipe",
                "model": {"name": "llamaforge-demo", "store": store.name},
                "data": {"sources": [rows.name]},
                "training": {"learning_rate": 0.5, "lora_r": 4},
                "publish": {"name": "mine"},
            }
        )
    )
    plain = dry_run(["train", str(recipe)], capsys)
    assert plain["run"] == "from-recipe"
    assert plain["model"]["store"] == str(store)
    assert plain["data"]["sources"] == [str(rows)]
    assert (plain["training"]["learning_rate"], plain["training"]["lora_r"]) == (0.5, 4)
    assert plain["publish"]["name"] == "mine"

    own = elsewhere / "own.jsonl"
    own.write_text(rows.read_text())
    words = ["train", str(recipe), "--data", "own.jsonl", "--name", "mine", "--set", "lora_r=8"]
    other = dry_run([*words, "--publish", "other:v2"], capsys)
    assert (other["run"], other["data"]["sources"]) == ("mine", [str(own)])
    assert (other["training"]["learning_rate"], other["training"]["lora_r"]) == (0.5, 8)
    assert other["publish"]["name"] == "other:v2"


def test_several_data_files_can_be_named_together_or_apart(
    flags: list[str], rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    files = [tmp_path / f"{letter}.jsonl.gz" for letter in "abc"]
    for file in files:
        file.write_bytes(gzip.compress(rows.read_bytes()))
    a, b, c = map(str, files)
    words = [*flags[:-2], "--data", a, b, "--data", c]
    assert dry_run(words, capsys)["data"]["sources"] == [a, b, c]


@pytest.mark.parametrize(
    ("more", "code", "exit_code"),
    [
        (["--from", "hub"], "unknown_base", 4),
        (["--method", "dpo"], "unsupported_format", 2),
        (["--set", "beta=0.1"], "bad_value", 2),
        (["--set", "method=orpo", "--set", "loss_type=ipo"], "bad_value", 2),
        (["--set", "method=dpo", "--set", "loss_type=sigmoyd"], "bad_value", 2),
        (["--set", "lerning_rate=1"], "unknown_key", 2),
        (["--set", "learning_rate"], "bad_setting", 2),
        (["--set", "learning_rate=fast"], "bad_value", 2),
        (["--set", "max_length=4096"], "max_length", 2),
        (["--name", "../out"], "run_name", 2),
        (["--publish", "no spaces please"], "model_name", 2),
        (["--data", "/absent/rows.jsonl"], "no_source", 4),
        (["--from", "gguf", "--base", "a/b"], "two_ways", 2),
        (["--set", "validation_fraction=0.5", "--set", "test_fraction=0.5"], "bad_value", 2),
        (
            ["--set", "validation_fraction=0", "--set", "early_stopping_patience=2"],
            "no_validation",
            3,
        ),
        (["--set", "chat_template=chatlm"], "chat_template", 2),
        (["--set", "chat_template={{ messages"], "chat_template", 3),
        (["--set", "target_modules=q_proj,v_prj"], "target_modules", 2),
    ],
)
def test_what_has_no_meaning_is_refused_by_its_code(
    more: list[str], code: str, exit_code: int, flags: list[str], capsys: Capture, home: Path
) -> None:
    error = refused([*flags, *more], capsys, home)
    assert (error["exit"], error["code"]) == (str(exit_code), code)


def test_what_is_missing_is_named_with_its_flag(capsys: Capture, home: Path) -> None:
    assert "--model" in refused(["train"], capsys, home)["hint"]
    assert "--data" in refused(["train", "--model", "x"], capsys, home)["hint"]


def test_a_model_that_is_not_there_is_refused_with_near_names(
    flags: list[str], capsys: Capture, home: Path
) -> None:
    words = [word.replace("llamaforge-demo", "lamaforge-demo") for word in flags[:3]] + flags[3:]
    error = refused(words, capsys, home)
    assert (error["exit"], error["code"]) == ("4", "no_model")
    assert "llamaforge-demo" in error["hint"]


def test_a_truncated_blob_is_refused(
    flags: list[str], store: Path, capsys: Capture, home: Path
) -> None:
    os.truncate(only_blob(store), 1_000_000)
    assert refused(flags, capsys, home)["exit"] == "3"


def test_a_blob_that_is_no_gguf_is_refused(
    flags: list[str], store: Path, capsys: Capture, home: Path
) -> None:
    blob = only_blob(store)
    blob.write_bytes(b"\x1b[2J" + bytes(blob.stat().st_size - 4))
    error = refused(flags, capsys, home)
    assert error["exit"] == "3"
    assert "GGUF" in error["message"]


def test_a_model_with_an_adapter_of_its_own_is_refused(
    flags: list[str], store: Path, capsys: Capture, home: Path
) -> None:
    add_layer(store, "adapter", b"GGUF adapter")
    error = refused(flags, capsys, home)
    assert (error["exit"], error["code"]) == ("3", "has_adapter")
    assert "FROM" in error["hint"]


def test_a_store_that_cannot_be_read_is_refused(
    flags: list[str], tmp_path: Path, capsys: Capture, home: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place, code in ((tmp_path / "file", "unreadable_store"), (tmp_path / "no", "no_store")):
        error = refused([*flags, "--store", str(place)], capsys, home)
        assert (error["exit"], error["code"]) == ("4", code)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "empty_dataset", "rows"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n', "rejected_rows", "line 2"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt"\n', "rejected_rows", "line 2"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_with_their_line(
    text: str, code: str, words: str, flags: list[str], rows: Path, capsys: Capture, home: Path
) -> None:
    rows.write_text(text)
    error = refused(flags, capsys, home)
    assert (error["exit"], error["code"]) == ("3", code)
    assert words in error["message"]


def test_a_full_disk_is_refused_with_the_figures(
    flags: list[str], capsys: Capture, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda place: 12_000_000)
    error = refused(flags, capsys, home)
    assert (error["exit"], error["code"]) == ("3", "no_disk_space")
    assert "12 MB are free" in error["message"]
    assert str(home / "runs") in error["message"]


def test_too_little_memory_is_refused_with_the_figures(
    flags: list[str], capsys: Capture, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 5_000_000)
    error = refused(flags, capsys, home)
    assert (error["exit"], error["code"]) == ("3", "no_memory")
    assert "5 MB are available" in error["message"]


def test_a_home_that_cannot_be_written_is_refused(
    flags: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "file"))
    assert main([*flags, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "home_not_writable"


@pytest.mark.parametrize(
    ("body", "code", "exit_code"),
    [
        ("- a\n", "bad_recipe", 2),
        ("model: 3\n", "bad_recipe", 2),
        ("model: [\n", "bad_yaml", 2),
        ("model: {name: x}\ndata: {sources: [r]}\ntraining: {lora_rank: 3}\n", "unknown_key", 2),
        ("model: {name: x}\ndata: {sources: [r]}\ntraining: {method: dop}\n", "bad_value", 2),
        ("model: {name: 7}\ndata: {sources: 5}\n", "bad_value", 2),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(
    body: str, code: str, exit_code: int, tmp_path: Path, capsys: Capture, home: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(body)
    error = refused(["train", str(recipe)], capsys, home)
    assert (error["exit"], error["code"]) == (str(exit_code), code)


def test_a_recipe_that_is_not_there_is_not_found(capsys: Capture, home: Path) -> None:
    assert refused(["train", "absent.yaml"], capsys, home)["exit"] == "4"


def test_a_spec_that_cannot_be_written_leaves_no_directory(
    flags: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamaforge.recipe.spec import RunSpec

    def fail(spec: RunSpec, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunSpec, "save", fail)
    assert main(flags) == 1
    assert list((home / "runs").iterdir()) == []


def finish_at_once(run: RunDirectory) -> int:
    """Do what a worker does that is done before it can be watched."""
    writer = events.EventWriter(run.events_file)
    writer.write(events.Started(run=run.id, pid=77))
    writer.write(events.Finished(run=run.id, state="finished"))
    writer.close()
    run.write_status(Status(state=RunState.FINISHED))
    return 77


def test_detached_it_says_which_run_began(
    flags: list[str], home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "launch", finish_at_once)
    assert main([*flags, "--name", "mine", "--detach", "--json"]) == 0
    path = str(home / "runs/mine")
    assert json.loads(capsys.readouterr().out) == {"run": "mine", "path": path, "pid": 77}
    assert main([*flags, "--name", "other", "--detach"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "other\n"
    assert "llamaforge runs attach other" in printed.err


def test_a_name_that_was_given_is_used_once_and_one_that_was_made_is_numbered(
    flags: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "launch", finish_at_once)
    assert main([*flags, "--name", "mine", "--detach"]) == 0
    assert main([*flags, "--name", "mine", "--detach"]) == 2
    assert "llamaforge runs rm mine" in capsys.readouterr().err
    assert main([*flags, "--detach"]) == 0
    assert main([*flags, "--detach"]) == 0
    first, second = sorted(run.id for run in list_runs() if run.id != "mine")
    assert second == f"{first}-2"


def test_a_name_that_is_taken_is_told_by_a_dry_run_too(
    flags: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "launch", finish_at_once)
    assert main([*flags, "--name", "mine", "--detach"]) == 0
    capsys.readouterr()
    assert main([*flags, "--name", "mine", "--dry-run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run_exists"


def test_figures_of_a_later_phase_need_their_program_too(
    flags: list[str], rows: Path, tmp_path: Path, capsys: Capture, home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("llamaforge.recipe.preflight.importlib.util.find_spec", lambda name: None)
    recipe = tmp_path / "recipe.yaml"
    phase = {"data": {"sources": [str(rows)]}, "training": {"report_to": "mlflow"}}
    recipe.write_text(yaml.safe_dump({"then": [phase]}))
    error = refused(["train", str(recipe), *flags[1:]], capsys, home)
    assert error["code"] == "no_tracker"


def test_rows_that_say_themselves_that_they_are_held_out_tell_the_best_checkpoint(
    flags: list[str], rows: Path, capsys: Capture
) -> None:
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "a", "completion": "b", "split": "validation"}) + "\n")
    words = ["--set", "validation_fraction=0", "--set", "load_best_model_at_end=true"]
    assert dry_run([*flags, *words], capsys)["training"]["load_best_model_at_end"] is True


def test_json_streams_the_events_of_the_run(
    flags: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "launch", finish_at_once)
    assert main([*flags, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["started", "finished"]


def test_ctrl_c_while_the_worker_starts_tells_how_to_stop_it(
    flags: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: RunDirectory) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "launch", interrupted)
    assert main([*flags, "--name", "mine"]) == 130
    assert "llamaforge runs stop mine" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "runs", "code"), [("n\n", 0, 130), ("\n", 1, 0)])
def test_a_person_at_a_terminal_is_asked_first(
    typed: str,
    runs: int,
    code: int,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launching, "launch", finish_at_once)
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", Terminal())
    assert main([*flags, "--detach"]) == code
    assert len(list_runs()) == runs


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen2.5:3b", "qwen2.5-3b-"),
        ("hf.co/me/My Model:Q4", "My-Model-Q4-"),
        ("---", "run-"),
        ("x" * 100, "x" * 45 + "-"),
    ],
)
def test_a_run_is_named_after_its_model_and_the_day(model: str, name: str) -> None:
    made = beginning.automatic_name(model)
    assert made.startswith(name)
    assert len(made) <= 60


@pytest.mark.slow
def test_two_real_steps_lead_to_a_proof_and_a_report(flags: list[str], capsys: Capture) -> None:
    settings = ["max_steps=2", "max_length=128", "max_new_tokens=4", "per_device_eval_batch_size=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main([*flags, *words, "--name", "real"]) == 0
    printed = capsys.readouterr()
    assert "Passed: llama.cpp serves what was trained" in printed.out
    assert "llamaforge publish real --name llamaforge-demo-tuned" in printed.out
    assert "train 2/2 steps" in printed.err
    assert main(["runs", "show", "real", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["step"], shown["total"]) == ("finished", 2, 2)
    assert {item["kind"] for item in shown["artifacts"]} >= {"adapter", "modelfile", "verify"}
    assert main(["verify", "real", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert main(["runs", "resume", "real"]) == 3
