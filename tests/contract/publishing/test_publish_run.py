"""Publishing a run: what it must have, and what is done where no server answers."""

import argparse
import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.cli import publish as verb
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.publishing.journal import read_journal
from llamaforge.publishing.request import MergedFile
from llamaforge.publishing.run import publish_run, run_request
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    PublishChoice,
    ResolvedModel,
    RunSpec,
)
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs.directory import RunDirectory, create_run
from llamaforge.runs.lock import RunLock
from llamaforge.worker import publication
from tests.contract.publishing.fake_ollama import FakeOllama
from tests.contract.publishing.publishing_desk import BASE, PATIENT, write_adapter
from tests.unit.catalog.store_builder import StoreBuilder


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "home"))
    run = create_run("tuned")
    RunSpec(
        run="tuned",
        model=ResolvedModel(
            name="qwen2.5:3b",
            store=tmp_path / "no-store",
            blob=tmp_path / "blob",
            digest=f"sha256:{BASE}",
            architecture="llama",
            quantization="Q4_K_M",
            context_length=128,
        ),
        data=DataChoice(sources=[tmp_path / "rows.jsonl"]),
        training=TrainingSettings(),
        evaluation=EvaluationSettings(),
        publish=PublishChoice(),
    ).save(run.spec_file)
    adapter = run.artifacts / "adapter.gguf"
    sha256 = write_adapter(adapter)
    listed = [{"kind": "adapter", "path": str(adapter), "sha256": sha256}]
    (run.artifacts / "artifacts.json").write_text(json.dumps(listed))
    (run.artifacts / "verify.json").write_text('{"passed": true, "kl_mean": 0.001}')
    return run


@pytest.fixture
def server(ollama_server: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> FakeOllama:
    ollama_server.add("qwen2.5:3b", BASE)
    monkeypatch.setenv("OLLAMA_HOST", ollama_server.url)
    return ollama_server


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{unused.getsockname()[1]}")


def command(*words: str) -> ExitCode:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["publish", *words])
    return verb.run(arguments)


def test_a_run_is_published_and_noted_in_its_journal(
    finished_run: RunDirectory, server: FakeOllama
) -> None:
    seen: list[str] = []
    result = publish_run(
        finished_run, "mine:v1", on_progress=lambda what, *_: seen.append(what), limits=PATIENT
    )
    made = server.get("mine:v1")
    assert made is not None
    assert made.digest == result.digest
    assert made.adapters == [result.file_sha256]
    assert {"upload", "load"} <= set(seen)
    assert read_journal(finished_run.journal_file)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "not verified"),
        ("{", "not verified"),
        ("[]", "not verified"),
        ("{}", "no reason is given"),
        ('{"passed": "yes"}', "no reason is given"),
        ('{"passed": false, "reason": "the KL is \\u001b[31m too high."}', "too high"),
    ],
)
def test_only_what_was_verified_is_published(
    finished_run: RunDirectory, report: str | None, reason: str
) -> None:
    path = finished_run.artifacts / "verify.json"
    path.unlink()
    if report is not None:
        path.write_text(report)
    with pytest.raises(RefusedError) as caught:
        run_request(finished_run, "mine")
    assert caught.value.code == "not_verified"
    assert reason in caught.value.message
    assert caught.value.message.isprintable()


def test_a_run_without_an_adapter_has_nothing_to_publish(finished_run: RunDirectory) -> None:
    (finished_run.artifacts / "adapter.gguf").unlink()
    with pytest.raises(LlamaForgeError) as caught:
        run_request(finished_run, "mine")
    assert caught.value.code == "no_adapter"
    assert caught.value.exit_code == ExitCode.NOT_FOUND


def test_by_hand_it_is_said_that_not_every_server_takes_adapters(
    finished_run: RunDirectory, no_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(finished_run.id, "--name", "mine") is ExitCode.FAILED
    assert "0.30.0 to 0.34.0" in capsys.readouterr().err.splitlines()[-1]


def test_why_a_merged_file_is_published_instead_is_said(
    finished_run: RunDirectory,
    server: FakeOllama,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise RefusedError("Not now.", code="enough")

    server.version, server.takes_adapters = "0.40.0", False
    monkeypatch.setattr("llamaforge.worker.publication.check_before_merging", stop)
    with pytest.raises(RefusedError, match="Not now"):
        command(finished_run.id, "--name", "mine")
    assert "This server takes no adapters" in capsys.readouterr().err


def test_before_publishing_both_ways_are_named(
    finished_run: RunDirectory,
    server: FakeOllama,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert command(finished_run.id, "--name", "mine") is ExitCode.INTERRUPTED
    shown = capsys.readouterr().err
    assert "or one file with both merged where the server takes no adapters" in shown
    assert "Nothing was published." in shown


def test_by_hand_it_takes_a_modelfile_and_two_commands(finished_run: RunDirectory) -> None:
    by_hand = verb.write_by_hand(finished_run, run_request(finished_run, "mine"))
    text = by_hand.modelfile.read_text()
    assert "\nFROM qwen2.5:3b\n" in text
    assert f'\nADAPTER "{finished_run.artifacts / "adapter.gguf"}"\n' in text
    assert [line.split()[:3] for line in by_hand.commands] == [
        ["ollama", "create", "mine:latest"],
        ["ollama", "run", "mine:latest"],
    ]


def test_the_verb_publishes_and_says_so_in_json(
    finished_run: RunDirectory, server: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("tuned", "--name", "mine", "--json") is ExitCode.DONE
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    made = server.get("mine")
    assert made is not None
    assert body["published"] is True
    assert (body["run"], body["name"], body["digest"]) == ("tuned", "mine:latest", made.digest)


def test_the_verb_shows_an_answer_without_what_a_terminal_would_obey(
    finished_run: RunDirectory, server: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("latest", "--name", "mine", "--yes") is ExitCode.DONE
    out = capsys.readouterr().out
    assert "Hello, I am\\x1b[2J here." in out
    assert "ollama run mine:latest" in out


@pytest.mark.usefixtures("no_server")
def test_without_a_server_the_verb_fails_and_prints_the_two_commands(
    finished_run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("tuned", "--name", "mine", "--yes") is ExitCode.FAILED
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"ollama create mine:latest -f {finished_run.artifacts / 'Modelfile'}",
        "ollama run mine:latest",
    ]
    assert "Nothing was published" in printed.err
    assert (finished_run.artifacts / "Modelfile").is_file()


@pytest.mark.usefixtures("no_server")
def test_without_a_server_the_json_says_that_nothing_was_published(
    finished_run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("tuned", "--name", "mine", "--json") is ExitCode.FAILED
    body = json.loads(capsys.readouterr().out)
    assert body["published"] is False
    assert body["code"] == "no_server"
    assert len(body["commands"]) == 2
    assert body["modelfile"] == str(finished_run.artifacts / "Modelfile")


def test_a_refusal_is_no_reason_to_do_it_by_hand(
    finished_run: RunDirectory, server: FakeOllama
) -> None:
    server.add("mine", "0" * 64)
    with pytest.raises(RefusedError) as caught:
        command("tuned", "--name", "mine", "--json")
    assert caught.value.code == "name_taken"
    assert not (finished_run.artifacts / "Modelfile").exists()


def test_a_run_that_a_worker_holds_is_left_alone(
    finished_run: RunDirectory, server: FakeOllama
) -> None:
    with RunLock(finished_run.lock_file), pytest.raises(RefusedError) as caught:
        command("tuned", "--name", "mine", "--json")
    assert caught.value.code == "run_locked"
    assert server.get("mine") is None


# Before a merged file is written, which may take an hour


@pytest.fixture
def merging(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked to be merged; no file comes of it."""
    asked: list[str] = []

    def merge(run: RunDirectory, *_: object, **__: object) -> None:
        asked.append(run.id)
        raise LlamaForgeError("Merged.", "", code="merged")

    monkeypatch.setattr(publication, "merge_run", merge)
    return asked


def publish_merged(run: RunDirectory, name: str = "mine", **more: Any) -> str:
    with pytest.raises(LlamaForgeError) as caught:
        publication.publish_as(run, name, "gguf", on_progress=lambda *_: None, **more)
    return caught.value.code


@pytest.fixture
def stored_run(finished_run: RunDirectory) -> RunDirectory:
    """A run on the built-in model."""
    stored = Store.open(paths.embedded_store()).find("llamaforge-demo")
    spec = RunSpec.load(finished_run.spec_file)
    changes = {
        "store": paths.embedded_store(),
        "name": "llamaforge-demo",
        "digest": f"sha256:{stored.blob_digest}",
    }
    model = spec.model.model_copy(update=changes)
    spec.model_copy(update={"model": model}).save(finished_run.spec_file)
    return finished_run


def test_what_nothing_speaks_against_is_merged(
    stored_run: RunDirectory, server: FakeOllama, merging: list[str]
) -> None:
    assert publish_merged(stored_run) == "merged"
    server.add("mine", "0" * 64)
    assert publish_merged(stored_run, overwrite=True) == "merged"
    assert merging == ["tuned", "tuned"]


def test_a_taken_name_is_refused_before_anything_is_merged(
    stored_run: RunDirectory, server: FakeOllama, merging: list[str]
) -> None:
    server.add("mine", "0" * 64)
    assert publish_merged(stored_run) == "name_taken"
    assert publish_merged(stored_run, "llamaforge-demo") == "name_is_base"
    assert merging == []


def test_a_distant_server_is_refused_before_anything_is_merged(
    stored_run: RunDirectory, merging: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://192.0.2.1:11434")
    assert publish_merged(stored_run) == "remote_host"
    assert merging == []


def test_a_store_that_is_gone_is_named_before_anything_is_merged(
    finished_run: RunDirectory, server: FakeOllama, merging: list[str]
) -> None:
    assert publish_merged(finished_run) == "no_store"
    assert merging == []


def test_the_template_of_another_model_under_the_same_name_is_not_taken(
    stored_run: RunDirectory, server: FakeOllama, merging: list[str]
) -> None:
    spec = RunSpec.load(stored_run.spec_file)
    model = spec.model.model_copy(update={"digest": f"sha256:{BASE}"})
    spec.model_copy(update={"model": model}).save(stored_run.spec_file)
    assert publish_merged(stored_run) == "other_base"
    assert publish_merged(stored_run, "llamaforge-demo", overwrite=True) == "merged"


@pytest.mark.parametrize("is_sound", [True, False])
def test_what_lies_beside_a_merged_file_goes_along_or_is_told(
    is_sound: bool,
    finished_run: RunDirectory,
    tmp_path: Path,
    server: FakeOllama,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = Store.open(paths.embedded_store()).find("llamaforge-demo").blob
    assert blob is not None
    builder = StoreBuilder(tmp_path / "store")
    write_adapter(tmp_path / "p.gguf", "clip", kind="mmproj")
    projector = (tmp_path / "p.gguf").read_bytes() if is_sound else b"GGUF"
    builder.add(
        "qwen2.5:3b",
        blob.read_bytes(),
        config={"requires": "0.31.2"},
        layers=[("projector", projector), ("draft", b"GGUF draft")],
    )
    stored = Store.open(builder.root).find("qwen2.5:3b")
    spec = RunSpec.load(finished_run.spec_file)
    changes = {"store": builder.root, "digest": f"sha256:{stored.blob_digest}"}
    model = spec.model.model_copy(update=changes)
    spec.model_copy(update={"model": model}).save(finished_run.spec_file)
    file = tmp_path / "merged.gguf"
    merged = MergedFile(file, write_adapter(file, kind="model"))
    monkeypatch.setattr(publication, "merged_for_ollama", lambda *_, **__: merged)
    assert command("tuned", "--name", "mine", "--as", "gguf", "--json") is ExitCode.DONE
    printed = capsys.readouterr()
    made = server.get("mine")
    assert made is not None
    digests = [layer.digest for layer in stored.layers]
    assert (made.projectors, made.requires) == (digests[1:2] if is_sound else [], "0.31.2")
    assert made.drafts == digests[2:3]
    assert json.loads(printed.out)["left_out"] == ([] if is_sound else ["projector"])
    assert ("The projector of qwen2.5:3b did not go along" in printed.err) != is_sound


def test_a_type_that_ollama_refuses_is_refused_before_anything_is_merged(
    stored_run: RunDirectory, server: FakeOllama, merging: list[str]
) -> None:
    assert publish_merged(stored_run, quantization="F32") == "quantization"
    assert merging == []
