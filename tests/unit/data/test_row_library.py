"""Snapshots are kept once by content, found by their digits, and compared row by row."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data import library
from llamaforge.data.difference import difference
from llamaforge.data.quality import count
from llamaforge.data.records import Message, Record, record_id
from llamaforge.data.snapshot import SnapshotReport, read_snapshot, write_snapshot
from llamaforge.errors import NotFoundError, UsageError


def record(asked: str, answer: str = "yes", row: int = 1) -> Record:
    messages = (Message("user", asked), Message("assistant", answer))
    return Record(record_id(messages), "rows.jsonl", row, messages)


def sides(*records: Record, held_out: tuple[Record, ...] = ()) -> dict[str, list[Record]]:
    return {"train": list(records), "validation": list(held_out), "test": []}


def written(folder: Path, *records: Record) -> Path:
    folder.mkdir(parents=True)
    report = SnapshotReport((), count(len(records), records, ()))
    write_snapshot(folder, sides(*records), report)
    return folder


def test_the_same_rows_are_kept_once(tmp_path: Path) -> None:
    first = library.keep(written(tmp_path / "a", record("one"), record("two")))
    again = library.keep(written(tmp_path / "b", record("one"), record("two")))
    other = library.keep(written(tmp_path / "c", record("one")))
    assert first == again != other
    assert {item.folder for item in library.snapshots()} == {first, other}
    manifest, rows = read_snapshot(first)
    assert [turn.messages[0].content for turn in rows["train"]] == ["one", "two"]
    assert first.name == manifest.id[:16]


def test_a_snapshot_is_found_by_its_first_digits(tmp_path: Path) -> None:
    place = library.keep(written(tmp_path / "a", record("one")))
    assert library.find(place.name[:6].upper()).folder == place
    with pytest.raises(NotFoundError):
        library.find("ffffffffffffffff0")
    with pytest.raises(UsageError, match="too short"):
        library.find("a")


def test_what_is_taken_is_what_was_kept(tmp_path: Path) -> None:
    library.keep(written(tmp_path / "a", record("one")))
    [kept] = library.snapshots()
    target = written(tmp_path / "run", record("older"), record("data"))
    manifest = library.take(kept, target)
    assert read_snapshot(target)[0] == manifest == kept.manifest


def test_a_damaged_snapshot_is_replaced_and_junk_passed_over(tmp_path: Path) -> None:
    source = written(tmp_path / "a", record("one"))
    place = library.keep(source)
    (library.folder() / "junk").mkdir()
    (library.folder() / "file").write_text("x")
    (place / "manifest.json").unlink()
    assert library.snapshots() == []
    assert library.keep(source) == place
    assert len(library.snapshots()) == 1


def test_a_snapshot_whose_rows_were_edited_is_replaced(tmp_path: Path) -> None:
    place = library.keep(written(tmp_path / "a", record("one")))
    (place / "train.jsonl").write_bytes(b"edited\n")
    assert library.keep(written(tmp_path / "b", record("one"))) == place
    assert [turn.messages[0].content for turn in read_snapshot(place)[1]["train"]] == ["one"]
    assert [entry.name for entry in library.folder().iterdir()] == [place.name]


def test_two_that_keep_the_same_rows_at_once_both_succeed(tmp_path: Path) -> None:
    folders = [written(tmp_path / str(number), record("one")) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(library.keep, folders))
    assert len(places) == 1
    assert read_snapshot(places.pop())[0].counts.train == 1
    assert len(list(library.folder().iterdir())) == 1


@pytest.mark.parametrize("name", ["../run.yaml", "/etc/passwd", "notes.txt"])
def test_a_manifest_cannot_name_files_beside_the_snapshots(tmp_path: Path, name: str) -> None:
    place = library.keep(written(tmp_path / "a", record("one")))
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["test.jsonl"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NotFoundError):
        library.find(place.name)


def test_rows_added_removed_changed_and_moved_are_told_apart() -> None:
    before = sides(record("a"), record("b"), record("c"), record("d"))
    after = sides(
        record("a"), record("b", "no"), record("e"), record("e", row=2), held_out=(record("d"),)
    )
    found = difference(before, after)
    assert (found.same, found.moved) == (2, 1)
    assert [item.messages[0].content for item in found.added] == ["e", "e"]
    assert [item.messages[0].content for item in found.removed] == ["c"]
    assert [(c.before.messages[1].content, c.after.messages[1].content) for c in found.changed] == [
        ("yes", "no")
    ]
    assert difference(before, before).is_empty


def test_rows_of_a_file_are_on_no_side() -> None:
    file = {"": [record("a"), record("b")]}
    assert difference(sides(record("a"), held_out=(record("b"),)), file).is_empty
    assert not difference(file, sides(record("a"))).is_empty


ROWS = st.lists(st.builds(record, st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=8)


@given(ROWS, ROWS)
def test_every_row_is_counted_once(before: list[Record], after: list[Record]) -> None:
    found = difference(sides(*before), sides(*after))
    assert found.same + len(found.removed) + len(found.changed) == len(before)
    assert found.same + len(found.added) + len(found.changed) == len(after)
    back = difference(sides(*after), sides(*before))
    assert (len(back.added), len(back.removed)) == (len(found.removed), len(found.added))
