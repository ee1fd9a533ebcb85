"""A verb of the program in a process of its own, for what takes long or asks a server.

Its words go to files, so that it comes to its end even where this program is killed meanwhile.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final

from llamaforge.errors import ExitCode
from llamaforge.safe_text import redact, safe_line

_POLL_SECONDS: Final = 0.1
_MOST_LINES: Final = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb came to."""

    code: int
    body: dict[str, Any] = field(default_factory=dict)
    """What it printed as JSON; empty where it printed none."""

    @property
    def is_done(self) -> bool:
        """Whether it did what was asked."""
        return self.code == ExitCode.DONE

    @property
    def error(self) -> tuple[str, str, str]:
        """Code, message and hint of what went wrong; texts are safe to print."""
        told = self.body.get("error", self.body)
        told = told if isinstance(told, dict) else {}
        message = str(told.get("message") or f"It ended with the exit code {self.code}.")
        hint = str(told.get("hint") or "")
        code = str(told.get("code") or "")
        return code, safe_line(redact(message), limit=600), safe_line(redact(hint), limit=400)


class Verb:
    """One call of `llamaforge` with `--json`."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [sys.executable, "-m", "llamaforge", *words[:1], "--json", *words[1:]]
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, on_line: Callable[[str], None]) -> Outcome:
        """Carry it out, and return what it came to; waits, so call it in a thread.

        `on_line` takes each line of what it says on the way, safe to print.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as noise:
            self._process = process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=noise,
                start_new_session=True,
                close_fds=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            reader = _Lines(noise)
            while process.poll() is None:
                reader.tell(on_line)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_POLL_SECONDS)
            reader.tell(on_line)
            output.seek(0)
            return Outcome(process.returncode, _last_json(output.read()))

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C in a terminal does; it leaves nothing half done."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                self._process.send_signal(signal.SIGINT)


class _Lines:
    """Reads what is appended to a file, line by line, beside the one who writes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        self._rest = b""

    def tell(self, on_line: Callable[[str], None]) -> None:
        """Give on the lines that are new."""
        # The position is the other process's as well: read without moving it.
        size = os.fstat(self._file.fileno()).st_size
        chunk = os.pread(self._file.fileno(), size - self._position, self._position)
        self._position += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines[-_MOST_LINES:]:
            if text := safe_line(redact(line.decode("utf-8", "replace")), limit=400):
                on_line(text)


def _last_json(output: bytes) -> dict[str, Any]:
    """Return the last JSON object that was printed, over however many lines."""
    text = output.decode("utf-8", "replace").strip()
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    while text:
        try:
            body, end = decoder.raw_decode(text)
        except ValueError:
            break
        if isinstance(body, dict):
            found = body
        text = text[end:].lstrip()
    return found
