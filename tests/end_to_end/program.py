"""The real program, started as a person starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamaforge.runs.directory import RunDirectory

WAIT_SECONDS = 120.0


class Program:
    """`llamaforge` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "LLAMAFORGE_HOME": str(home),
            "OLLAMA_HOST": "http://127.0.0.1:9",  # nothing answers there
            "COLUMNS": "80",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "llamaforge", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run to the end; return what it printed on standard output."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == code, f"{output}\n{errors}\n{self.logs()}"
        return output

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def events(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        output = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in output.splitlines()]

    def directory(self, name: str) -> RunDirectory:
        return RunDirectory(self.home / "runs" / name)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.home.glob("runs/*/worker.log"))

    def wait_for_step(self, name: str, step: int) -> None:
        """Return once the run has done `step` optimizer steps."""
        wanted = '"type": "step", "wall": '
        path = self.directory(name).events_file

        def is_there() -> bool:
            if not path.exists():
                return False
            return sum(wanted in line for line in path.read_text().splitlines()) >= step

        self.wait(is_there)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def wait_beyond(self, name: str, step: int) -> None:
        """Return once the run says of itself that it is beyond `step`."""
        self.wait(lambda: self.directory(name).read_status().step > step)

    def wait_until_over(self, name: str) -> None:
        """Return once no worker is on the run."""
        self.wait(lambda: self.directory(name).process() is None)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.directory(name).process()
        assert process is not None
        process.send_signal(number)
        process.wait(WAIT_SECONDS)
