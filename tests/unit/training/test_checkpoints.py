"""A checkpoint is whole or it does not count."""

import hashlib
import os
from pathlib import Path

import pytest

from llamaforge.training.checkpoints import (
    commit_checkpoint,
    newest_checkpoint,
    partial_folder,
    set_aside,
    step_of,
)
from tools.failpoints import end_at_operation


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
    assert [item.path for item in damaged] == [path]
    assert damaged[0].reason.startswith(name) or name == "manifest.json"


def test_a_changed_file_is_told_with_both_digests(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    expected = hashlib.sha256(b"w" * 1000).hexdigest()
    actual = hashlib.sha256(b"x" * 1000).hexdigest()
    (path / "weights").write_bytes(b"x" * 1000)
    _, [damaged] = newest_checkpoint(tmp_path)
    assert damaged.reason == f"weights has sha256 {actual} instead of {expected}"
    (path / "weights").write_bytes(b"x")
    _, [damaged] = newest_checkpoint(tmp_path)
    assert damaged.reason == "weights has 1 bytes instead of 1,000"


def test_damaged_ones_never_push_a_whole_one_out(tmp_path: Path) -> None:
    for step in (10, 15, 20):
        write(tmp_path, step)
    (tmp_path / "step-000020" / "weights").write_bytes(b"")
    newest, damaged = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "step-000015"
    for item in damaged:
        set_aside(item.path)
    assert (tmp_path / "damaged-step-000020").is_dir(), "kept for a look at it"
    write(tmp_path, 16)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["step-000015", "step-000016"]


def test_a_whole_one_is_never_written_again(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    before = path.stat().st_ino
    assert write(tmp_path, 5) == path
    assert path.stat().st_ino == before
    (path / "weights").write_bytes(b"")
    assert write(tmp_path, 5) == path
    assert newest_checkpoint(tmp_path) == (path, [])


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_at_any_step_of_a_save_a_whole_one_is_left(damaged: bool, tmp_path: Path) -> None:
    """The process ends at the n-th operation on the disk, for every n."""
    trials = 0
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        for step in (5, 10, 15):
            write(folder, step)
        if damaged:
            (folder / "step-000015" / "weights").write_bytes(b"")
        child = os.fork()
        if child == 0:
            end_at_operation(number)
            if damaged:
                set_aside(folder / "step-000015")
            write(folder, 15 if damaged else 20)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        newest, found = newest_checkpoint(folder)
        assert newest is not None
        assert step_of(newest) in ({10, 15} if damaged else {15, 20})
        if not damaged:
            assert found == []
        # And the next save goes well, whatever was left lying about.
        assert step_of(write(folder, 30)) == 30
        assert newest_checkpoint(folder)[0] == folder / "step-000030"
        if status == 0:
            break
        trials += 1
    assert trials > 15, "there are as many operations to be killed at"


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
