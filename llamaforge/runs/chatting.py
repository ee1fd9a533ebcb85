"""Talking to base and tuned model of a run, which live in a process of their own.

Questions go to its standard input, one JSON object a line; what it says comes on its standard
output: `ready`, then for each question `part`s of the answers, an `answer` of each arm, and `turn`;
or an `error`. `worker.chat` is the other side. It ends when its input is closed, so it never
outlives whoever asks.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Final

from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import safe_line

ARMS: Final = ("base", "tuned")
_MODULE: Final = "llamaforge.worker.chat"
_KEPT_NOISE_BYTES: Final = 4_000

Turns = Sequence[Mapping[str, str]]
"""A conversation: `role` and `content` of each turn."""


class ChatProcess:
    """A process that answers as both models; a context manager that ends it."""

    def __init__(self, run: RunDirectory, published: str = "") -> None:
        """Talk about `run`; with `published`, to that model in Ollama and the one it is over."""
        self._command = [sys.executable, "-m", _MODULE, str(run.path)]
        if published:
            self._command += ["--ollama", published]
        self._process: subprocess.Popen[bytes] | None = None
        self._noise: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`

    def __enter__(self) -> "ChatProcess":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process; it takes a while until it says `ready`."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            start_new_session=True,
            env=worker_environment(),
            close_fds=True,
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the process says until it ends; waits for it, so call it in a thread.

        Raises:
            LlamaForgeError: it died.
        """
        process = self._process
        if process is None or process.stdout is None:
            return
        last = ""
        for line in process.stdout:
            try:
                body = json.loads(line)
            except ValueError:
                continue  # half a line: it died while it wrote
            last = str(body.get("type"))
            yield body
        status = process.wait()
        if status != 0 and last != "error":
            raise self._died(status)

    def ask(self, conversations: Mapping[str, Turns]) -> None:
        """Put the newest question of each arm's conversation.

        Raises:
            LlamaForgeError: the process is gone.
        """
        self._say({"type": "ask", "messages": {k: list(v) for k, v in conversations.items()}})

    def stop(self) -> None:
        """Let it end the answers that it is giving."""
        with suppress(LlamaForgeError):
            self._say({"type": "stop"})

    def close(self) -> None:
        """End the process at once."""
        process = self._process
        if process is None:
            return
        self._process = None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        process.wait()

    def _say(self, body: dict[str, Any]) -> None:
        process = self._process
        try:
            if process is None or process.stdin is None:
                raise BrokenPipeError
            process.stdin.write(json.dumps(body).encode("utf-8") + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise LlamaForgeError(
                "The process with the models is gone.", "Open the conversation again.", code="chat"
            ) from error

    def _died(self, status: int) -> LlamaForgeError:
        try:
            self._noise.seek(0, os.SEEK_END)
            self._noise.seek(max(0, self._noise.tell() - _KEPT_NOISE_BYTES))
            said = self._noise.read().decode("utf-8", "replace").strip().splitlines()
        except (OSError, ValueError):
            said = []
        why = f": {safe_line(said[-1], limit=160)}" if said else ""
        ended = (
            "was killed; the machine's memory may be used up"
            if status == -signal.SIGKILL
            else f"ended with status {status}{why}"
        )
        return LlamaForgeError(
            f"The process with the models {ended}.",
            "Close other programs, or publish the result and talk to it in Ollama.",
            code="chat_died",
        )
