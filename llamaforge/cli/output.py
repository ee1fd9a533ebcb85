"""What reaches the terminal: standard output holds data, standard error what is said about it."""

import io
import json
import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line, safe_text

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_COLUMNS: Final = 80
"""Width of a table where there is no terminal to measure."""
_LEAST_COLUMNS: Final = 20
_NOT_PRINTABLE_ASCII: Final = re.compile(r"[^\x20-\x7e\n]")


def print_json(value: Any) -> None:
    """Print `value` as one JSON document, in ASCII."""
    _print_out(_as_ascii(json.dumps(value, indent=2, allow_nan=False)) + "\n")


def print_json_line(text: str) -> None:
    """Print a JSON document that stands on one line, in ASCII, and flush it.

    In JSON such characters occur only inside strings, where an escape means the same.
    """
    _print_out(_as_ascii(text.replace("\n", " ")) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print plain text as it is, made safe, without folding it."""
    _print_out(safe_text(text) + "\n")


def print_folded(text: str, *, indent: int = 0) -> None:
    """Print one line of plain text; a terminal gets it folded at words, below its beginning.

    Args:
        text: the line, made safe here.
        indent: cells before it; those below it stand two further in.
    """
    _print_out(_folded(text, indent, console().width if sys.stdout.isatty() else None) + "\n")


def narrate_folded(text: str, *, indent: int = 0) -> None:
    """Say one line on standard error, folded as `print_folded` does."""
    width = error_console().width if sys.stderr.isatty() else None
    sys.stderr.write(_folded(text, indent, width) + "\n")
    sys.stderr.flush()


def _folded(text: str, indent: int, width: int | None) -> str:
    if width is None:
        return " " * indent + safe_text(text)
    lines = textwrap.wrap(
        safe_text(text),
        max(width, _LEAST_COLUMNS),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def console() -> "Console":
    """Return a console on standard output that follows COLUMNS and the terminal's width.

    Markup and highlighting are off. Without a terminal it is 80 columns wide.
    """
    return _console(sys.stdout)


def error_console() -> "Console":
    """Return a console on standard error; otherwise as `console`."""
    return _console(sys.stderr)


def narrate(text: str) -> None:
    """Say something about what is being done, on standard error."""
    sys.stderr.write(safe_text(text) + "\n")
    sys.stderr.flush()


def narrate_error(error: LlamaForgeError, *, kind: str = "error") -> None:
    """Say what is wrong and what to do, on standard error; a `note` keeps nothing from going on."""
    from rich.text import Text

    words = safe_line(f"{error.message} {error.hint}".strip())
    style = "bold red" if kind == "error" else "bold yellow"
    line = Text.assemble((f"{kind}:", style), " ", words)
    # Unwrapped: a command in the hint must be fit to be pasted.
    error_console().print(line, soft_wrap=True)


def has_dialogue() -> bool:
    """Return whether a person can be asked: they see the question and can type an answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, default: bool = True) -> bool:
    """Ask on the terminal, and return whether the answer is yes; the input's end means no."""
    narrate(f"{question} {'[Y/n]' if default else '[y/N]'}")
    line = sys.stdin.readline()
    answer = line.strip().lower()
    return answer in {"y", "yes"} or (default and bool(line) and not answer)


def print_error_json(error: LlamaForgeError) -> None:
    """Print the error for scripts, on one line so that it may also end a stream of events."""
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    print_json_line(json.dumps({"error": body}))


def set_up_streams() -> None:
    """Let a terminal that cannot show a character get an escape instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be written nowhere: the reader of standard output is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _as_ascii(text: str) -> str:
    def escape(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

    return _NOT_PRINTABLE_ASCII.sub(escape, text)


def _print_out(text: str) -> None:
    sys.stdout.write(text)


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    class PipedConsole(Console):
        """A console that leaves a reader who went away to `main`."""

        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    measured = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return PipedConsole(
        file=stream,
        width=None if measured else _PLAIN_COLUMNS,
        markup=False,
        highlight=False,
        emoji=False,
    )
