"""A checkpoint is whole or it does not count."""

from pathlib import Path

import pytest

from llamaforge.training.checkpoints import (
    commit_checkpoint,
    newest_checkpoint,
    partial_folder,
    step_of,
)


def write(folder: Path, step: int) -> Path:
    partial = partial_folder(folder)
    (partial / "weights").write_bytes(b"w" * 1000)
    (partial / "optimizer").write_bytes(b"o" * 10)
    return commit_checkpoint(partial, folder, step)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-000015"]
    newest, damaged = newest_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 15
    assert not damaged


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "absent") == (None, [])


@pytest.mark.parametrize("name", ["weights", "optimizer", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_passed_over_for_the_one_before(
    name: str, damage: str, tmp_path: Path
) -> None:
    write(tmp_path, 5)
    path = write(tmp_path, 10)
    target = path / name
    content = bytearray(target.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        target.write_bytes(bytes(content))
    elif damage == "truncate":
        target.write_bytes(bytes(content[:-3]))
    else:
        target.unlink()
    newest, damaged = newest_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 5
    assert damaged == [path]


def test_a_file_that_is_not_listed_spoils_it(tmp_path: Path) -> None:
    (write(tmp_path, 5) / "more").write_bytes(b"")
    assert newest_checkpoint(tmp_path)[0] is None


def test_what_was_being_written_when_the_worker_died_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (partial_folder(tmp_path) / "weights").write_bytes(b"half")
    newest, damaged = newest_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 5
    assert not damaged
    assert not list(partial_folder(tmp_path).iterdir()), "the next attempt starts empty"
