"""A real terminal, by tmux: what a person types, and what then stands on the screen."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

WAIT_SECONDS = 120.0
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """One window of a tmux server of its own."""

    def __init__(self, folder: Path, width: int = 80, height: int = 24) -> None:
        self._socket = folder / "tmux"
        self._size = (width, height)
        self._again: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tmux("kill-server", check=False)

    def start(self, words: list[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start a program in the window."""
        settings = [part for key, value in environment.items() for part in ("-e", f"{key}={value}")]
        width, height = map(str, self._size)
        self._again = ["-c", str(folder), *settings, *words]
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, *self._again)
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    @property
    def process(self) -> int:
        """The id of the program's process."""
        return int(self._tmux("list-panes", "-F", "#{pane_pid}"))

    def kill(self) -> None:
        """Kill the program in the window, which can do nothing about it."""
        os.kill(self.process, signal.SIGKILL)
        self.wait_until_ended()

    def wait_until_ended(self) -> None:
        """Return once the program in the window has ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._tmux("list-panes", "-F", "#{pane_dead}").strip() != "1":
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.05)

    def start_again(self) -> None:
        """Start the same program in the window once more."""
        self._tmux("respawn-pane", "-k", *self._again)

    def storm(self, *, times: int = 1) -> None:
        """Give the window all sorts of sizes, and at the end the one it had."""
        for width, height in ((40, 12), (120, 40), (20, 5), (1, 1), (200, 60)) * times:
            self.resize(width, height)
        self.resize(*self._size)

    def _tmux(self, *words: str, check: bool = True) -> str:
        command = ["tmux", "-S", str(self._socket), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=check, timeout=30)
        return done.stdout

    @property
    def screen(self) -> str:
        """What is shown now."""
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Press keys by their tmux names."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def wait_for(self, text: str) -> str:
        """Return the screen once `text` is on it, or fail with what is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text not in (shown := self.screen):
            assert time.monotonic() < deadline, f"{text!r} is not on the screen:\n{shown}"
            time.sleep(0.1)
        return shown

    def wait_until_gone(self, text: str) -> None:
        """Return once `text` is not on the screen any more."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text in (shown := self.screen):
            assert time.monotonic() < deadline, f"{text!r} is still on the screen:\n{shown}"
            time.sleep(0.1)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))
