"""Rows in another form: nothing is lost that is not said, and they read back as what they were."""

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.convert import Converted, Form, Rules, convert, row_in
from llamaforge.data.formats import read_records
from llamaforge.data.records import Message, Record, Rejection, RowError, record_id
from llamaforge.data.row_writer import row_line
from llamaforge.errors import InvalidFileError, NotFoundError, RefusedError
from tests.unit.data.row_files import Row, chat, jsonl, read

STRICT = Rules()
FOLD = Rules(fold=True)
SYSTEM, ASK, REPLY = Message("system", "S"), Message("user", "Q"), Message("assistant", "A")
WORSE = Message("assistant", "B")
UNLEARNED = Message("assistant", "A", trained=False)

# Margins are mended where rows are read, so texts without them are what reads back the same.
texts = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), min_size=1)
    .map(str.strip)
    .filter(bool)
)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda pairs: [turn for q, a in pairs for turn in (Message("user", q), Message("assistant", a))]
)
systems: st.SearchStrategy[list[Message]] = st.one_of(
    st.just([]), texts.map(lambda text: [Message("system", text)])
)
conversations = st.builds(lambda system, rest: tuple(system + rest), systems, turns)
metas = st.dictionaries(texts, st.one_of(st.integers(), texts, st.none(), st.lists(texts)))


def record(*messages: Message, **more: Any) -> Record:
    return Record(record_id(messages), "rows.jsonl", 1, messages, **more)


def pair(*messages: Message, **more: Any) -> Record:
    return record(*messages, chosen=(REPLY,), rejected=(WORSE,), **more)


def fields(form: Form, row: Record, rules: Rules = STRICT) -> Row:
    return row_in(form, row, rules)[0]


def run(
    sources: list[Path], form: Form, out: Path, rules: Rules = STRICT, *, force: bool = False
) -> tuple[Converted, list[Rejection]]:
    rejected: list[Rejection] = []
    done = convert(sources, form, out, rules=rules, force=force, on_rejected=rejected.append)
    assert done.read == done.written + done.rejected
    assert len(rejected) == done.rejected
    return done, rejected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("chat", {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
                               {"role": "assistant", "content": "A"}]}),
        ("sharegpt", {"conversations": [{"from": "system", "value": "S"},
                                        {"from": "human", "value": "Q"},
                                        {"from": "gpt", "value": "A"}]}),
        ("openpipe", {"messages": [{"role": "system", "content": "S"},
                                   {"role": "user", "content": "Q"},
                                   {"role": "assistant", "content": "A"}]}),
    ],
)  # fmt: skip
def test_each_form_has_its_words(form: Form, expected: Row) -> None:
    row = record(SYSTEM, ASK, REPLY, split="test", meta={"k": 1})
    split = "TEST" if form == "openpipe" else "test"
    assert fields(form, row) == expected | {"split": split, "meta": {"k": 1}}


def test_prompt_and_completion_are_two_texts_or_two_lists() -> None:
    assert fields("prompt-completion", record(ASK, REPLY)) == {"prompt": "Q", "completion": "A"}
    assert fields("prompt-completion", record(SYSTEM, ASK, REPLY), Rules(as_messages=True)) == {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
        "completion": [{"role": "assistant", "content": "A"}],
    }


def test_a_pair_has_two_ways_to_go_on() -> None:
    assert fields("preference", pair(ASK)) == {
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "A"}],
        "rejected": [{"role": "assistant", "content": "B"}],
    }
    assert fields("openpipe", pair(ASK)) == {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
        "rejected_message": {"role": "assistant", "content": "B"},
    }


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("prompt-completion", record(SYSTEM, ASK, REPLY), "system text"),
        ("prompt-completion", record(ASK, REPLY, ASK, REPLY), "more than one question"),
        ("prompt-completion", record(ASK, REPLY, ASK), "does not end with an answer"),
        ("prompt-completion", record(ASK, WORSE, REPLY), "more than one question"),
        ("openpipe", record(ASK, REPLY, ASK), "does not end with an answer"),
        ("openpipe", record(ASK, REPLY, split="validation"), "train and test only"),
        ("openpipe", replace(pair(ASK), chosen=(REPLY, ASK, REPLY)), "not one message each"),
        ("sharegpt", record(ASK, UNLEARNED, ASK, REPLY), "not to be learned"),
        ("openpipe", record(ASK, UNLEARNED, ASK, REPLY), "not to be learned"),
        ("prompt-completion", record(ASK, UNLEARNED), "not to be learned"),
        ("preference", record(ASK, REPLY), "needs a better and a worse"),
        ("chat", pair(ASK), "holds one answer"),
        ("sharegpt", pair(ASK), "holds one answer"),
        ("prompt-completion", pair(ASK), "holds one answer"),
    ],
)
def test_what_a_form_cannot_hold_is_refused_with_the_reason(
    form: Form, row: Record, reason: str
) -> None:
    with pytest.raises(RowError, match=reason):
        row_in(form, row, STRICT)


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("prompt-completion", record(SYSTEM, ASK, REPLY), {"prompt": "S\n\nQ", "completion": "A"}),
        ("prompt-completion", pair(ASK), {"prompt": "Q", "completion": "A"}),
        ("chat", pair(ASK), fields("chat", record(ASK, REPLY))),
        ("sharegpt", pair(ASK), fields("sharegpt", record(ASK, REPLY))),
        ("openpipe", record(ASK, REPLY, split="validation"),
         fields("openpipe", record(ASK, REPLY)) | {"split": "TEST"}),
    ],
)  # fmt: skip
def test_a_rule_may_fold_it_and_is_counted(form: Form, row: Record, expected: Row) -> None:
    assert row_in(form, row, FOLD) == (expected, True)


def test_what_needs_no_rule_is_not_counted_as_folded() -> None:
    assert row_in("prompt-completion", record(ASK, REPLY), FOLD)[1] is False


@pytest.mark.parametrize("form", ["chat", "sharegpt", "openpipe", "prompt-completion"])
@settings(deadline=None, max_examples=60)
@given(messages=conversations, split=st.sampled_from([None, "train", "test"]), meta=metas)
def test_a_row_reads_back_as_what_it_was(
    form: Form, messages: tuple[Message, ...], split: str | None, meta: dict[str, Any]
) -> None:
    row = record(*messages, split=split, meta=meta)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(row_line(fields(form, row, Rules(as_messages=True))))
        records, rejected = read(path)
    assert not rejected
    assert [(r.id, r.messages, r.split, r.meta) for r in records] == [
        (row.id, row.messages, row.split, row.meta)
    ]


@pytest.mark.parametrize("form", ["preference", "openpipe"])
@settings(deadline=None, max_examples=60)
@given(messages=conversations, answers=st.tuples(texts, texts).filter(lambda two: two[0] != two[1]))
def test_a_pair_reads_back_as_what_it_was(
    form: Form, messages: tuple[Message, ...], answers: tuple[str, str]
) -> None:
    better, worse = (Message("assistant", answer) for answer in answers)
    row = record(*messages[:-1], chosen=(better,), rejected=(worse,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text(json.dumps(fields(form, row)) + "\n")
        (found,) = read_records(path, want="any")
    assert isinstance(found, Record)
    assert (found.messages, found.chosen, found.rejected) == (row.messages, (better,), (worse,))


def test_an_answer_that_is_not_learned_is_not_learned_after_it_either(tmp_path: Path) -> None:
    row = record(ASK, UNLEARNED, ASK, REPLY)
    path = jsonl(tmp_path / "rows.jsonl", [fields("chat", row)])
    assert read(path)[0][0].messages == row.messages
    context = fields("prompt-completion", row, Rules(as_messages=True))
    assert len(context["prompt"]) == 3


def test_a_pair_s_better_answer_can_be_taken(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "pairs.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}])
    assert run([source], "preference", tmp_path / "pairs2.jsonl")[0].written == 1
    assert run([source], "chat", tmp_path / "chat.jsonl", FOLD)[0].folded == 1
    records, _ = read(tmp_path / "chat.jsonl")
    assert [turn.content for turn in records[0].messages] == ["Q", "A"]


def test_a_file_is_converted_row_by_row_and_back(tmp_path: Path) -> None:
    rows = [chat("Q1", "A1"), "oops", {"instruction": "Q2", "output": "A2"}, {"q": "Q3", "a": ""}]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    done, rejected = run([source], "sharegpt", tmp_path / "shared.jsonl")
    assert done == Converted(read=4, written=2, rejected=2, folded=0)
    assert [(row.row, bool(row.reason)) for row in rejected] == [(2, True), (4, True)]
    run([tmp_path / "shared.jsonl"], "prompt-completion", tmp_path / "pairs.jsonl")
    records, _ = read(tmp_path / "pairs.jsonl")
    assert [[turn.content for turn in row.messages] for row in records] == [
        ["Q1", "A1"], ["Q2", "A2"],
    ]  # fmt: skip


def test_several_files_become_one_and_gz_packs_it(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [chat("Q1")])
    two = jsonl(tmp_path / "two.jsonl", [chat("Q2")])
    out = tmp_path / "both.jsonl.gz"
    assert run([one, two], "chat", out)[0].written == 2
    packed = out.read_bytes()
    assert len(gzip.decompress(packed).splitlines()) == 2
    run([one, two], "chat", out, force=True)
    assert out.read_bytes() == packed
    assert len(read(out)[0]) == 2


def test_a_file_that_is_there_is_kept_unless_force_is_said(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [chat()])
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(InvalidFileError) as caught:
        run([source], "chat", out)
    assert (caught.value.code, out.read_text()) == ("exists", "mine")
    assert run([source], "chat", out, force=True)[0].written == 1
    with pytest.raises(InvalidFileError) as caught:
        run([source], "chat", source, force=True)
    assert caught.value.code == "out_is_source"
    with pytest.raises(NotFoundError):
        run([source], "chat", tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(InvalidFileError):
        run([source], "chat", tmp_path, force=True)


def test_nothing_to_write_leaves_no_file_and_says_why(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [chat(), chat()])
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(RefusedError, match=r"row 1: the row has one answer") as caught:
        run([source], "preference", out, force=True)
    assert caught.value.code == "nothing_to_write"
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [chat(), "oops", chat()])
    out = tmp_path / "out.jsonl"
    out.write_text("mine")

    def interrupt(row: Rejection) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert([source], "chat", out, rules=STRICT, force=True, on_rejected=interrupt)
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_a_row_that_could_not_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaforge.data.row_writer.MAX_ROW_BYTES", 1 << 20)
    source = jsonl(tmp_path / "rows.jsonl", [chat("Q", "A" * (1 << 20)), chat()])
    done, rejected = run([source], "chat", tmp_path / "out.jsonl")
    assert done.written == 1
    assert rejected[0].reason == "the row would be longer than 1 MiB"
