"""`models` and `show`: a table in 80 columns, JSON for scripts, nothing a terminal would obey."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from llamaforge import paths
from llamaforge.catalog.base_choices import remember_base
from llamaforge.catalog.store import Store
from llamaforge.cli import models, show
from llamaforge.errors import ExitCode, NotFoundError
from llamaforge.words import count_words, size_words
from tests.unit.catalog.store_builder import Gguf, StoreBuilder
from tests.unit.hub.cache_builder import weights


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreBuilder:
    monkeypatch.setenv("COLUMNS", "80")
    return StoreBuilder(tmp_path / "store")


def call(builder: StoreBuilder, line: str) -> ExitCode:
    """Run a verb on the builder's store as the main parser would."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    models.add_parser(verbs)
    show.add_parser(verbs)
    arguments = parser.parse_args([*shlex.split(line), "--store", str(builder.root)])
    code = arguments.run(arguments)
    assert isinstance(code, ExitCode)
    return code


def listed(builder: StoreBuilder, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert call(builder, "models --json") is ExitCode.DONE
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, list)
    return value


def test_whether_the_base_can_be_trained_is_said_with_the_reason(
    builder: StoreBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder.add("tiny:1m")
    builder.write_manifest("torn:x", b"{")
    folder = tmp_path / "base"
    folder.mkdir()
    config = {"model_type": "llama", "eos_token_id": 2}
    contents = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": weights(100),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    [tiny] = [model for model in Store.open(builder.root).models() if model.name == "tiny:1m"]
    remember_base(tiny, str(folder))

    def said(place: int = 0) -> tuple[bool, str]:
        found = listed(builder, capsys)[place]["trainable"]
        return found["hub"], found["hub_reason"]

    assert said() == (True, "")
    torn = said(1)
    assert not torn[0]
    assert "not sound JSON" in torn[1]
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    assert (said()[0], "auto_map" in said()[1]) == (False, True)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    assert "quantised themselves" in said()[1]
    (folder / "model.safetensors").unlink()
    assert "lacks model.safetensors" in said()[1]
    remember_base(tiny, "maker/absent")
    assert said() == (False, "The full-precision base maker/absent is not on this machine")


def test_the_json_list_has_what_scripts_rely_on(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    body = builder.add("tiny:1m")
    builder.write_manifest("torn:x", b"{")
    tiny, torn = listed(builder, capsys)
    digest = body["layers"][0]["digest"]
    assert tiny["name"] == "tiny:1m"
    assert len(tiny["digest"]) == 64
    assert tiny["size_bytes"] == body["layers"][0]["size"] + body["config"]["size"]
    assert tiny["parameters"] == 32 * 256 + 3 * 256 * 256 + 256
    assert (tiny["architecture"], tiny["quantization"]) == ("llama", "Q4_K_M")
    assert (tiny["context_length"], tiny["status"], tiny["reason"]) == (128, "ready", "")
    assert tiny["blob"] == str(builder.blob(digest).resolve())
    assert tiny["trainable"]["gguf"] is True
    assert (tiny["trainable"]["hub"], tiny["trainable"]["reason"]) == (False, "")
    assert tiny["trainable"]["hub_reason"] == "its full-precision base is not known"
    assert tiny["base"]["repo"] is None
    assert tiny["base"]["confidence"] == "unknown"
    assert tiny["base"]["evidence"]
    assert tiny["cache"] == {
        "state": "absent",
        "bytes": 0,
        "missing_bytes": None,
        "missing": [],
        "revision": None,
    }
    assert tiny["stores"] == [str(builder.root)]
    assert (torn["name"], torn["status"], torn["digest"]) == ("torn:x", "broken", None)
    assert torn["trainable"]["gguf"] is False
    assert torn["trainable"]["reason"] == torn["reason"]
    assert "not sound JSON" in torn["reason"]


def test_the_table_fits_80_columns_with_reasons_below(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    builder.add("hf.co/some-organisation/A-Rather-Long-Model-Name-Instruct-GGUF:Q4_K_M")
    builder.add("other:x", Gguf("deepseek2-with-a-long-name").bytes())
    assert call(builder, "models") is ExitCode.DONE
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    table, _, reasons = out.partition("\n\n")
    for word in ("NAME", "hf.co/some-", "Q4_K_M", "128", "ready", "unsupported"):
        assert word in table
    assert "other:x: models of the architecture" in reasons
    assert "Choose a model of one of: llama, mistral3" in " ".join(reasons.split())


def test_a_reason_that_concerns_many_models_is_said_once(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        builder.write_manifest(f"torn{number}:x", b"{")
    call(builder, "models")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("not sound JSON") == 1
    assert "torn0:x, torn10:x, " in shown
    assert " and 4 more: " in shown


def test_an_empty_store_says_what_to_type(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(builder, "models") is ExitCode.DONE
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "ollama pull qwen2.5:3b" in said
    assert "llamaforge demo" in said
    assert listed(builder, capsys) == []


def test_an_absent_store_is_not_found(tmp_path: Path) -> None:
    arguments = argparse.Namespace(stores=[tmp_path / "absent"], json=True)
    with pytest.raises(NotFoundError, match="no Ollama store"):
        models.run(arguments)


def test_the_store_is_ollamas_own_unless_one_is_named(
    builder: StoreBuilder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder.add("tiny:1m")
    monkeypatch.setenv("OLLAMA_MODELS", str(builder.root))
    models.run(argparse.Namespace(stores=[], json=True))
    assert [model["name"] for model in json.loads(capsys.readouterr().out)] == ["tiny:1m"]


def test_the_shipped_store_lists_as_ready(capsys: pytest.CaptureFixture[str]) -> None:
    models.run(argparse.Namespace(stores=[paths.embedded_store()], json=True))
    shipped = json.loads(capsys.readouterr().out)
    assert shipped
    assert {model["status"] for model in shipped} == {"ready"}


def test_show_tells_every_fact_and_its_source(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = [
        ("template", b"{{ .Prompt }}"),
        ("system", b"Be [bold]brief[/bold]."),
        ("params", b'{"temperature": 0.5}'),
        ("license", b"MIT License\nlong text"),
        ("projector", b"eyes"),
    ]
    config = {"model_family": "llama", "renderer": "qwen3"}
    builder.add(
        "tiny:1m", Gguf(extra={"general.name": "Tiny"}).bytes(), config=config, layers=layers
    )
    assert call(builder, "show TINY:1m") is ExitCode.DONE
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "tiny:1m: ready",
        "architecture llama GGUF header",
        "parameters 205K (205,056) GGUF header",
        "quantization Q4_K_M GGUF header",
        "context length 128 tokens GGUF header",
        "general.name Tiny GGUF header",
        "renderer qwen3 config layer",
        "PARAMETER temperature 0.5 params layer",
        "{{ .Prompt }}",
        "Be [bold]brief[/bold].",
        "MIT License",
        "license MIT license layer",
        "base unknown",
    ):
        assert line in lines
    assert any(line.startswith("projector ") and line.endswith(" 4 B") for line in lines)

    assert call(builder, "show tiny:1m --json") is ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["system"] == "Be [bold]brief[/bold]."
    assert shown["licenses"] == ["MIT License\nlong text"]
    assert shown["sources"]["architecture"] == "GGUF header"
    assert [layer["kind"] for layer in shown["layers"]] == ["model", *(kind for kind, _ in layers)]


def test_show_of_a_spoiled_model_says_what_to_do(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    body = builder.add("tiny:1m", config={"model_family": "llama"})
    builder.blob(body["layers"][0]["digest"]).unlink()
    assert call(builder, "show tiny:1m") is ExitCode.DONE
    out = " ".join(capsys.readouterr().out.split())
    assert "tiny:1m: missing blob" in out
    assert "Pull the model again" in out
    assert "architecture llama config layer" in out


@pytest.mark.parametrize("verb", ["models", "show m:x", "models --json", "show m:x --json"])
def test_nothing_from_the_store_reaches_the_terminal_raw(
    builder: StoreBuilder, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    evil = "\x1b[2J\x9b31m\u202e\u200b[/red]"
    gguf = Gguf(extra={"general.name": evil})
    layers = [
        ("system", evil.encode()),
        ("template", evil.encode() + b"\xff"),
        ("license", evil.encode()),
        ("messages", json.dumps([{"role": evil, "content": evil}]).encode()),
        ("params", json.dumps({evil: [evil]}).encode()),
        (evil, b"?"),
    ]
    builder.add("m:x", gguf.bytes(), config={"renderer": evil}, layers=layers)
    builder.add("odd:x", Gguf(architecture=evil).bytes())
    odd = builder.manifest_path("odd:x")
    odd.rename(odd.with_name("\x1b[2J"))
    assert call(builder, verb) is ExitCode.DONE
    captured = capsys.readouterr()
    raw = set(captured.out + captured.err)
    assert not raw & set("\x1b\x9b")
    if "--json" not in verb:
        assert not raw & set("\u202e\u200b")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 KB"),
        (1_929_912_432, "1.9 GB"),
        (999_960_000, "1.0 GB"),
        (397_821_319, "398 MB"),
        (42_520_413_916, "42.5 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_read_as_in_ollama(size: int, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, "12"), (3_085_938_688, "3.1B"), (494_032_768, "494M"), (999_999_999, "1.0B")],
)
def test_counts_read_as_in_model_names(count: int, words: str) -> None:
    assert count_words(count) == words
