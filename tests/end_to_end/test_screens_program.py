"""The real screens in a terminal of their own, over a real worker, and killed under it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llamaforge.runs.control import end_now
from llamaforge.runs.directory import RunState
from tests.end_to_end.program import WAIT_SECONDS, Program
from tests.end_to_end.training import train_words

pytestmark = pytest.mark.slow


class Screens:
    """The program in a pty; what it paints is kept as bytes."""

    def __init__(self, program: Program, *arguments: str, size: tuple[int, int] = (80, 24)) -> None:
        self.master, slave = pty.openpty()
        self.resize(size)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llamaforge", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=program.environment | {"TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"},
            start_new_session=True,
        )
        os.close(slave)
        self.painted = b""

    def resize(self, size: tuple[int, int]) -> None:
        columns, rows = size
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        self.painted = b""
        os.write(self.master, keys)

    def until(self, *texts: bytes) -> None:
        """Wait until all of `texts` were painted since the last key."""
        deadline = time.monotonic() + WAIT_SECONDS
        while any(text not in self.painted for text in texts):
            assert time.monotonic() < deadline, f"{texts} not in {self.painted[-6000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.painted += os.read(self.master, 1 << 16)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_is_steered_from_the_screen_and_survives_its_death(
    program: Program, rows: Path
) -> None:
    program.run(*train_words(rows, "r", max_steps=100_000), "--detach")
    run = program.directory("r")
    program.wait_for_step("r", 2)
    screens = Screens(program, "runs", "attach", "r", "--screen")
    screens.until(b"running", b"nats per token")
    screens.press(b"s")
    screens.until(b"Saved at step")
    screens.press(b"p")
    screens.until(b"Paused after step")
    assert run.read_status().state is RunState.PAUSED
    for size in ((20, 5), (200, 60), (1, 1), (120, 40), (80, 24)) * 5:  # a storm
        screens.resize(size)
        os.kill(screens.process.pid, signal.SIGWINCH)
    screens.press(b"p")
    until(lambda: run.read_status().state is RunState.RUNNING)
    screens.kill()
    step = run.read_status().step
    program.wait_for_step("r", step + 3)
    assert run.read_status().state is RunState.RUNNING

    again = Screens(program)  # the first screen offers the run
    again.until(b"Watch r")
    again.press(b"h")
    again.until(b"running")
    again.press(b"\r")
    again.until(b"nats per token")
    again.press(b"d")
    again.until(b"goes on in the background")
    assert again.process.wait(timeout=WAIT_SECONDS) == 0
    assert run.read_status().state is RunState.RUNNING

    watching = Screens(program, "runs", "attach", "r", "--screen")
    watching.until(b"running")
    assert end_now(run)
    watching.until(b"stopped")
    os.close(watching.master)  # the terminal is gone, and no signal tells so
    watching.process.wait(timeout=30)
