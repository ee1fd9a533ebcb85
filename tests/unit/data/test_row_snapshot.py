"""A snapshot reads back as it was written, and any change to it is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.quality import RowCounts, count
from llamaforge.data.records import Message, Record, Rejection, canonical_line, record_id
from llamaforge.data.snapshot import (
    SnapshotManifest,
    SnapshotReport,
    SourceFile,
    read_snapshot,
    write_snapshot,
)
from llamaforge.data.split import Splits
from llamaforge.errors import InvalidFileError
from tests.unit.data.row_files import record

SOURCE = SourceFile(path="rows.jsonl", bytes=10, sha256="ab", container="jsonl", format="chat")
DATA_FILES = ["train.jsonl", "validation.jsonl", "test.jsonl"]


def some_splits() -> Splits:
    return {
        "train": [record("One?"), record("Two?", row=2), record("Two?", row=3)],
        "validation": [record("Three?", row=4)],
        "test": [],
    }


def report_for(splits: Splits, *rejected: Rejection, **rules: Any) -> SnapshotReport:
    records = [row for rows in splits.values() for row in rows]
    counts = count(len(records) + len(rejected), records, rejected)
    return SnapshotReport((SOURCE,), counts, rejected, rules)


def write(folder: Path, splits: Splits, *rejected: Rejection) -> SnapshotManifest:
    return write_snapshot(folder, splits, report_for(splits, *rejected, split_seed=7))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.text(),
        st.booleans(),
    ),
    max_size=4,
).map(tuple)
RECORDS = st.builds(
    lambda messages, source, row, split, meta, repairs: Record(
        record_id(messages), source, row, messages, split, meta, repairs=repairs
    ),
    MESSAGES,
    st.text(),
    st.integers(min_value=1),
    st.sampled_from([None, "train", "validation", "test"]),
    st.dictionaries(st.text(), JSON_VALUES, max_size=3),
    st.sampled_from([(), ("outer_white_space",), ("merged_turns", "empty_system")]),
)
ROWS = st.lists(RECORDS, max_size=4)


@settings(max_examples=100, deadline=None)
@given(splits=st.fixed_dictionaries({"train": ROWS, "validation": ROWS, "test": ROWS}))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> None:
    folder = tmp_path_factory.mktemp("snapshot")
    written = write(folder, splits)
    manifest, found = read_snapshot(folder)
    assert manifest == written
    assert found == splits
    assert write(tmp_path_factory.mktemp("again"), found).id == written.id


def test_the_manifest_says_where_the_rows_come_from_and_what_became_of_them(
    tmp_path: Path,
) -> None:
    write(tmp_path, some_splits(), Rejection("rows.jsonl", 5, "the row has no answer"))
    body = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert body["sources"] == [SOURCE.model_dump()]
    assert body["counts"] == {
        "read": 5,
        "accepted": 4,
        "rejected": 1,
        "duplicates": 1,
        "train": 3,
        "validation": 1,
        "test": 0,
        "repaired": 0,
        "repeated": 0,
    }
    assert body["rules"] == {"split_seed": 7}
    assert sorted(body["files"]) == sorted([*DATA_FILES, "rejected.jsonl"])
    rejected = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8")
    assert json.loads(rejected) == {
        "source": "rows.jsonl",
        "row": 5,
        "reason": "the row has no answer",
    }


def test_the_id_can_be_worked_out_from_the_files_alone(tmp_path: Path) -> None:
    manifest = write(tmp_path, some_splits())
    listing = "".join(
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in DATA_FILES
    )
    assert manifest.id == hashlib.sha256(listing.encode()).hexdigest()


def test_the_id_tells_rows_and_sides_apart_and_nothing_else(tmp_path: Path) -> None:
    splits = some_splits()
    first = write(tmp_path / "first", splits).id
    report = report_for(splits, Rejection("x", 1, "y"), other="rule")
    assert write_snapshot(tmp_path / "same", splits, report).id == first
    swapped = splits | {"validation": [], "test": splits["validation"]}
    assert write(tmp_path / "swapped", swapped).id != first


def test_a_snapshot_replaces_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, some_splits())
    splits: Splits = {"train": [record("New?")], "validation": [], "test": []}
    write(tmp_path, splits)
    assert read_snapshot(tmp_path)[1] == splits


def test_a_snapshot_that_was_not_finished_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, some_splits())

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llamaforge.data.snapshot.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, some_splits())
    with pytest.raises(InvalidFileError, match=r"manifest\.json cannot be read"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize("name", [*DATA_FILES, "rejected.jsonl"])
def test_a_changed_file_is_named_with_both_digests(tmp_path: Path, name: str) -> None:
    expected = write(tmp_path, some_splits()).files[name].sha256
    changed = (tmp_path / name).read_bytes() + b" "
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(InvalidFileError) as error:
        read_snapshot(tmp_path)
    assert f"/{name} was changed" in error.value.message
    assert f"expected {expected}" in error.value.message
    assert f"is {hashlib.sha256(changed).hexdigest()}" in error.value.message
    assert error.value.code == "invalid_snapshot"


@pytest.mark.parametrize("name", [*DATA_FILES, "rejected.jsonl", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, some_splits())
    (tmp_path / name).unlink()
    with pytest.raises(InvalidFileError, match=f"{name} cannot be read: No such file"):
        read_snapshot(tmp_path)


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": "0" * 64}, "its snapshot id is"),
        ({"version": 2}, "is wrong at version"),
        ({"files": {}}, "does not list train.jsonl"),
        ({"counts": {}}, "is wrong at counts.read"),
        ({"\x1b[2J": 1}, r"is wrong at \\x1b\[2J"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    write(tmp_path, some_splits())
    edit_manifest(tmp_path, **changes)
    with pytest.raises(InvalidFileError, match=problem):
        read_snapshot(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, some_splits())
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidFileError, match=r"manifest\.json is wrong at the file"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize(
    "line", [b"{}", b"oops", b"[" * 100_000, b'{"id": 1}', b"\xff", b'{"messages": null}']
)
def test_a_line_that_is_no_record_is_refused_even_where_the_digest_fits(
    tmp_path: Path, line: bytes
) -> None:
    manifest = write(tmp_path, some_splits())
    data = line + b"\n"
    (tmp_path / "test.jsonl").write_bytes(data)
    file = {"rows": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = {name: entry.model_dump() for name, entry in manifest.files.items()}
    edit_manifest(tmp_path, files=files | {"test.jsonl": file})
    with pytest.raises(InvalidFileError, match=r"test\.jsonl holds a line that is not a record"):
        read_snapshot(tmp_path)


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, some_splits())
    files = {name: entry.model_dump() for name, entry in manifest.files.items()}
    edit_manifest(tmp_path, files=files | {"train.jsonl": files["train.jsonl"] | {"rows": 2}})
    with pytest.raises(InvalidFileError, match="holds 3 rows"):
        read_snapshot(tmp_path)


def test_sides_that_do_not_hold_the_accepted_rows_are_never_written(tmp_path: Path) -> None:
    splits = some_splits()
    report = report_for(splits)
    splits["test"].append(record("One more?"))
    with pytest.raises(ValueError, match="are not RowCounts"):
        write_snapshot(tmp_path, splits, report)
    assert not list(tmp_path.iterdir())


def test_counts_have_to_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        RowCounts(read=3, accepted=1, rejected=1, duplicates=0)
    with pytest.raises(ValueError, match="do not add up"):
        RowCounts(read=1, accepted=1, rejected=0, duplicates=2)
    with pytest.raises(ValueError, match="do not add up"):
        RowCounts(read=3, accepted=2, rejected=1, duplicates=0, repaired=1)
    assert RowCounts(read=4, accepted=1, rejected=1, duplicates=2, repaired=2).kept == 3


def test_lines_of_older_snapshots_are_read_as_they_were_written(tmp_path: Path) -> None:
    line = (
        b'{"id":"0123456789abcdef","messages":[{"content":"Q","role":"user"},'
        b'{"content":"A","role":"assistant"}],"meta":{},"row":1,"source":"x","split":null}\n'
    )
    manifest = write(tmp_path, {"train": [record("One?")], "validation": [], "test": []})
    (tmp_path / "train.jsonl").write_bytes(line)
    body = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    del body["counts"]["repaired"]
    digest = hashlib.sha256(line).hexdigest()
    body["files"]["train.jsonl"] |= {"bytes": len(line), "sha256": digest}
    listing = "".join(f"{body['files'][name]['sha256']}  {name}\n" for name in DATA_FILES)
    body["id"] = hashlib.sha256(listing.encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(body))
    found, splits = read_snapshot(tmp_path)
    assert found.counts == manifest.counts
    assert canonical_line(splits["train"][0]) == line
    assert splits["train"][0].messages[1] == Message("assistant", "A", trained=True)
    assert splits["train"][0].repairs == ()


def test_the_rejected_part_of_nothing_is_nothing() -> None:
    assert RowCounts(0, 0, 0, 0).rejected_fraction == 0.0
    assert RowCounts(4, 3, 1, 0).rejected_fraction == 0.25
