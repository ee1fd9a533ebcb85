"""What cannot be trained on is refused before anything starts, in a sentence that says where."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.check import (
    LISTED,
    Collected,
    Division,
    collect,
    first_problem,
    take_in,
)
from llamaforge.data.snapshot import read_snapshot, write_snapshot
from llamaforge.data.sources import Source
from llamaforge.errors import (
    ExitCode,
    InvalidFileError,
    LlamaForgeError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from llamaforge.paths import embedded_data
from tests.unit.data.row_files import Row, chat, jsonl

NO_ANSWER: Row = {"messages": [{"role": "user", "content": "Q"}]}


def take(*sources: Path, allowed: float = 0.05) -> Collected:
    return collect(list(sources), max_rejected_fraction=allowed, division=Division(0.1))


def problem(*sources: Path, allowed: float = 0.05) -> LlamaForgeError:
    """Return what `first_problem` raises, after checking that `collect` raises the same."""
    with pytest.raises(LlamaForgeError) as early:
        first_problem(list(sources), allowed)
    with pytest.raises(type(early.value)) as late:
        take(*sources, allowed=allowed)
    assert str(late.value) == str(early.value)
    assert (late.value.hint, late.value.code) == (early.value.hint, early.value.code)
    return early.value


def good(count: int) -> list[Row]:
    return [chat(f"Question {number}?") for number in range(count)]


def test_good_rows_are_collected_and_pass_the_check(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [*good(19), chat("Question 3?")])
    two = tmp_path / "two.json"
    two.write_text(json.dumps([chat("Tested?", split="test")]), encoding="utf-8")
    first_problem([one, two], 0.0)
    found = take(one, two, allowed=0.0)
    assert {side: len(rows) for side, rows in found.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 1,
    }
    assert (found.counts.read, found.counts.accepted, found.counts.duplicates) == (21, 21, 1)
    assert found.rejected == ()
    assert [detection.container for detection in found.detections] == ["jsonl", "json"]
    assert [source.path for source in found.sources] == [str(one), str(two)]
    assert [source.bytes for source in found.sources] == [
        one.stat().st_size,
        two.stat().st_size,
    ]


def test_the_demos_own_data_becomes_a_snapshot(tmp_path: Path) -> None:
    found = take(embedded_data(), allowed=0.0)
    manifest = write_snapshot(tmp_path, found.splits, found.report)
    assert read_snapshot(tmp_path) == (manifest, found.splits)
    assert manifest.counts.rejected == 0
    assert manifest.counts.train > manifest.counts.test > 0
    assert manifest.counts.validation > 0
    assert manifest.rules["split"]["moved"] == {}


def test_every_rejected_row_is_in_the_report_and_in_the_snapshot(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [*good(50), NO_ANSWER, "oops"])
    two = jsonl(tmp_path / "two.jsonl", ["", chat("Two?", split="x"), chat("Two?")])
    found = take(one, two, allowed=0.1)
    assert [(row.source, row.row) for row in found.rejected] == [
        (str(one), 51),
        (str(one), 52),
        (str(two), 2),
    ]
    write_snapshot(tmp_path / "snapshot", found.splits, found.report)
    lines = (tmp_path / "snapshot" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [row.reason for row in found.rejected]


def test_too_many_rejected_rows_are_refused_with_the_first_and_the_way_out(
    tmp_path: Path,
) -> None:
    rows = good(100)
    for number in range(6, 18):
        rows[number] = NO_ANSWER
    path = jsonl(tmp_path / "data.jsonl", rows)
    error = problem(path)
    assert error.message == (
        f"12 of 100 rows (12 %) cannot be used; the first: {path} line 7: the row has no answer."
    )
    assert error.hint == "Mend them, or allow them with --set max_rejected_fraction=0.2"
    assert (error.code, error.exit_code) == ("rejected_rows", ExitCode.REFUSED)
    first_problem([path], 0.12)
    assert take(path, allowed=0.12).counts.rejected == 12


def test_the_first_rejected_row_is_named_in_the_file_that_it_is_in(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", good(3))
    two = tmp_path / "two.json"
    two.write_text(json.dumps([*good(3), 17]), encoding="utf-8")
    message = problem(one, two).message
    assert message.startswith("1 of 7 rows (14 %) cannot be used; the first: ")
    assert message.endswith("two.json item 4: the row is a number, not an object.")


@pytest.mark.parametrize("allowed", [0.05, 1.0])
def test_where_no_row_can_be_used_the_first_is_named_and_no_allowance_helps(
    tmp_path: Path, allowed: float
) -> None:
    path = jsonl(tmp_path / "data.jsonl", ["", "oops", NO_ANSWER])
    error = problem(path, allowed=allowed)
    assert error.message == (
        f"No row of 2 rows can be used; the first: {path} line 2:"
        " invalid JSON at character 1: expecting value."
    )
    assert error.code == "rejected_rows"


@pytest.mark.parametrize(
    ("bad", "of", "percent"), [(1, 3, "33 %"), (1, 150, "0.67 %"), (299, 300, "99.66 %")]
)
def test_the_part_that_is_rejected_is_told_in_percent(
    tmp_path: Path, bad: int, of: int, percent: str
) -> None:
    path = jsonl(tmp_path / "data.jsonl", [NO_ANSWER] * bad + good(of - bad))
    assert f"{bad} of {of} rows ({percent})" in problem(path, allowed=0.0).message


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("b.jsonl", "\n \n"), ("c.json", "[]")]
)
def test_a_source_without_rows_is_refused_even_beside_others(
    tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    error = problem(jsonl(tmp_path / "good.jsonl", good(3)), path)
    assert error.message == f"{path} holds no rows."
    assert (error.code, error.exit_code) == ("empty_dataset", ExitCode.REFUSED)


def test_rows_that_are_all_held_out_leave_nothing_to_train_on(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "data.jsonl", [chat("Q?", split="test"), chat("R?", split="val")])
    error = problem(path)
    assert error.code == "empty_dataset"
    assert "the split of all 2 rows is validation or test" in error.message


def test_a_missing_source_is_not_found(tmp_path: Path) -> None:
    error = problem(tmp_path / "data.jsonl")
    assert isinstance(error, NotFoundError)
    assert error.exit_code == ExitCode.NOT_FOUND


def test_a_folder_a_binary_file_and_no_file_at_all_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "data.parquet"
    binary.write_bytes(b"PAR1\0\0")
    (tmp_path / "none").mkdir()
    assert problem(tmp_path / "none").code == "empty_folder"
    assert isinstance(problem(tmp_path), InvalidFileError)
    assert isinstance(problem(binary), InvalidFileError)
    assert isinstance(problem(), UsageError)


@pytest.mark.parametrize("code", ["unknown_format", "unsupported_format"])
def test_a_format_that_cannot_be_read_is_a_usage_error(tmp_path: Path, code: str) -> None:
    row = {"ask": 1} if code == "unknown_format" else {"text": "A story."}
    path = jsonl(tmp_path / "data.jsonl", [row] * 3)
    error = problem(path)
    assert (error.code, error.exit_code) == (code, ExitCode.USAGE)


def test_a_file_named_twice_is_refused_under_any_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "data.jsonl", good(3))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert problem(path, link).code == "source_twice"


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(tmp_path / "data.jsonl", good(3))

    def grow(grown: Path) -> str:
        with grown.open("ab") as file:
            file.write(b"{}\n")
        return "0" * 64

    monkeypatch.setattr("llamaforge.data.check.sha256_of", grow)
    with pytest.raises(RefusedError, match="changed while it was read") as error:
        take(path)
    assert error.value.code == "source_changed"


def test_what_is_printed_holds_no_escapes_of_the_file_or_its_name(tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;x\x07.jsonl"
    jsonl(path, [chat() | {"messages": [{"role": "\x1b[2J\u202e", "content": "Q"}]}])
    assert problem(path).message.isprintable()


@settings(max_examples=60, deadline=None)
@given(
    marks=st.lists(
        st.sampled_from([None, "train", "test", "val", "bad", "oops", ""]), min_size=1, max_size=30
    ),
    prompts=st.integers(1, 10),
    fraction=st.floats(0.0, 0.5),
)
def test_counts_add_up_and_check_and_collection_agree(
    tmp_path_factory: pytest.TempPathFactory,
    marks: list[str | None],
    prompts: int,
    fraction: float,
) -> None:
    lines: list[object] = [
        mark if mark in {"", "oops"} else chat(f"Question {number % prompts}?", split=mark)
        for number, mark in enumerate(marks)
    ]
    path = jsonl(tmp_path_factory.mktemp("rows") / "data.jsonl", lines)
    try:
        first_problem([path], 1.0)
    except LlamaForgeError:
        assert not any(mark in {None, "train"} for mark in marks)
        return
    found = collect([path], max_rejected_fraction=1.0, division=Division(fraction, seed=1))
    kept = [row.row for rows in found.splits.values() for row in rows]
    gone = [row.row for row in found.rejected]
    assert sorted(kept + gone) == [n for n, mark in enumerate(marks, start=1) if mark != ""]
    assert found.counts.read == len(kept) + len(gone)
    assert found.counts.rejected == len(gone)
    assert found.splits["train"]


@pytest.mark.parametrize("weight", [0.25, 1.0, 1.5, 3.0])
def test_counts_add_up_whatever_the_weight(tmp_path: Path, weight: float) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [*good(40), *good(10), NO_ANSWER, "oops"])
    source = Source(path=str(path), weight=weight)
    found = collect([source], max_rejected_fraction=0.05, division=Division(0.1, seed=3))
    counts = found.counts
    assert counts.read == counts.accepted + counts.repaired + counts.rejected
    assert counts.read + found.rules["left_out"] == 52
    assert counts.rejected == 2
    assert counts.duplicates <= 10  # a row that is repeated by its weight is no duplicate
    manifest = write_snapshot(tmp_path / "run", found.splits, found.report)
    sides = manifest.counts.train + manifest.counts.validation + manifest.counts.test
    assert sides == counts.accepted + counts.repaired + counts.repeated
    assert (counts.repeated > 0) == (weight > 1)
    # Who only counts keeps nothing of each row, and comes to the same.
    brief = take_in([source], seed=3, keep=False)
    assert (brief.read, brief.bad) == (counts.read, counts.rejected)
    assert brief.repeats == {}
    assert brief.repeated >= counts.repeated  # held-out rows are not repeated


def test_broken_rows_are_held_against_all_rows_whatever_the_weight(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [*good(97), "oops"])
    source = Source(path=str(path), weight=0.05)
    first_problem([source], 0.05)
    collect([source], max_rejected_fraction=0.05, division=Division(0.1))


def test_a_weight_that_leaves_no_row_says_so(tmp_path: Path) -> None:
    source = Source(path=str(jsonl(tmp_path / "rows.jsonl", good(3))), weight=1e-9)
    with pytest.raises(RefusedError, match="The weight leaves out every one of 3 rows"):
        first_problem([source], 0.05)


def test_the_check_before_a_run_takes_the_rows_that_the_run_takes(tmp_path: Path) -> None:
    source = Source(path=str(jsonl(tmp_path / "rows.jsonl", good(3))), weight=0.4)
    for seed in range(20):
        outcomes = []
        for judged in (
            lambda seed=seed: first_problem([source], 0.05, seed=seed),
            lambda seed=seed: collect(
                [source], max_rejected_fraction=0.05, division=Division(0.1, seed=seed)
            ),
        ):
            try:
                judged()
            except RefusedError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("")
        assert outcomes[0] == outcomes[1]


def test_a_format_that_a_source_names_is_the_one_that_its_rows_have(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": str(n), "completion": "b"} for n in range(9)])
    first_problem([Source(path=str(path), format="prompt_completion")], 0.0)
    with pytest.raises(UsageError, match="are prompt_completion, not alpaca") as caught:
        first_problem([Source(path=str(path), format="alpaca")], 0.0)
    assert caught.value.code == "other_format"


def test_a_format_that_a_source_names_settles_a_doubt(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "question": "c", "answer": "d"}
    path = jsonl(tmp_path / "rows.jsonl", [row | {"prompt": str(number)} for number in range(9)])
    with pytest.raises(UsageError) as caught:
        first_problem([path], 0.0)
    assert caught.value.code == "ambiguous_format"
    found = take_in([Source(path=str(path), format="prompt_completion")])
    assert [record.messages[0].content for record in found.records] == list("012345678")


def test_of_endless_broken_rows_few_are_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [*good(1), *["oops"] * 3_000])
    found = take_in([path], keep=False)
    assert (found.bad, len(found.rejected)) == (3_000, LISTED)


def test_the_check_loads_no_heavy_library() -> None:
    code = (
        "import sys, llamaforge.data.check;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
