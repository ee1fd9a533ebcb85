"""What a worker finds changed where an earlier one of its run left off."""

import errno
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.errors import RefusedError
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.tail import EventTail
from llamaforge.training.checkpoints import commit_checkpoint, partial_folder
from llamaforge.worker import prepare
from llamaforge.worker.__main__ import _explained
from llamaforge.worker.job import Job
from tests.contract.worker.test_memory_cut import make_job


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(paths.embedded_data().open().readlines()[:20]))
    return path


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path) -> Job:
    """A run whose rows are frozen."""
    return make_job(tmp_path, monkeypatch, rows, batch=8)


def warnings(job: Job) -> dict[str, str]:
    found = EventTail(job.run).read_new()
    return {event.code: event.message for event in found if isinstance(event, events.Warn)}


def begin_training(job: Job) -> None:
    commit_checkpoint(partial_folder(job.run.checkpoints), job.run.checkpoints, 1)


def flip(path: Path) -> None:
    """Change one bit of a file that other folders may share, in place."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_rows_that_were_damaged_are_read_anew_where_they_are_the_same(job: Job) -> None:
    begin_training(job)
    flip(job.run.data / "train.jsonl")
    assert not prepare.is_prepared(job)
    prepare.prepare(job)
    assert prepare.is_prepared(job)
    said = warnings(job)["rows_read_again"]
    assert "train.jsonl was changed: its sha256 is " in said
    assert said.endswith("read anew, and are the same.")


def test_training_does_not_go_on_with_other_rows(job: Job, rows: Path) -> None:
    begin_training(job)
    rows.write_text("".join(paths.embedded_data().open().readlines()[:15]))
    assert prepare.is_prepared(job), "what happens to the file is no matter"
    flip(job.run.data / "train.jsonl")
    for _ in range(2):
        with pytest.raises(RefusedError) as caught:
            prepare.prepare(job)
        assert caught.value.code == "rows_changed"
        assert not prepare.is_prepared(job)


def test_before_training_any_rows_will_do(job: Job, rows: Path) -> None:
    rows.write_text("".join(paths.embedded_data().open().readlines()[:15]))
    flip(job.run.data / "train.jsonl")
    prepare.prepare(job)
    assert prepare.is_prepared(job)


def test_a_spec_that_was_changed_between_two_workers_is_told(job: Job) -> None:
    job.begin(resumed=False)
    job.close()
    for change, told in ((False, False), (True, True)):
        if change:
            with job.run.spec_file.open("a") as file:
                file.write("# a note\n")
        later = Job(job.run, job.spec)
        later.begin(resumed=True)
        later.close()
        assert ("changed_spec" in warnings(job)) is told


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EFBIG, "File too large"), "file_too_large", "larger than its disk"),
        (RuntimeError("I/O error: File too large (os error 27)"), "file_too_large", "ulimit -f"),
        (OSError(errno.EIO, "Input/output error", "x\x1b"), "system", "Input/output error (x"),
        (OSError("odd"), "internal", "unexpected OSError"),
        (ZeroDivisionError(), "internal", "unexpected ZeroDivisionError"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(error: Exception, code: str, words: str) -> None:
    said = _explained(error, RunDirectory(Path("/r")))
    assert said.code == code
    assert words in f"{said.message} {said.hint}"
    assert said.message.isprintable()


def test_the_state_of_a_run_says_how_far_training_came_where_no_event_does(job: Job) -> None:
    """A worker may end between its last checkpoint and the state; the next has nothing to train."""
    job.begin(resumed=True)
    job.turn_to(1, steps_before=5)
    job.reach(3)
    status = job.run.noted_status()
    assert (status.step, status.total) == (8, 8)
    job.close()
