"""Asking for previews: starts the process that renders rows, and reads what it answers.

The chat template that runs there is a program from outside. That process limits itself; this side
ends it when its time is over or when it writes more than it may.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from llamaforge.data.preview import Preview, from_body
from llamaforge.data.preview_request import PreviewRequest
from llamaforge.data.served_template import TemplateComparison
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import safe_line

TIMEOUT_SECONDS: Final = 60.0
MOST_ANSWER_BYTES: Final = 256 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_KEPT_NOISE_BYTES: Final = 4_000
_NOT_PASSED: Final = frozenset(
    {"HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
)
"""What a program that renders templates has no need of and may hold secrets."""


@dataclass(frozen=True, slots=True)
class PreviewAnswer:
    """What came back. All text is as the rows and the template have it, not yet safe to print."""

    model: str
    template: str
    """`file`, `given`, or the name of a known template."""
    max_length: int
    """Tokens a row may have."""
    previews: tuple[Preview, ...]
    comparisons: tuple[TemplateComparison, ...] = ()
    """Of a conversation with a system message and of one without, where that was asked for."""


def ask(request: PreviewRequest, *, timeout_seconds: float = TIMEOUT_SECONDS) -> PreviewAnswer:
    """Return the previews that `request` asks for, rendered in another process.

    Raises:
        LlamaForgeError: as that process says (no such model, row or file; a template that is no
            Jinja); or it took too long (`preview_timeout`), wrote too much (`preview_size`) or
            died (`preview_died`).
    """
    model: dict[str, Any] = {}
    previews: list[Preview] = []
    comparisons: list[TemplateComparison] = []
    for body in _answers(request, timeout_seconds):
        kind = body.pop("type", None)
        if kind == "row":
            previews.append(from_body(body))
        elif kind == "model":
            model = body
        elif kind == "templates":
            body["left_out"] = tuple(body["left_out"])
            comparisons.append(TemplateComparison(**body))
        elif kind == "error":
            raise _told(body)
    return PreviewAnswer(
        model["name"], model["template"], model["max_length"], tuple(previews), tuple(comparisons)
    )


def _answers(request: PreviewRequest, timeout_seconds: float) -> Iterator[dict[str, Any]]:
    """Yield each line of the process; it has ended, one way or another, when this returns."""
    with tempfile.TemporaryFile() as noise, tempfile.TemporaryFile() as asked:
        asked.write(request.model_dump_json().encode("utf-8"))
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "llamaforge.worker.preview"],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=noise,
            start_new_session=True,
            env={k: v for k, v in worker_environment().items() if k not in _NOT_PASSED},
            close_fds=True,
        )
        assert process.stdout is not None  # noqa: S101 - it was asked for
        last: dict[str, Any] = {}
        try:
            for line in _lines(process.stdout, time.monotonic() + timeout_seconds, timeout_seconds):
                last = json.loads(line)
                yield dict(last)
        except ValueError:
            last = {}  # half a line: it died while it wrote
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        if last.get("type") not in {"end", "error"}:
            raise _died(process.returncode, noise)


def _lines(stream: IO[bytes], deadline: float, seconds: float) -> Iterator[bytes]:
    """Yield the lines of `stream` as they come.

    Raises:
        RefusedError: the time is over, or there is too much of it.
    """
    rest = b""
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise RefusedError(
                    f"Rendering the rows took more than {seconds:g} seconds.",
                    "Ask for fewer rows, or give another template: --set chat_template=chatml",
                    code="preview_timeout",
                )
            chunk = os.read(stream.fileno(), _READ_BYTES)
            if not chunk:
                break
            size += len(chunk)
            if size > MOST_ANSWER_BYTES:
                raise RefusedError(
                    f"The rows take more than {MOST_ANSWER_BYTES:,} bytes when rendered.",
                    "Ask for fewer rows at a time.",
                    code="preview_size",
                )
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    if rest:
        yield rest


def _told(body: dict[str, Any]) -> LlamaForgeError:
    error = LlamaForgeError(str(body["message"]), str(body["hint"]), code=str(body["code"]))
    error.exit_code = ExitCode(body["exit_code"])
    return error


def _died(status: int, noise: IO[bytes]) -> RefusedError:
    noise.seek(0, os.SEEK_END)
    noise.seek(max(0, noise.tell() - _KEPT_NOISE_BYTES))
    said = noise.read().decode("utf-8", "replace").strip().splitlines()
    why = f": {safe_line(said[-1], limit=160)}" if said else ""
    return RefusedError(
        f"The process that renders rows ended with status {status}{why}.",
        "Give another template: --set chat_template=chatml",
        code="preview_died",
    )
