"""`runs`: list, show, attach, stop, resume and rm, each on runs in every state."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamaforge.cli import launching
from llamaforge.cli.main import main
from llamaforge.errors import ExitCode
from llamaforge.hardware import process_start
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState, Status, is_process, list_runs
from llamaforge.runs.lock import RunLock

Capture = pytest.CaptureFixture[str]
MakeRun = Callable[..., RunDirectory]
STARTED = events.Started(run="one", pid=1)


def as_json(words: list[str], capsys: Capture, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_without_runs_the_list_says_how_to_begin(capsys: Capture, home: Path) -> None:
    assert main(["runs"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "llamaforge demo" in printed.err
    assert as_json(["runs", "list"], capsys) == []
    assert not home.exists()


def test_the_list_has_every_run_newest_first(make_run: MakeRun, capsys: Capture) -> None:
    older = make_run("older", state=RunState.STOPPED, stage="train", step=3, total=9)
    newer = make_run("newer")
    os.utime(older.spec_file, ns=(1, 1))
    listed = as_json(["runs"], capsys)
    assert listed == as_json(["runs", "list"], capsys)
    assert [item["id"] for item in listed] == [newer.id, older.id]
    assert listed[1]["state"] == "stopped"
    assert (listed[1]["stage"], listed[1]["step"], listed[1]["total"]) == ("train", 3, 9)
    assert listed[1]["model"] == "qwen2.5:3b"
    assert listed[1]["created"].startswith("20")


def test_json_before_or_after_the_inner_verb_means_the_same(
    make_run: MakeRun, capsys: Capture
) -> None:
    make_run("one")
    assert main(["runs", "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == as_json(["runs", "list"], capsys)


def test_the_table_fits_80_columns_and_hostile_names_are_visible(
    make_run: MakeRun, capsys: Capture
) -> None:
    make_run("x" * 64, model="\x1b[2J[red]" + "m" * 90, state=RunState.STOPPED, stage="\x9bevil",
             step=10**9, total=10**9)  # fmt: skip
    make_run("torn").spec_file.write_text("not: [a spec")
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert not {"\x1b", "\x9b"} & set(shown)
    assert shown.count("x") == 64 + len(["\\x1b", "\\x9b"])
    assert "\\x1b[2J" in shown
    assert "torn" in shown


def test_show_has_the_keys_that_scripts_rely_on(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    metrics = {"loss": 1.5, "eval_loss": None}
    run = make_run("one", state=RunState.RUNNING, stage="train", metrics=metrics, **alive)
    adapter = run.artifacts / "adapter.gguf"
    adapter.write_bytes(b"GGUF")
    artifacts = [{"kind": "adapter", "path": str(adapter), "sha256": "0" * 64}]
    (run.artifacts / "artifacts.json").write_text(json.dumps(artifacts))
    shown = as_json(["runs", "show", "latest"], capsys)
    assert (shown["id"], shown["name"], shown["state"]) == ("one", "one", "running")
    assert (shown["pid"], shown["stage"]) == (os.getpid(), "train")
    assert shown["metrics"] == metrics
    assert shown["artifacts"] == artifacts
    assert main(["runs", "show", "one"]) == 0
    text = capsys.readouterr().out
    assert "loss: 1.5" in text
    assert "llamaforge runs attach one" in text


def test_a_run_that_is_not_there_is_not_found_with_near_names(
    make_run: MakeRun, capsys: Capture
) -> None:
    make_run("tuned")
    for verb in ("show", "attach", "stop", "resume", "rm"):
        error = as_json(["runs", verb, "tunde"], capsys, 4)["error"]
        assert error["code"] == "no_run"
        assert "tuned" in error["hint"]


@pytest.mark.parametrize(
    ("state", "code"),
    [(RunState.STOPPED, 130), (RunState.LOST, 1), (RunState.FAILED, 1)],
)
def test_attaching_to_a_run_that_is_over_says_how_to_go_on(
    state: RunState, code: int, make_run: MakeRun, capsys: Capture
) -> None:
    make_run("one", STARTED, events.Checkpoint(step=5, path="x"), state=state)
    assert main(["runs", "attach", "one"]) == code
    shown = capsys.readouterr().err
    assert "step 5 is saved" in shown
    assert "llamaforge runs resume one" in shown


def test_attaching_to_a_failed_run_says_why_with_its_exit_code(
    make_run: MakeRun, capsys: Capture
) -> None:
    failed = events.Failed(code="x", message="No \x1b[5m.", hint="Mend it.", exit_code=3)
    make_run("one", STARTED, failed, state=RunState.FAILED)
    assert main(["runs", "attach", "one"]) == 3
    assert capsys.readouterr().err == "error: No \\x1b[5m. Mend it.\n"


def test_attaching_to_a_run_that_has_not_begun_is_refused(
    make_run: MakeRun, capsys: Capture
) -> None:
    make_run("one")
    error = as_json(["runs", "attach", "one"], capsys, 3)["error"]
    assert error["code"] == "not_running"
    assert "runs resume one" in error["hint"]


def test_a_run_can_be_watched_on_its_screen(
    make_run: MakeRun, alive: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def screens(store: object, run: object) -> ExitCode:
        opened.append(run)
        return ExitCode.DONE

    monkeypatch.setattr("llamaforge.tui.app.main", screens)
    make_run("one", STARTED, state=RunState.RUNNING, **alive)
    assert main(["runs", "attach", "latest", "--screen"]) == 0
    assert opened == ["one"]


@pytest.mark.parametrize(("more", "first"), [([], 13), (["--from-start"], 1)])
def test_attaching_shows_the_newest_events_or_all(
    more: list[str], first: int, make_run: MakeRun, capsys: Capture
) -> None:
    warned = [events.Warn(code="w", message=str(number)) for number in range(30)]
    done = events.Finished(run="one", state="finished")
    make_run("one", STARTED, *warned, done, state=RunState.FINISHED)
    assert main(["runs", "attach", "one", "--json", *more]) == 0
    numbers = [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]
    assert numbers == list(range(first, 33))


def test_all_events_of_a_run_that_is_over_are_shown_where_that_is_asked_for(
    make_run: MakeRun, capsys: Capture
) -> None:
    warned = events.Warn(code="w", message="Mind the gap.")
    done = events.Finished(run="one", state="finished")
    make_run("one", STARTED, warned, done, state=RunState.FINISHED)
    assert main(["runs", "attach", "one"]) == 0
    assert "Mind the gap." not in capsys.readouterr().err
    assert main(["runs", "attach", "one", "--from-start"]) == 0
    shown = capsys.readouterr()
    assert "warning: Mind the gap." in shown.err
    assert "is finished" in shown.out


def test_the_figures_of_a_run_are_shown_in_words(make_run: MakeRun, capsys: Capture) -> None:
    figures = {
        "loss": 2.25,
        "learning_rate": 0.000178183148246803,
        "memory_bytes": 792780800,
        "eta_seconds": 15.0,
        "of_a_later_version": 1.5,
    }
    make_run("one", STARTED, state=RunState.STOPPED, metrics=figures)
    assert main(["runs", "show", "one"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"loss: 2.2500", "learning rate: 0.000178", "memory: 793 MB"} <= set(lines)
    assert "of a later version: 1.5" in lines
    assert not any("left" in line for line in lines), "it does not run"


def test_without_runs_the_newest_is_not_there_and_how_to_begin_is_said(
    capsys: Capture, home: Path
) -> None:
    error = as_json(["runs", "show", "latest"], capsys, 4)["error"]
    assert error["code"] == "no_run"
    assert error["message"] == "There are no runs yet."
    assert "llamaforge demo" in error["hint"]


def test_stop_waits_until_the_worker_has_saved(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    run = make_run("one", STARTED, state=RunState.RUNNING, **alive)

    def work() -> None:
        while not control.is_asked(run, control.Request.STOP):
            time.sleep(0.01)
        writer = events.EventWriter(run.events_file)
        writer.write(events.Checkpoint(step=42, path="x"))
        writer.write(events.Finished(run="one", state="stopped"))
        writer.close()
        run.write_status(Status(state=RunState.STOPPED))

    worker = threading.Thread(target=work)
    worker.start()
    assert main(["runs", "stop", "one"]) == 0
    worker.join()
    assert capsys.readouterr().out == "The run one is stopped; step 42 is saved.\n"


def test_stop_now_ends_the_worker_at_once(make_run: MakeRun, capsys: Capture) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True
    )
    try:
        born = process_start(worker.pid)
        make_run("one", STARTED, state=RunState.RUNNING, pid=worker.pid, pid_started=born)
        shown = as_json(["runs", "stop", "one", "--now"], capsys)
        assert not is_process(worker.pid, born)
    finally:
        worker.kill()
        worker.wait()
    assert (shown["state"], shown["checkpoint"], shown["pid"]) == ("lost", None, None)


@pytest.mark.parametrize("state", [RunState.CREATED, RunState.STOPPED, RunState.FINISHED])
def test_what_does_not_run_cannot_be_stopped(
    state: RunState, make_run: MakeRun, capsys: Capture
) -> None:
    run = make_run("one", state=state)
    assert as_json(["runs", "stop", "one"], capsys, 3)["error"]["code"] == "not_running"
    assert not control.is_asked(run, control.Request.STOP)


def finish(run: RunDirectory) -> int:
    writer = events.EventWriter(run.events_file)
    writer.write(events.Started(run=run.id, pid=7, resumed=True))
    writer.write(events.Finished(run=run.id, state="finished"))
    writer.close()
    run.write_status(Status(state=RunState.FINISHED))
    return 7


@pytest.mark.parametrize(
    "state", [RunState.CREATED, RunState.STOPPED, RunState.FAILED, RunState.LOST]
)
def test_resuming_shows_only_what_is_new(
    state: RunState, make_run: MakeRun, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "launch", finish)
    make_run("one", STARTED, events.Finished(run="one", state="stopped"), state=state)
    assert main(["runs", "resume", "one", "--json"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [3, 4]


def test_a_running_or_finished_run_is_not_resumed(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    make_run("live", state=RunState.RUNNING, **alive)
    make_run("done", state=RunState.FINISHED)
    live = as_json(["runs", "resume", "live"], capsys, 3)["error"]
    assert live["code"] == "run_running"
    assert "runs attach live" in live["hint"]
    assert as_json(["runs", "resume", "done"], capsys, 3)["error"]["code"] == "run_finished"


def test_a_worker_that_cannot_start_is_told_with_its_log(
    make_run: MakeRun, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    run = make_run("one")
    assert main(["runs", "resume", "one"]) == 1
    assert str(run.log_file) in capsys.readouterr().err


def test_runs_are_removed_with_all_they_made(make_run: MakeRun, capsys: Capture) -> None:
    run, other = make_run("one", STARTED, state=RunState.FINISHED), make_run("two")
    (run.checkpoints / "step-1").mkdir()
    assert as_json(["runs", "rm", "one", "one", "--yes"], capsys) == {"removed": ["one"]}
    assert not run.path.exists()
    assert [left.id for left in list_runs()] == [other.id]


def test_removing_must_be_confirmed(
    make_run: MakeRun, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("one")
    error = as_json(["runs", "rm", "one"], capsys, 2)["error"]
    assert (error["code"], error["hint"]) == ("not_confirmed", "Add --yes.")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert main(["runs", "rm", "one"]) == 130
    assert run.path.exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["runs", "rm", "one"]) == 0
    assert not run.path.exists()


def test_a_running_run_is_not_removed_and_neither_are_those_named_with_it(
    make_run: MakeRun, alive: dict[str, Any], capsys: Capture
) -> None:
    idle, live = make_run("idle"), make_run("live", state=RunState.RUNNING, **alive)
    error = as_json(["runs", "rm", "idle", "live", "--yes"], capsys, 3)["error"]
    assert error["code"] == "run_running"
    assert idle.path.exists()
    assert live.path.exists()


def test_a_run_that_a_worker_is_taking_is_not_removed(make_run: MakeRun, capsys: Capture) -> None:
    run = make_run("one")
    with RunLock(run.lock_file):
        error = as_json(["runs", "rm", "one", "--yes"], capsys, 3)["error"]
    assert error["code"] == "run_locked"
    assert run.spec_file.exists()


def test_what_links_out_of_the_runs_folder_is_left_where_it_is(
    make_run: MakeRun, tmp_path: Path, home: Path, capsys: Capture
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "precious").write_text("x")
    run = make_run("one")
    (run.path / "link").symlink_to(kept)
    moved = tmp_path / "moved"
    make_run("two").path.rename(moved)
    (home / "runs/two").symlink_to(moved)
    assert main(["runs", "rm", "one", "two", "--yes"]) == 0
    assert (kept / "precious").exists()
    assert (moved / "run.yaml").exists()
    assert list_runs() == []
