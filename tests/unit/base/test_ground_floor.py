"""Safe text, whole files, places and figures of the machine."""

import os
import stat
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge import files, hardware, paths
from llamaforge.files import sha256_of, write_atomic, write_json
from llamaforge.safe_text import redact, safe_line, safe_text


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = safe_text(text)
    assert not any(
        unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in shown
        if char not in "\n\t"
    )  # fmt: skip
    assert "\n" not in safe_line(text)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_escapes_become_visible(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_long_text_ends_in_an_ellipsis() -> None:
    assert safe_text("abcdef", limit=4) == "abc…"
    assert safe_text("abcd", limit=4) == "abcd"
    assert safe_line("a\n\n  b\tc") == "a b c"


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnop", "Bearer abc.def-ghi12345", "https://me:pass1@host/x"]
)
def test_secrets_do_not_reach_a_log(secret: str) -> None:
    text = redact(f"failed: {secret} again")
    assert "***" in text
    assert not any(part in text for part in ("abcdefghijklmnop", "abc.def", "pass1"))


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("commit", "sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, fail)
            with pytest.raises(OSError, match="No space"):
                write_atomic(path, "new")
        if name == "commit":
            assert path.read_text() == "old"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomic(tmp_path / "other", "x")
    assert not (tmp_path / "other").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["f"], "nothing half-written is left"


def test_files_are_private_and_their_folders_too(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"é": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))


def test_a_digest_tells_how_far_it_has_come(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    told: list[int] = []
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path, on_bytes=told.append) == expected
    assert told == [3]


def test_the_home_is_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMAFORGE_HOME", f" {tmp_path} ")
    assert paths.runs_folder() == tmp_path / "runs"
    monkeypatch.setenv("LLAMAFORGE_HOME", "~/forge")
    assert paths.home() == Path.home() / "forge"
    monkeypatch.delenv("LLAMAFORGE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert paths.home() == tmp_path / "llamaforge"


def test_quotes_and_spaces_around_the_store_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", ' "/data/models" ')
    assert paths.store_places()[0].root == Path("/data/models")


def test_a_control_group_is_believed_and_its_file_cache_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    alone = hardware.available_memory_bytes()
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 1900\n")
    assert hardware.available_memory_bytes() == 2400
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.available_memory_bytes() == pytest.approx(alone, rel=0.2)
