"""Events, tails, states, locks and wishes of a run."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError, UsageError
from llamaforge.hardware import boot_id, process_start
from llamaforge.runs import control, directory, events, launcher, pulse
from llamaforge.runs.directory import (
    RunDirectory,
    RunState,
    Status,
    create_run,
    is_deserted,
    list_runs,
    open_run,
)
from llamaforge.runs.events import EventWriter, Other, Step, Warn, parse_event
from llamaforge.runs.lock import RunLock, is_held
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
    run.pulse_file.write_text("{}")
    run.write_status(
        Status(RunState.RUNNING, pid=me.pid, pid_started=process_start(me.pid), host="elsewhere")
    )
    assert run.read_status().state is RunState.RUNNING
    assert run.process() is None
    assert control.end_now(run) is False


def elsewhere(run: RunDirectory, *, seconds_ago: float) -> None:
    """Let a worker of another machine have left its last sign of life so long ago."""
    run.pulse_file.write_text("{}")
    os.utime(run.pulse_file, (time.time() - seconds_ago,) * 2)
    run.write_status(Status(RunState.RUNNING, pid=7, pid_started=1.0, boot="b", host="elsewhere"))


def test_a_worker_of_a_machine_that_is_gone_is_lost(run: RunDirectory) -> None:
    elsewhere(run, seconds_ago=5.0)
    assert run.read_status().state is RunState.RUNNING
    elsewhere(run, seconds_ago=pulse.AWAY_SECONDS + 9)
    assert run.read_status().state is RunState.LOST
    assert run.noted_status().state is RunState.RUNNING


def test_a_lock_that_another_machine_holds_says_that_it_lives(
    run: RunDirectory, holder: subprocess.Popen[str]
) -> None:
    elsewhere(run, seconds_ago=pulse.AWAY_SECONDS + 9)
    assert run.read_status().state is RunState.RUNNING
    holder.kill()
    holder.wait()
    assert run.read_status().state is RunState.LOST


def test_signs_of_life_are_seen_by_watching_whatever_the_clocks_say(run: RunDirectory) -> None:
    assert not pulse.is_beating(run.pulse_file, beat_seconds=0.01)
    with pulse.Heart(run.pulse_file, beat_seconds=0.01):
        os.utime(run.pulse_file, (1.0, 1.0))
        assert pulse.is_beating(run.pulse_file, beat_seconds=0.2)
    assert not pulse.is_beating(run.pulse_file, beat_seconds=0.01)


def test_a_run_that_another_machine_left_is_found_by_watching_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Path] = []
    for beats in (True, False):

        def is_beating(path: Path, beats: bool = beats) -> bool:
            watched.append(path)
            return beats

        monkeypatch.setattr(directory, "is_beating", is_beating)
        elsewhere(run, seconds_ago=5.0)
        assert is_deserted(run) is not beats
    assert len(watched) == 2
    run.write_status(Status(RunState.RUNNING, pid=os.getpid()))
    assert not is_deserted(run)
    run.write_status(Status(RunState.STOPPED, host="elsewhere"))
    assert not is_deserted(run)
    assert len(watched) == 2, "only where it is needed: it takes seconds"


def test_a_machine_that_got_another_name_knows_its_processes(run: RunDirectory) -> None:
    me = psutil.Process()
    status = Status(
        RunState.RUNNING,
        pid=me.pid,
        pid_started=process_start(me.pid),
        boot=boot_id() or pytest.skip("the system does not name its starts"),
        host="before",
    )
    run.write_status(status)
    assert run.read_status().state is RunState.RUNNING
    assert run.process() == me


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


def test_a_name_that_is_at_work_is_told_with_who_has_it(run: RunDirectory) -> None:
    run.write_status(Status(RunState.RUNNING, pid=os.getpid(), host=socket.gethostname()))
    with pytest.raises(UsageError) as caught:
        create_run("r")
    assert f"it is running, held by process {os.getpid()} on " in caught.value.message
    assert "runs attach r" in caught.value.hint


def test_a_folder_that_is_no_run_is_named_with_what_can_be_done(run: RunDirectory) -> None:
    cut_off = create_run("cut")
    with pytest.raises(UsageError) as caught:
        create_run("cut")
    assert caught.value.code == "run_exists"
    assert str(cut_off.path) in caught.value.message
    assert "runs rm" not in caught.value.hint, "it is no run, so that would not find it"
    assert create_run("cut", numbered=True).id == "cut-2"


def test_a_run_that_cannot_be_looked_at_hides_no_other(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run("theirs").spec_file.write_text("")
    real = Path.stat

    def denied(self: Path, **options: Any) -> os.stat_result:
        if self.parent.name == "theirs":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", denied)
    assert [item.id for item in list_runs()] == ["r"]


def test_what_a_run_made_is_found_where_the_run_was_moved_to(run: RunDirectory) -> None:
    made = run.artifacts / "adapter.gguf"
    outside = run.path.parent / "outside.gguf"
    for path in (made, outside):
        path.write_text("")
        run.list_artifact("adapter" if path == made else "gguf", path, "0")
    assert {item["path"] for item in run.artifact_list()} == {str(made), str(outside)}
    moved = RunDirectory(run.path.rename(run.path.with_name("moved")))
    found = [item["path"] for item in moved.artifact_list()]
    assert found == [str(moved.artifacts / "adapter.gguf"), str(outside)]


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


def test_looking_whether_a_run_is_held_writes_nothing_and_bars_nobody(
    run: RunDirectory, holder: subprocess.Popen[str]
) -> None:
    before = run.lock_file.read_bytes()
    assert is_held(run.lock_file)
    assert run.lock_file.read_bytes() == before
    holder.kill()
    holder.wait()
    assert not is_held(run.lock_file)
    assert not is_held(run.path / "no such file")
    looking = os.open(run.lock_file, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, (looking,)).start()
    with RunLock(run.lock_file):
        pass


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


SECOND = """
    import sys; from pathlib import Path; from llamaforge.runs.lock import RunLock
    from llamaforge.errors import LlamaForgeError
    try:
        RunLock(Path(sys.argv[3]) / "lock").__enter__()
    except LlamaForgeError as error:
        sys.exit(error.exit_code)
"""


def test_of_two_starts_the_second_is_told_who_has_the_run(
    run: RunDirectory,
    holder: subprocess.Popen[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{textwrap.dedent(SECOND)}' \"$@\"\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    # The first one's event comes while the second is started.
    real = EventTail.read_new

    def read_new(tail: EventTail) -> list[events.Event]:
        found = real(tail)
        if not run.events_file.exists():
            EventWriter(run.events_file).write(events.Started(run="r", pid=holder.pid))
        return found

    monkeypatch.setattr(EventTail, "read_new", read_new)
    with pytest.raises(RefusedError) as caught:
        launcher.launch(run)
    assert caught.value.code == "run_locked"
    assert f"process {holder.pid}" in caught.value.message
    assert caught.value.hint.endswith("runs attach r")


def test_a_worker_is_not_started_without_room_for_its_first_words(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "free_disk_bytes", lambda _place: 4096)
    with pytest.raises(RefusedError) as caught:
        launcher.launch(run)
    assert caught.value.code == "disk_full"
    assert "1.0 MB must be free" in caught.value.message
    assert not run.log_file.exists()


def test_a_slow_worker_is_not_called_dead(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_START_TIMEOUT_SECONDS", 0.2)
    started = []
    real = subprocess.Popen

    def slow(_command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        started.append(real(["sleep", "60"], **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", slow)
    with pytest.raises(LlamaForgeError) as caught:
        launcher.launch(run)
    started[0].kill()
    started[0].wait()
    assert caught.value.code == "worker_slow"
    assert str(started[0].pid) in caught.value.message


def test_a_folder_that_cannot_be_written_to_is_said_in_a_sentence(run: RunDirectory) -> None:
    run.control.rmdir()
    run.control.write_text("a file where a folder was: nothing can be left there")
    with pytest.raises(RefusedError) as caught:
        control.ask(run, control.Request.STOP)
    assert caught.value.code == "run_not_writable"
    run.log_file.mkdir()
    with pytest.raises(RefusedError) as caught:
        launcher.launch(run)
    assert caught.value.code == "run_not_writable"


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
