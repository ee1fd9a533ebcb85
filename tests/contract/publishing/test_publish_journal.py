import json
from pathlib import Path

import pytest

from llamaforge.errors import RefusedError
from llamaforge.publishing.journal import Journal, read_journal


def test_a_change_is_written_line_by_line_and_privately(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    with Journal(path).change("publish", model="a", previous=None) as change:
        assert [entry["phase"] for entry in read_journal(path)] == ["intent"]
        change.acted()
        change.verified(digest="d")
    entries = read_journal(path)
    assert [entry["phase"] for entry in entries] == ["intent", "act", "verify", "done"]
    assert {entry["id"] for entry in entries} == {1}
    assert entries[0]["previous"] is None
    assert path.stat().st_mode & 0o077 == 0


def test_every_line_is_synced_before_the_next_thing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    path = tmp_path / "journal.jsonl"
    synced: list[int] = []
    real = os.fsync

    def watched(handle: int) -> None:
        real(handle)
        synced.append(path.stat().st_size)

    monkeypatch.setattr("os.fsync", watched)
    with Journal(path).change("publish") as change:
        assert synced[-1] == path.stat().st_size > 0
        change.acted()
        assert synced[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("error", "code"),
    [(RefusedError("No.", code="name_taken"), "name_taken"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_failure_is_noted_with_its_code(tmp_path: Path, error: BaseException, code: str) -> None:
    path = tmp_path / "journal.jsonl"
    with pytest.raises(type(error)), Journal(path).change("publish"):
        raise error
    last = read_journal(path)[-1]
    assert (last["phase"], last["code"]) == ("failed", code)


def test_numbers_go_on_and_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path).change("upload"):
        pass
    path.write_bytes(path.read_bytes() + b'{"v": 1, "id": 2, "cha')
    with Journal(path).change("trial"):
        pass
    assert [(entry["id"], entry["phase"]) for entry in read_journal(path)] == [
        (1, "intent"),
        (1, "done"),
        (2, "intent"),
        (2, "done"),
    ]


def test_a_line_holds_whatever_text_there_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path).change("publish", model="a\n\u2028\udc80"):
        pass
    assert all(json.loads(line) for line in path.read_bytes().split(b"\n") if line)
    assert len(read_journal(path)) == 2
