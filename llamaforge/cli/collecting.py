"""What the actions that ask a model have in common: their options, and what they say meanwhile."""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.output import error_console, narrate, print_json_line
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import duration_words, plural

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from llamaforge.collecting.prompts import Prompt
    from llamaforge.collecting.session import Progress, Watch
    from llamaforge.collecting.teachers import TeacherChoice
    from llamaforge.data.records import Rejection

_SHOWN: Final = 20
_LINE_SECONDS: Final = 10.0
_EVENT_SECONDS: Final = 1.0


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add the options for a model on a server and for the work with it."""
    parser.add_argument("--model", required=True, metavar="NAME", help="the model that answers")
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="an OpenAI-compatible server, as http://127.0.0.1:8000/v1; without it, the Ollama "
        "server of OLLAMA_HOST",
    )
    parser.add_argument(
        "--api-key-env",
        metavar="VAR",
        help="the environment variable that holds the endpoint's key; it is never shown or stored",
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="send the prompts to another machine: private data leaves this one",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="a system text for each row")
    parser.add_argument("--column", metavar="KEY", help="the key of a row that holds the prompt")
    parser.add_argument(
        "--max-tokens",
        type=whole(1, 10_000_000),
        default=1024,
        metavar="N",
        help="tokens of an answer at most (1024); what is cut off there is left out",
    )
    parser.add_argument(
        "--context",
        type=whole(1, 100_000_000),
        metavar="N",
        help="tokens of prompt and answer together that Ollama makes room for",
    )
    parser.add_argument(
        "--concurrency", type=whole(1, 256), default=1, metavar="K", help="requests at a time (1)"
    )
    parser.add_argument(
        "--rate",
        type=finite(0, 1e6),
        default=0.0,
        metavar="N",
        help="requests a minute at most (without limit)",
    )
    parser.add_argument(
        "--timeout",
        type=finite(0.01, 1e6),
        default=600.0,
        metavar="SECONDS",
        help="how long an answer may stay away (600)",
    )
    parser.add_argument(
        "--retries",
        type=whole(0, 100),
        default=5,
        metavar="N",
        help="how often a prompt is asked again after 429, a server error or a time-out (5)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where rows go")
    parser.add_argument(
        "--force", action="store_true", help="throw away FILE and its journal, and begin anew"
    )


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a reader of whole numbers between two, both included."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(
                f"a whole number from {lowest:,} to {highest:,} is needed"
            )
        return value

    return read


def finite(lowest: float, highest: float) -> Callable[[str], float]:
    """Return a reader of numbers between two, both included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"a number from {lowest:g} to {highest:g} is needed")
        return value

    return read


def teacher_choice(arguments: argparse.Namespace) -> "TeacherChoice":
    """Return which model `arguments` name."""
    from llamaforge.collecting.teachers import TeacherChoice

    return TeacherChoice(
        model=arguments.model,
        endpoint=arguments.endpoint,
        api_key_env=arguments.api_key_env,
        allow_remote=arguments.allow_remote,
        answer_seconds=arguments.timeout,
    )


class Narrator:
    """Says how the work goes: a bar on a terminal, else a line now and then; or JSON lines.

    A context manager that takes its bar away.
    """

    def __init__(self, one: str, many: str, out: Path, *, as_json: bool) -> None:
        """Take the words for one piece of the work and for many, and where rows are kept."""
        self._one, self._many = one, many
        self._out = out
        self._as_json = as_json
        self._told = 0.0
        self._problems = 0
        self._bar: Bar | None = None
        self._latest: Progress | None = None

    def __enter__(self) -> "Narrator":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def watch(self) -> "Watch":
        """Return who is told what."""
        from llamaforge.collecting.session import Watch

        return Watch(self._started, self._progress, self._failed, self._rejected)

    def finished(self, result: Any, state: str = "finished") -> None:
        """Tell scripts what came of it."""
        if self._as_json:
            self._event("finished", state=state, out=str(self._out), **result)

    def interrupted(self) -> ExitCode:
        """Say what is kept, and return the exit code."""
        self.__exit__()
        latest = self._latest
        done, total = (latest.done, latest.total) if latest else (0, 0)
        self.finished({"done": done, "total": total}, state="interrupted")
        narrate(f"Interrupted: {done:,} of {total:,} are kept. The same command goes on from here.")
        return ExitCode.INTERRUPTED

    def _started(self, progress: "Progress") -> None:
        self._latest = progress
        if self._as_json:
            self._event("started", **_figures(progress))
            return
        kept = f", {progress.done:,} of them done before" if progress.done else ""
        narrate(f"{plural(progress.total, self._one, self._many)}{kept}.")
        out = error_console()
        if out.is_terminal and not out.is_dumb_terminal:
            self._open_bar(progress)

    def _open_bar(self, progress: "Progress") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=error_console(), transient=True, redirect_stdout=False)
        self._bar.add_task("", total=progress.total, completed=progress.done)
        self._bar.start()

    def _progress(self, progress: "Progress") -> None:
        self._latest = progress
        if self._bar is not None:
            task = self._bar.task_ids[0]
            words = _words(progress)
            self._bar.update(task, completed=progress.done, description=words)
            return
        now = time.monotonic()
        pause = _EVENT_SECONDS if self._as_json else _LINE_SECONDS
        is_last = progress.done + progress.failed >= progress.total
        if now - self._told < pause and not is_last:
            return
        self._told = now
        if self._as_json:
            self._event("progress", **_figures(progress))
        else:
            narrate(f"{progress.done:,} of {progress.total:,}; {_words(progress)}")

    def _failed(self, prompt: "Prompt", reason: str) -> None:
        self._problem("failed", prompt.source, prompt.row, reason)

    def _rejected(self, row: "Rejection") -> None:
        self._problem("rejected", row.source, row.row, row.reason)

    def _problem(self, kind: str, source: str, row: int, reason: str) -> None:
        if self._as_json:
            self._event(kind, source=source, line=row, reason=reason)
            return
        self._problems += 1
        words = "no answer" if kind == "failed" else "no prompt"
        if self._problems <= _SHOWN:
            self._say(f"{words}: {safe_line(source)} row {row:,}: {safe_line(reason)}")
        elif self._problems == _SHOWN + 1:
            self._say("… and more that are only counted.")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            narrate(line)

    @staticmethod
    def _event(type_: str, **fields: Any) -> None:
        print_json_line(json.dumps({"type": type_, **fields}))


def _figures(progress: "Progress") -> dict[str, Any]:
    return asdict(progress)


def _words(progress: "Progress") -> str:
    failed = f"{progress.failed:,} without an answer; " if progress.failed else ""
    speed = ""
    if progress.tokens and progress.seconds >= 1:
        speed = f"{progress.tokens / progress.seconds:.0f} tokens/s; "
    return f"{failed}{speed}{duration_words(progress.seconds_left)} left"


def note_remote(arguments: argparse.Namespace) -> None:
    """Say that prompts leave the machine, where they may."""
    if arguments.allow_remote:
        narrate("Prompts may leave this machine: --allow-remote was said.")
