"""Conversations are kept only where asked, as rows that the data room takes as they are."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from llamaforge.collecting.chat_log import ChatLog, KeptTurn
from llamaforge.data.formats import detect, read_records
from llamaforge.data.records import Record
from llamaforge.errors import LlamaForgeError, RefusedError

ASKED = KeptTurn("Where is it?", "In Oslo.")
AGAIN = KeptTurn("Since when?", "Since May.")
CUT = KeptTurn("Why?", "Because of the", whole=False)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_conversation_is_one_row_however_often_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ChatLog(path, "notes") as log:
        assert log.keep([ASKED])
        assert log.keep([ASKED, AGAIN])
        log.begin()
        assert log.keep([AGAIN])
        assert log.conversations == 2
        found = lines(path)  # on the disk before the end
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [len(row["messages"]) for row in found] == [4, 2]  # type: ignore[arg-type]
    assert {row["arm"] for row in found} == {"tuned"}
    with ChatLog(path, "notes") as log:
        assert log.keep([ASKED])
    assert len(lines(path)) == 3


def test_rows_are_taken_by_the_data_room(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ChatLog(path, "notes") as log:
        for number in range(12):
            log.keep([KeptTurn(f"Where is number {number}?", f"In room {number}."), CUT])
            log.prefer(
                [],
                KeptTurn(f"What is {number}?", f"{number} it is."),
                KeptTurn(f"What is {number}?", "Who knows?"),
            )
            log.begin()
    rows = list(read_records(path))
    assert len(rows) == 12
    assert isinstance(rows[0], Record)
    assert [turn.trained for turn in rows[0].messages] == [True, True, True, False]
    assert (detect(path).format, detect(path).confidence) == ("chat", 1.0)
    assert detect(log.pairs_path).format == "preference"


def test_what_is_cut_or_empty_is_not_to_be_learned(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ChatLog(path, "notes") as log:
        assert not log.keep([CUT, KeptTurn("Well?", " ")])
    assert not path.exists(), "an empty file would only be in the way"


def test_a_pair_can_be_changed_and_taken_back_until_the_next_question(tmp_path: Path) -> None:
    one, other = KeptTurn("Where?", "Here."), KeptTurn("Where?", "There.")
    with ChatLog(tmp_path / "t.jsonl", "notes") as log:
        log.prefer([], one, other)
        log.prefer([], other, one)
        assert log.pairs == 1
        (pair,) = lines(log.pairs_path)
        assert pair["chosen"] == [{"role": "assistant", "content": "There."}]
        log.take_back()
        assert lines(log.pairs_path) == []
        log.prefer([ASKED], one, other)
        log.next_question()
        log.prefer([ASKED], other, one)
        assert [len(row["prompt"]) for row in lines(log.pairs_path)] == [3, 3]  # type: ignore[arg-type]
        for better, worse in ((one, one), (CUT, one), (one, KeptTurn("Where?", ""))):
            with pytest.raises(RefusedError) as caught:
                log.prefer([], better, worse)
            assert caught.value.code == "no_pair"


def test_a_last_line_without_an_end_stays_a_row_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"messages": []}')
    with ChatLog(path, "notes") as log:
        log.keep([ASKED])
    assert len(lines(path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("notes.txt", None, "not_a_chat_log"),
        ("notes.jsonl", "name,age\n", "not_a_chat_log"),
        ("notes.jsonl", '{"model": 1}\n', "not_a_chat_log"),
        ("none/notes.jsonl", None, "no_folder"),
        ("folder.jsonl", "", "not_a_chat_log"),
    ],
)
def test_other_files_are_left_alone(
    tmp_path: Path, name: str, content: str | None, code: str
) -> None:
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(LlamaForgeError) as caught, ChatLog(path, "notes"):
        pass
    assert caught.value.code == code
    assert not path.is_file() or path.read_text() == content


def test_two_conversations_are_not_kept_in_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ChatLog(path, "notes") as log:
        log.keep([ASKED])
        with pytest.raises(RefusedError) as caught, ChatLog(path, "other"):
            pass
        assert caught.value.code == "chat_log_locked"
    assert len(lines(path)) == 1


def test_a_full_disk_leaves_the_conversation_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "talks.jsonl"
    real, room = os.pwrite, [20]

    def full(handle: int, data: bytes, place: int) -> int:
        if place + len(data) <= os.fstat(handle).st_size:
            return real(handle, data, place)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, bytes(data)[: room.pop()], place)

    with ChatLog(path, "notes") as log:
        log.keep([ASKED])
        before = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LlamaForgeError) as caught:
            log.keep([ASKED, AGAIN])
        assert "what is in it is kept" in caught.value.hint
    assert path.read_bytes() == before


def test_what_is_no_text_does_not_break_the_file(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ChatLog(path, "notes") as log:
        log.keep([KeptTurn("a\udcff\n\x00", "b")])
    (row,) = lines(path)
    assert row["messages"][0] == {"role": "user", "content": "a?\n\x00"}  # type: ignore[index]
