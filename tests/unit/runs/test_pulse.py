"""A worker's signs of life, and what is said where they stay away."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llamaforge import hardware
from llamaforge.runs import pulse
from llamaforge.runs.directory import RunDirectory, RunState, Status, is_process
from llamaforge.runs.pulse import Heart, Pulse, read_pulse


def test_a_heart_beats_and_tells_when_work_was_done(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    with Heart(path, beat_seconds=0.01) as heart:
        deadline = time.monotonic() + 10
        first = path.read_bytes()
        while path.read_bytes() == first:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        found = read_pulse(path, os.getpid())
        assert found is not None
        assert not found.hangs
        assert not found.idles
        heart.work()
    assert read_pulse(path, os.getpid() + 1) is None, "another process's"
    assert len(path.read_bytes()) == len(first), "replaced in place"


def test_no_sign_and_a_broken_one_are_none(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    for text in (None, "", "[]", "{}", '{"boot": 1, "pid": 2}', "\x00"):
        if text is not None:
            path.write_text(text)
        assert read_pulse(path, 2) is None


def test_what_is_said_names_the_way_out() -> None:
    assert Pulse(1, 1).words("r") == ""
    hung = Pulse(pulse.HANG_SECONDS + 1, 5).words("r")
    assert "no sign of life for 31 s" in hung
    assert "runs stop --now r; llamaforge runs resume r" in hung
    assert "told nothing" in Pulse(1, pulse.IDLE_SECONDS + 1).words("r")


def test_a_stopped_process_is_told_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "HANG_SECONDS", 0.3)
    run = RunDirectory(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from llamaforge.runs.pulse import Heart\n"
        "with Heart(Path(sys.argv[1]), beat_seconds=0.02): print(1, flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(run.pulse_file)], stdout=subprocess.PIPE
    )
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        run.write_status(
            Status(
                RunState.RUNNING,
                pid=worker.pid,
                pid_started=hardware.process_start(worker.pid),
                boot=hardware.boot_id(),
                host=socket.gethostname(),
            )
        )
        assert run.read_status().message == ""
        worker.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while not run.read_status().message:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        status = run.read_status()
        assert status.state is RunState.RUNNING
        assert "no sign of life" in status.message
    finally:
        worker.kill()
        worker.communicate()
    assert run.read_status().state is RunState.LOST


def test_setting_the_clock_takes_no_worker_away(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux")
    started = hardware.process_start(os.getpid())
    linux = sys.modules["psutil._pslinux"]
    real = linux.boot_time
    monkeypatch.setattr(linux, "boot_time", lambda: real() + 86_400)
    assert abs(psutil.boot_time() - real()) > 80_000, "the date was set"
    assert hardware.process_start(os.getpid()) == started
    assert is_process(os.getpid(), started)


def test_a_process_of_an_earlier_start_of_the_machine_is_gone() -> None:
    started = hardware.process_start(os.getpid())
    assert is_process(os.getpid(), started, hardware.boot_id())
    assert not is_process(os.getpid(), started, "00000000-0000-0000-0000-000000000000")


def test_the_kernels_count_of_kills_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    monkeypatch.setattr(hardware, "_VM_COUNTS", tmp_path / "vmstat")
    assert hardware.memory_kills() is None
    (tmp_path / "vmstat").write_text("nr_free 1\noom_kill 3\n")
    assert hardware.memory_kills() == 3
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert hardware.memory_kills() == 1


def test_a_heart_needs_no_room_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    with Heart(path):
        body = json.loads(path.read_text())
        assert path.stat().st_blocks * 512 <= 8192
    assert body["pid"] == os.getpid()
