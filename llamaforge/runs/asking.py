"""Asking a process of its own: one request to it, lines of JSON back, and an end in any case.

What runs there may be a program from outside, such as a chat template. It limits itself; this side
ends it when its time is over or when it writes more than it may.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, Final

from llamaforge.data.privacy import masked_line
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.runs.launcher import worker_environment

_READ_BYTES: Final = 64 * 1024
_KEPT_NOISE_BYTES: Final = 4_000
_POLL_SECONDS: Final = 0.2
"""How often it is asked whether anybody waits still."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of which process, and how long and how much it may answer."""

    module: str
    """`python -m` of this answers it."""
    body: str
    """JSON for its standard input."""
    seconds: float
    """For the whole answer or, with `each_line`, from one line to the next."""
    each_line: bool = False
    most_bytes: int = 256 * 1024 * 1024
    code: str = "process"
    """How the codes of the refusals begin: `…_timeout`, `…_size`, `…_died`."""
    doing: str = "rendering the rows"
    """What it does, for messages."""
    hint: str = "Ask for fewer rows, or give another template: --set chat_template=chatml"
    """What a person can do where it does not come to its end."""
    not_passed: frozenset[str] = frozenset()
    """Variables of the environment that it has no need of."""


def _never() -> bool:
    return False


_STOPPED: Final[ContextVar[Callable[[], bool]]] = ContextVar("stopped", default=_never)


@contextmanager
def stoppable(stopped: Callable[[], bool]) -> Iterator[None]:
    """Let whatever is asked within end soon after `stopped` returns True."""
    token = _STOPPED.set(stopped)
    try:
        yield
    finally:
        _STOPPED.reset(token)


def is_stopped() -> bool:
    """Return whether nobody waits for the answer any more."""
    return _STOPPED.get()()


def stopped_error() -> LlamaForgeError:
    """Return what is raised where nobody waits any more."""
    return LlamaForgeError("It was stopped.", "Ask again.", code="stopped")


def answers(question: Question) -> Iterator[dict[str, Any]]:
    """Yield each line of the process; it has ended, one way or another, when this returns.

    Raises:
        LlamaForgeError: as that process says; or it took too long, wrote too much or died; or
            nobody waits for it any more (`stopped`, see `stoppable`).
    """
    with tempfile.TemporaryFile() as noise, tempfile.TemporaryFile() as asked:
        asked.write(question.body.encode("utf-8"))
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", question.module],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=noise,
            start_new_session=True,
            env={k: v for k, v in worker_environment().items() if k not in question.not_passed},
            close_fds=True,
        )
        assert process.stdout is not None  # noqa: S101 - it was asked for
        last: dict[str, Any] = {}
        try:
            for line in _lines(process.stdout, question):
                last = json.loads(line)
                if last.get("type") == "error":
                    raise _told(last)
                yield dict(last)
        except ValueError:
            last = {}  # half a line: it died while it wrote
        finally:
            with suppress(ProcessLookupError, PermissionError):  # and what it has started itself
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()
        if last.get("type") not in _LAST:
            raise _died(process.returncode, noise, question)


_LAST: Final = frozenset({"end", "report"})
"""What the last line of a process is that came to its end."""


def _lines(stream: IO[bytes], question: Question) -> Iterator[bytes]:
    """Yield the lines of `stream` as they come."""
    rest, size = b"", 0
    deadline = time.monotonic() + question.seconds
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if is_stopped():
                raise stopped_error()
            left = deadline - time.monotonic()
            if left > 0 and not selector.select(min(left, _POLL_SECONDS)):
                continue
            if left <= 0:
                raise RefusedError(
                    f"{question.doing.capitalize()} took more than {question.seconds:g} seconds.",
                    question.hint,
                    code=f"{question.code}_timeout",
                )
            chunk = os.read(stream.fileno(), _READ_BYTES)
            if not chunk:
                break
            if question.each_line:
                deadline = time.monotonic() + question.seconds
            size += len(chunk)
            if size > question.most_bytes:
                raise RefusedError(
                    f"The rows take more than {question.most_bytes:,} bytes when rendered.",
                    "Ask for fewer rows at a time.",
                    code=f"{question.code}_size",
                )
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    if rest:
        yield rest


def _told(body: dict[str, Any]) -> LlamaForgeError:
    error = LlamaForgeError(str(body["message"]), str(body["hint"]), code=str(body["code"]))
    error.exit_code = ExitCode(body["exit_code"])
    return error


def _died(status: int, noise: IO[bytes], question: Question) -> RefusedError:
    noise.seek(0, os.SEEK_END)
    noise.seek(max(0, noise.tell() - _KEPT_NOISE_BYTES))
    said = noise.read().decode("utf-8", "replace").strip().splitlines()
    # The last words may be of a row.
    why = f": {masked_line(said[-1], limit=160)}" if said else ""
    ended = f"ended with status {status}{why}"
    if status == -signal.SIGVTALRM:
        ended = "was ended: the chat template takes too long for a row"
    elif status == -signal.SIGKILL:
        ended = "was killed; the machine's memory may be used up"
    return RefusedError(
        f"The process that was {question.doing} {ended}.",
        question.hint,
        code=f"{question.code}_died",
    )
