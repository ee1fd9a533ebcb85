"""`data review`: every decision is on disk at once, can be taken back, and is found again."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.cli.data_review import CHOICES, edit_outside, go_through, shown
from llamaforge.collecting.review import (
    Decision,
    Review,
    Texts,
    editable,
    edited,
    last_answer,
    texts_of,
    with_answer,
)
from llamaforge.data.formats import read_records
from llamaforge.data.records import Message, Record, RowError, record_id
from llamaforge.errors import ExitCode, InvalidFileError, LlamaForgeError, RefusedError
from tests.contract.collecting.conftest import Command

ACCEPT, REJECT = Decision("accept"), Decision("reject")
ASK, GOOD, BAD = Message("user", "Q"), Message("assistant", "A"), Message("assistant", "B")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"Q{n}", "completion": f"A{n}"}) for n in range(4)]
    path.write_text("\n".join([*lines[:2], "oops", *lines[2:]]) + "\n")
    return path


class Scripted:
    """A person whose choices are known beforehand; `None` is Ctrl-C."""

    def __init__(self, *choices: str | None, answers: tuple[str, ...] = ()) -> None:
        self._choices: Iterator[str | None] = iter(choices)
        self._answers = iter(answers)
        self.seen: list[str] = []

    def show(self, text: str) -> None:
        self.seen.append(text)

    def choose(self) -> str:
        choice = next(self._choices)
        if choice is None:
            raise KeyboardInterrupt
        return CHOICES[choice]

    def label(self) -> str:
        return next(self._answers)

    def edit(self, texts: Texts) -> Texts | None:
        answer = next(self._answers)
        return with_answer(texts, answer) if answer != last_answer(texts) else None


def contents(path: Path) -> list[list[str]]:
    return [
        [turn.content for turn in item.messages]
        for item in read_records(path, want="any")
        if isinstance(item, Record)
    ]


def test_a_review_goes_through_all_rows_and_the_kept_ones_are_written(
    rows: Path, tmp_path: Path
) -> None:
    person = Scripted("a", "e", "l", "r", answers=("Better.", "hard"))
    with Review(rows) as review:
        assert go_through(review, person) is ExitCode.DONE
        summary = review.summary()
        assert review.write_kept(tmp_path / "kept.jsonl") == 3
    assert (summary.rows, summary.unusable, summary.decided, summary.left) == (4, 1, 4, 0)
    counts = (summary.accepted, summary.edited, summary.labelled, summary.rejected)
    assert counts == (1, 1, 1, 1)
    assert summary.labels == {"hard": 1}
    assert contents(tmp_path / "kept.jsonl") == [["Q0", "A0"], ["Q1", "Better."], ["Q2", "A2"]]
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert kept[2]["meta"]["label"] == "hard"


def test_each_decision_is_saved_before_the_next_row_is_shown(rows: Path) -> None:
    with Review(rows) as review:
        for number in range(1, 5):
            row = review.next()
            assert row is not None
            review.decide(row, ACCEPT)
            assert len(review.file.read_bytes().splitlines()) == number
        assert review.next() is None


@pytest.mark.parametrize("ending", ["q", None])
def test_it_goes_on_where_it_stopped(rows: Path, ending: str | None) -> None:
    with Review(rows) as review:
        code = go_through(review, Scripted("a", "r", ending))
        assert code is (ExitCode.DONE if ending else ExitCode.INTERRUPTED)
    person = Scripted("a", "a")
    with Review(rows) as review:
        assert review.summary().left == 2
        go_through(review, person)
        assert review.summary().left == 0
    assert "Q2" in person.seen[0]


def test_undo_takes_back_the_newest_and_shows_its_row_again(rows: Path) -> None:
    person = Scripted("a", "r", "u", "a", "q")
    with Review(rows) as review:
        go_through(review, person)
        assert (review.summary().accepted, review.summary().rejected) == (2, 0)
    assert person.seen[3] == "Taken back."
    assert "Q1" in person.seen[4]
    lines = [json.loads(line)["decision"] for line in review.file.read_text().splitlines()]
    assert lines == ["accept", "reject", "undo", "accept"]


def test_undo_reaches_into_earlier_sessions_and_says_when_there_is_nothing(rows: Path) -> None:
    with Review(rows) as review:
        go_through(review, Scripted("a", "a", "a", "r"))
    with Review(rows) as review:
        go_through(review, Scripted("u", "a"))
        assert review.summary().accepted == 4
        assert [review.undo() for _ in range(5)] == [5, 4, 2, 1, None]
    person = Scripted("u", "q")
    with Review(rows) as review:
        go_through(review, person)
    assert "nothing to take back" in person.seen[1]


def test_a_second_thought_changes_nothing(rows: Path) -> None:
    person = Scripted("e", "l", "l", "e", "q", answers=("A0", " ", "x" * 300, " \n"))
    with Review(rows) as review:
        go_through(review, person)
        assert review.summary().decided == 0
        assert review.file.read_bytes() == b""
    said = [text for text in person.seen if text.startswith("Not saved")]
    assert [("label" in text, "empty" in text) for text in said] == [(True, False), (False, True)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["accept", "reject", "label", "undo"]), max_size=12))
def test_what_is_read_back_is_what_was_decided(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    rows = tmp_path_factory.mktemp("review") / "rows.jsonl"
    rows.write_text("".join(f'{{"q": "Q{n}", "a": "A"}}\n' for n in range(6)))
    stack: list[str] = []
    with Review(rows) as review:
        for step in steps:
            if step == "undo":
                assert (review.undo() is None) == (not stack)
                stack = stack[:-1]
            elif (row := review.next()) is not None:
                assert row.row == len(stack) + 1
                review.decide(row, Decision(step, label="x" if step == "label" else ""))  # type: ignore[arg-type]
                stack.append(step)
        before = review.summary()
    with Review(rows) as again:
        assert again.summary() == before
        assert (before.accepted, before.rejected, before.labelled) == tuple(
            map(stack.count, ("accept", "reject", "label"))
        )


def test_a_torn_line_is_dropped_and_a_damaged_one_refused(rows: Path) -> None:
    with Review(rows) as review:
        go_through(review, Scripted("a", "a", "q"))
    whole = review.file.read_bytes()
    review.file.write_bytes(whole[:-5])
    with Review(rows) as review:
        assert review.summary().accepted == 1
        go_through(review, Scripted("r", "q"))
        assert review.summary().decided == 2
    for damage in (b"oops\n" + whole, b'{"row": 1}\n', b"\0\0"):
        review.file.write_bytes(damage)
        with pytest.raises(InvalidFileError) as caught, Review(rows):
            pass
        assert caught.value.code == "invalid_review"
        assert review.file.read_bytes() == damage


def test_two_people_do_not_review_one_file_at_a_time(rows: Path) -> None:
    with Review(rows), pytest.raises(RefusedError) as caught, Review(rows):
        pass
    assert caught.value.code == "review_locked"


def test_decisions_about_rows_that_changed_do_not_count(rows: Path) -> None:
    with Review(rows) as review:
        go_through(review, Scripted("a", "a", "q"))
    rows.write_text(rows.read_text().replace("A0", "Another"))
    with Review(rows) as review:
        assert review.summary().accepted == 1
        row = review.next()
        assert row is not None
        assert row.row == 1


def test_a_row_is_shown_without_what_a_terminal_would_obey() -> None:
    messages = (Message("user", "\x1b[2JQ"), Message("assistant", "x" * 10_000))
    text = shown(Record(record_id(messages), "f", 1_234, messages))
    assert "\x1b" not in text
    assert "row 1,234" in text
    assert "4,000 characters more" in text
    pair = Record("0", "f", 1, (ASK,), chosen=(GOOD,), rejected=(BAD,))
    assert "Assistant (chosen):\nA\nAssistant (rejected):\nB" in shown(pair)


# Editing

turns = st.builds(
    Message, st.sampled_from(["user", "assistant"]), st.text().filter(lambda text: text.strip())
)
rows_of_texts = st.builds(
    Texts,
    st.lists(turns, min_size=1, max_size=3).map(tuple),
    st.lists(turns, max_size=1).map(tuple),
    st.lists(turns, max_size=1).map(tuple),
)


@given(rows_of_texts)
def test_an_edit_that_changes_nothing_is_the_same_row(texts: Texts) -> None:
    assert edited(editable(texts, "12ab34cd"), texts, "12ab34cd") == texts


def test_each_message_can_be_edited_and_no_heading_may(rows: Path) -> None:
    texts = Texts((ASK,), (GOOD,), (BAD,))
    text = editable(texts, "n")
    changed = edited(text.replace("\nB\n", "\nWorse.\n\nMuch.\n"), texts, "n")
    assert changed == Texts((ASK,), (GOOD,), (Message("assistant", "Worse.\n\nMuch."),))
    for wrong in (text.replace("chosen", "picked", 1), text[3:], text.replace("\nA\n", "\n\n"), ""):
        with pytest.raises(RowError):
            edited(wrong, texts, "n")
    assert with_answer(texts, "C").chosen == (Message("assistant", "C"),)


def test_the_person_s_own_editor_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "my editor.py"
    script.write_text(
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[-1])\n"
        "assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0\n"
        "path.write_text(path.read_text().replace('A\\n', sys.argv[1] + '\\n'))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} '{script}' Better.")
    texts = Texts((ASK, GOOD))
    assert edit_outside(texts) == Texts((ASK, Message("assistant", "Better.")))
    monkeypatch.setenv("VISUAL", "true")
    assert edit_outside(texts) is None
    for wrong in ("false", "/no/such/editor"):
        monkeypatch.setenv("VISUAL", wrong)
        with pytest.raises(LlamaForgeError) as caught:
            edit_outside(texts)
        assert caught.value.code == "editor"


def test_a_pair_stays_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "chosen": "A", "rejected": "B"}) + "\n")
    with Review(path) as review:
        go_through(review, Scripted("e", answers=("Better",)))
        assert review.write_kept(tmp_path / "kept.jsonl") == 1
    (kept,) = read_records(tmp_path / "kept.jsonl", want="any")
    assert isinstance(kept, Record)
    assert [turn.content for turn in (*kept.chosen, *kept.rejected)] == ["Better", "B"]
    pair = Record("0", "f", 1, (ASK,), chosen=(GOOD,), rejected=(BAD,))
    assert texts_of(pair) == Texts((ASK,), (GOOD,), (BAD,))
    assert last_answer(texts_of(pair)) == "A"


# The verb


def test_without_a_terminal_it_refuses_and_the_summary_asks_nothing(
    rows: Path, data: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusedError) as caught:
        data("review", rows)
    assert caught.value.code == "no_terminal"
    assert not rows.with_name("rows.jsonl.review.jsonl").exists()
    with Review(rows) as review:
        go_through(review, Scripted("a", "r", "q"))
    out = rows.with_name("kept.jsonl")
    assert data("review", rows, "--summary", "--json", "--out", out) is ExitCode.DONE
    body = json.loads(capsys.readouterr().out)
    assert (body["rows"], body["decided"], body["left"], body["written"]) == (4, 2, 2, 1)
    assert contents(out) == [["Q0", "A0"]]
    with pytest.raises(InvalidFileError):
        data("review", rows, "--summary", "--out", out)


class Terminal:
    """The program on a terminal of its own, in the hands of a test."""

    def __init__(self, *words: str) -> None:
        code = (
            "import argparse, sys; from llamaforge.cli import data_review as verb; "
            "parser = argparse.ArgumentParser(); verb.add_parser(parser.add_subparsers()); "
            "arguments = parser.parse_args(); sys.exit(int(arguments.run(arguments)))"
        )
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        own = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here answers where the cursor is
            "EDITOR": "",
            "VISUAL": "",
        }
        self.program = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ | own,
            start_new_session=True,
        )
        os.close(theirs)
        self._seen = b""

    def wait_for(self, text: bytes) -> None:
        """Wait until `text` is on the terminal, and forget all up to it."""
        deadline = time.monotonic() + 20
        while text not in self._seen:
            ready, _, _ = select.select([self._mine], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} is not in {self._seen!r}"
            self._seen += os.read(self._mine, 4096)
        self._seen = self._seen.partition(text)[2]

    def type(self, keys: bytes) -> None:
        os.write(self._mine, keys)

    def end(self) -> dict[str, Any]:
        """Wait for the program's end, and return its JSON."""
        out, _ = self.program.communicate(timeout=20)
        os.close(self._mine)
        body: dict[str, Any] = json.loads(out)
        return body


def test_on_a_plain_terminal_a_person_answers_with_lines(rows: Path) -> None:
    terminal = Terminal("review", str(rows), "--plain", "--json")
    for keys in (b"a\n", b"e\nMuch\nbetter.\n.\n", b"u\n", b"r\n", b"what?\n", b"l\nhard\n"):
        terminal.wait_for(b"[q]uit")
        terminal.type(keys)
    terminal.wait_for(b"[q]uit")
    terminal.type(b"q\n")
    body = terminal.end()
    assert terminal.program.returncode == ExitCode.DONE
    counts = (body["accepted"], body["edited"], body["rejected"], body["labelled"])
    assert counts == (1, 0, 1, 1)


def test_on_a_terminal_a_person_chooses_from_a_menu(rows: Path) -> None:
    terminal = Terminal("review", str(rows), "--json")
    terminal.wait_for(b"quit")
    terminal.type(b"a\r")
    terminal.wait_for(b"Q1")
    terminal.wait_for(b"quit")
    terminal.type(b"r\r")
    terminal.wait_for(b"Q2")
    terminal.wait_for(b"quit")
    terminal.type(b"\x03")
    body = terminal.end()
    assert terminal.program.returncode == ExitCode.INTERRUPTED
    assert (body["accepted"], body["rejected"], body["left"]) == (1, 1, 2)
