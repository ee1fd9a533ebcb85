"""Events, tails, states, locks and wishes of a run."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError, UsageError
from llamaforge.hardware import process_start
from llamaforge.runs import control, events, launcher
from llamaforge.runs.directory import (
    RunDirectory,
    RunState,
    Status,
    create_run,
    list_runs,
    open_run,
)
from llamaforge.runs.events import EventWriter, Other, Step, Warn, parse_event
from llamaforge.runs.lock import RunLock
from llamaforge.runs.tail import EventTail, follow


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path))
    made = create_run("r")
    made.spec_file.write_text("version: 1\n")
    return made


def step(number: int, loss: float | None = 1.0) -> Step:
    return Step(step=number, total=9, loss=loss, learning_rate=1e-3, tokens_per_second=1.0,
                memory_bytes=1, epoch=0.1)  # fmt: skip


def test_every_event_is_read_back_as_it_was_written(run: RunDirectory) -> None:
    made = [
        events.Started(run="r", pid=1),
        events.Stage(name="train", state="started"),
        events.Progress(stage="verify", done=1, total=2, unit="rows"),
        step(1, None),
        events.Eval(step=1, loss=0.5, rows=3),
        events.Sample(prompt="\x1b[0m", expected="é", base="", tuned="\ud800"),
        events.Sampled(step=1, answers=1),
        events.Paused(reason="asked", message="m"),
        events.Resumed(seconds=1.5),
        events.Checkpoint(step=1, path="p"),
        Warn(code="c", message="m"),
        events.Report(kind="data", figures={"a": [1, None]}),
        events.Artifact(kind="adapter", path="p", sha256="0"),
        events.Failed(code="c", message="m", hint="h"),
        events.Finished(run="r", state="failed", artifacts=[]),
    ]
    assert {type(event) for event in made} == set(events.KNOWN.values())
    writer = EventWriter(run.events_file)
    written = [writer.write(event) for event in made]
    writer.close()
    read = EventTail(run).read_new()
    assert [event.seq for event in read] == list(range(1, len(made) + 1))
    assert [type(event) for event in read] == [type(event) for event in written]
    assert read[3] == written[3] or abs(read[3].t - written[3].t) < 1e-3
    for line in run.events_file.read_bytes().splitlines():
        assert {"v", "seq", "t", "type"} <= set(json.loads(line))


def test_newer_events_and_keys_do_not_disturb() -> None:
    line = '{"v": 9, "seq": 3, "t": 1.0, "type": "dream", "x": 1}'
    event = parse_event(line)
    assert isinstance(event, Other)
    assert event.name == "dream"
    assert parse_event('{"v":1,"seq":1,"t":0,"type":"warning","code":"c","message":"m","new":1}')
    for broken in ("", "{", "[]", '{"type": "step"}', '{"type": ["x"], "seq": 1, "t": 0}', "null"):
        assert parse_event(broken) is None


def test_no_number_that_json_lacks_is_written(run: RunDirectory) -> None:
    writer = EventWriter(run.events_file)
    with pytest.raises(ValueError, match="JSON"):
        writer.write(step(1, float("nan")))
    writer.write(step(1))
    assert [event.seq for event in EventTail(run).read_new()] == [2]


def test_a_torn_line_is_cut_off_and_numbers_and_time_go_on(run: RunDirectory) -> None:
    first = EventWriter(run.events_file)
    for number in range(3):
        first.write(step(number))
    first.write(step(3))
    first.close()
    with run.events_file.open("ab") as file:
        file.write(b'{"v": 1, "seq": 5, "t": 9')
    second = EventWriter(run.events_file)
    event = second.write(step(4))
    second.close()
    assert event.seq == 5
    read = EventTail(run).read_new()
    assert [item.seq for item in read] == [1, 2, 3, 4, 5]
    assert sorted(item.t for item in read) == [item.t for item in read]


def test_a_tail_gives_every_event_once_however_the_file_grows(run: RunDirectory) -> None:
    tail = EventTail(run)
    assert tail.read_new() == []
    lines = "".join(
        Warn(seq=number, code="c", message="é" * 50).to_json() + "\n" for number in range(1, 40)
    ).encode()
    seen = []
    with run.events_file.open("ab") as file:
        for start in range(0, len(lines), 71):
            file.write(lines[start : start + 71])
            file.flush()
            seen += [event.seq for event in tail.read_new()]
    assert seen == list(range(1, 40))
    assert [event.seq for event in EventTail(run, after_seq=37).read_new()] == [38, 39]


def test_following_ends_after_the_last_event(run: RunDirectory) -> None:
    writer = EventWriter(run.events_file)
    writer.write(step(1))
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        writer.write(events.Finished(run="r", state="finished"))

    run.write_status(Status(RunState.RUNNING, pid=os.getpid()))
    seen = [event for event in follow(run, wait=wait) if event is not None]
    assert [event.type for event in seen] == ["step", "finished"]
    assert len(waited) == 1


def test_following_a_lost_run_ends_too(run: RunDirectory) -> None:
    EventWriter(run.events_file).write(step(1))
    run.write_status(Status(RunState.RUNNING, pid=2**22 + 1))
    assert [event.type for event in follow(run) if event] == ["step"]


def test_a_running_state_without_its_process_is_lost(run: RunDirectory) -> None:
    me = psutil.Process()
    alive = Status(RunState.RUNNING, pid=me.pid, pid_started=process_start(me.pid))
    run.write_status(alive)
    assert run.read_status().state is RunState.RUNNING
    assert run.process() == me
    run.write_status(Status(RunState.RUNNING, pid=me.pid, pid_started=process_start(me.pid) - 99))
    assert run.read_status().state is RunState.LOST, "another process has its number now"
    assert run.process() is None


def test_a_process_of_another_host_is_neither_lost_nor_ours_to_end(run: RunDirectory) -> None:
    me = psutil.Process()
    run.write_status(
        Status(RunState.RUNNING, pid=me.pid, pid_started=process_start(me.pid), host="elsewhere")
    )
    assert run.read_status().state is RunState.RUNNING
    assert run.process() is None
    assert control.end_now(run) is False


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "odd"}', '{"state": ["x"]}', "\0"])
def test_a_damaged_state_is_a_run_that_has_not_begun(run: RunDirectory, content: str) -> None:
    run.state_file.write_text(content)
    assert run.read_status() == Status()


def test_names_are_numbered_checked_and_found(run: RunDirectory) -> None:
    with pytest.raises(UsageError) as caught:
        create_run("r")
    assert caught.value.code == "run_exists"
    second = create_run("r", numbered=True)
    assert second.id == "r-2"
    second.spec_file.write_text("")
    os.utime(second.spec_file, (time.time() + 5,) * 2)
    assert [item.id for item in list_runs()] == ["r-2", "r"]
    assert open_run("latest").id == "r-2"
    for bad in ("", "../x", "a/b", ".hidden", "-x", "x" * 65, "a b", "a\n", "\x1b[0m"):
        with pytest.raises(UsageError):
            create_run(bad)
    with pytest.raises(NotFoundError) as missing:
        open_run("r-3")
    assert "r-2" in missing.value.hint


HOLDER = """
    import sys, time
    from pathlib import Path
    from llamaforge.runs.lock import RunLock
    with RunLock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(run.lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_worker_is_told_who_holds_the_run(
    run: RunDirectory, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(RefusedError) as caught, RunLock(run.lock_file):
        pass
    assert caught.value.code == "run_locked"
    assert str(holder.pid) in caught.value.message


def test_a_lock_goes_with_its_holder_however_it_ends(
    run: RunDirectory, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    with RunLock(run.lock_file):
        pass


def test_a_wish_is_taken_once(run: RunDirectory) -> None:
    assert not control.take(run, control.Request.STOP)
    control.ask(run, control.Request.STOP)
    assert control.is_asked(run, control.Request.STOP)
    assert not control.is_asked(run, control.Request.SAVE)
    assert control.take(run, control.Request.STOP)
    assert not control.take(run, control.Request.STOP)


def test_a_worker_that_does_not_listen_is_killed_with_its_children(run: RunDirectory) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        started = process_start(process.pid)
        run.write_status(Status(RunState.RUNNING, pid=process.pid, pid_started=started))
        assert control.end_now(run, grace_seconds=0.3)
        child.wait(10)
        assert run.process() is None
    assert not control.end_now(run)


def test_a_worker_that_cannot_start_is_told_with_its_log(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LlamaForgeError) as caught:
        launcher.launch(run)
    assert caught.value.code == "worker_start"
    assert str(run.log_file) in caught.value.hint
    assert run.log_file.stat().st_mode & 0o777 == 0o600


def test_secrets_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ours = {"GOMP_SPINCOUNT": "2000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
    for name in ours:
        monkeypatch.delenv(name, raising=False)
    chosen = launcher.worker_environment()
    assert "AWS_SECRET_ACCESS_KEY" not in chosen
    assert chosen["OMP_NUM_THREADS"] == "3"
    assert chosen | ours == chosen
    for name in ours:
        monkeypatch.setenv(name, "7")
        assert launcher.worker_environment()[name] == "7"
