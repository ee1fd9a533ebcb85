"""`llamaforge base`: a base is shown with its reasons, said, forgotten, and fetched on consent."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamaforge.cli import base as base_verb
from llamaforge.cli.main import main
from llamaforge.errors import ExitCode
from tests.contract.hub.fake_hub import FakeHub
from tests.contract.hub.hub_desk import NAME, serve, single
from tests.unit.catalog.store_builder import Gguf, StoreBuilder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    builder = StoreBuilder(tmp_path / "store")
    builder.add("mine:1", Gguf().bytes())
    builder.add("qwen2.5:3b", Gguf("qwen2").bytes())
    return builder.root


def call(store: Path, *words: str) -> int:
    return main(["base", *words, "--store", str(store)])


def answer(store: Path, capsys: Capture, *words: str) -> dict[str, Any]:
    assert call(store, *words, "--json") == ExitCode.DONE
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_it_says_what_is_known_and_why(store: Path, capsys: Capture) -> None:
    assert call(store, "qwen2.5:3b") == ExitCode.DONE
    printed = capsys.readouterr()
    assert "Qwen/Qwen2.5-3B-Instruct (guess)" in printed.out
    assert "But it has 1 layer, and" in printed.out
    assert "llamaforge base qwen2.5:3b --download" in printed.err
    assert call(store, "mine:1") == ExitCode.DONE
    printed = capsys.readouterr()
    assert "the base is not known" in printed.out
    assert "--set OWNER/NAME" in printed.err


def test_what_is_said_is_kept_until_it_is_forgotten(store: Path, capsys: Capture) -> None:
    said = answer(store, capsys, "mine:1", "--set", NAME)
    assert said["base"]["repo"] == NAME
    assert said["base"]["confidence"] == "certain"
    assert answer(store, capsys, "mine:1")["base"]["repo"] == NAME
    assert answer(store, capsys, "mine:1", "--forget")["base"]["repo"] is None
    assert call(store, "mine:1", "--forget") == ExitCode.DONE
    assert "Nothing was said" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["mine:1", "--set", "nonsense"], ExitCode.USAGE),
        (["absent:1"], ExitCode.NOT_FOUND),
        (["mine:1", "--download"], ExitCode.NOT_FOUND),
        (["mine:1", "--set", "a/b", "--forget"], ExitCode.USAGE),
    ],
)
def test_what_cannot_be_done_has_its_exit_code(
    store: Path, words: list[str], code: ExitCode, capsys: Capture
) -> None:
    assert call(store, *words) == code
    assert "error:" in capsys.readouterr().err


def test_nothing_is_fetched_before_somebody_agreed(
    store: Path, hub: FakeHub, capsys: Capture
) -> None:
    serve(hub, single())
    call(store, "mine:1", "--set", NAME)
    assert call(store, "mine:1", "--download") == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert "to fetch, license" in printed.err
    assert "Free on the disk" in printed.err
    assert "--yes" in printed.err
    assert hub.asked("resolve") == []


def test_a_person_who_says_no_is_not_overruled(
    store: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single())
    call(store, "mine:1", "--set", NAME)
    monkeypatch.setattr(base_verb, "has_dialogue", lambda: True)
    monkeypatch.setattr(base_verb, "confirm", lambda question, default: False)
    assert call(store, "mine:1", "--download") == ExitCode.INTERRUPTED
    assert hub.asked("resolve") == []


def test_with_consent_it_is_there_afterwards(store: Path, hub: FakeHub, capsys: Capture) -> None:
    serve(hub, single())
    call(store, "mine:1", "--set", NAME)
    capsys.readouterr()
    found = answer(store, capsys, "mine:1", "--download", "--yes")
    assert found["cache"]["state"] == "complete"
    assert found["cache"]["missing_bytes"] == 0
    assert found["cache"]["revision"]


def test_a_folder_of_ones_own_needs_no_download(
    store: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, data in single().items():
        (folder / name).write_bytes(data)
    call(store, "mine:1", "--set", str(folder))
    capsys.readouterr()
    assert answer(store, capsys, "mine:1", "--download", "--yes")["cache"]["state"] == "complete"
