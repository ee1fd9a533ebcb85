"""`llamaforge`: finds the verb, runs it, and turns every outcome into words and an exit code."""

import argparse
import difflib
import importlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from llamaforge import __version__, paths
from llamaforge.cli import output
from llamaforge.errors import ExitCode, LlamaForgeError, UsageError
from llamaforge.safe_text import redact, safe_line

VERBS: Final = {
    "demo": "llamaforge.cli.demo",
    "models": "llamaforge.cli.models",
    "show": "llamaforge.cli.show",
    "base": "llamaforge.cli.base",
    "data": "llamaforge.cli.data",
    "wizard": "llamaforge.cli.wizard",
    "plan": "llamaforge.cli.plan",
    "train": "llamaforge.cli.train",
    "runs": "llamaforge.cli.runs",
    "verify": "llamaforge.cli.verify",
    "export": "llamaforge.cli.export",
    "publish": "llamaforge.cli.publish",
    "doctor": "llamaforge.cli.doctor",
    "chat": "llamaforge.cli.chat",
}
"""Each verb's module, which has `add_parser` and is imported only when it is needed."""

_SCREENS: Final = "llamaforge.tui.app"
_HELP: Final = frozenset({"-h", "--help"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, without the program's name, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    output.set_up_streams()
    try:
        code = _guarded(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has all that it wanted
        output.drop_output()
        return ExitCode.DONE
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return ExitCode.INTERRUPTED
    return int(code)


def _guarded(words: list[str]) -> ExitCode:
    try:
        return _dispatch(words)
    except LlamaForgeError as error:
        return _tell(words, error)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _tell(words, _logged(words, error))


def _dispatch(words: list[str]) -> ExitCode:
    verb = words[0] if words else ""
    if not words and sys.stdin.isatty() and sys.stdout.isatty():
        return open_screens()
    if not words or verb in _HELP:
        _parser(list(VERBS)).print_help()
        return ExitCode.DONE if words else ExitCode.USAGE
    if verb == "--version":
        output.print_text(f"llamaforge {__version__}")
        return ExitCode.DONE
    if verb not in VERBS:
        raise _unknown(verb)
    parser = _parser([verb])
    try:
        arguments = parser.parse_args(words)
    except SystemExit:  # the help of a verb was asked for, and printed
        return ExitCode.DONE
    code: ExitCode = arguments.run(arguments)
    return code


def open_screens(*, run: str | None = None) -> ExitCode:
    """Open the screens, on the run that is named or at their beginning."""
    code: ExitCode = importlib.import_module(_SCREENS).main(None, run)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong as every other part of the program does."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:].rstrip(".")
        raise UsageError(f"{sentence}.", f"See: {self.prog} --help", code="usage")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), list(action.choices), n=1)
            name = "/".join(action.option_strings) or str(action.metavar)
            known = ", ".join(action.choices)
            raise UsageError(
                f"{name} cannot be {safe_line(str(value), limit=60)}; it is one of: {known}.",
                f"Did you mean {near[0]}?" if near else f"See: {self.prog} --help",
            )

    def print_help(self, file: object = None) -> None:
        del file
        output.print_text(self.format_help().rstrip("\n"))

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is not known: here the verb that it was meant for is known."""
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise self._unknown(unknown[0].partition("=")[0])
        return arguments, unknown

    def _unknown(self, name: str) -> UsageError:
        shown = safe_line(name, limit=60)
        see = f"See: {self.prog} --help"
        if not name.startswith("-"):
            return UsageError(f"{shown} is one argument too many.", see)
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return UsageError(
            f"{self.prog} has no option {shown}.",
            f"Did you mean {near[0]}?" if near else see,
            code="unknown_option",
        )


def _parser(verbs: list[str]) -> _Parser:
    """Return the program's parser with the verbs that are named."""
    parser = _Parser(
        prog="llamaforge",
        description="Fine-tune the models you already have in Ollama, on your own machine. "
        "Without a verb, the screens open.",
    )
    parser.add_argument(
        "--version", action="store_true", help="print the program's version and exit"
    )
    inner = parser.add_subparsers(title="verbs", metavar="VERB")
    for verb in verbs:
        importlib.import_module(VERBS[verb]).add_parser(inner)
    return parser


def _unknown(verb: str) -> UsageError:
    kind = "option" if verb.startswith("-") else "verb"
    near = difflib.get_close_matches(verb, [*VERBS, "--help", "--version"], n=1)
    hint = f"Did you mean llamaforge {near[0]}?" if near else "See: llamaforge --help"
    return UsageError(
        f"There is no {kind} {safe_line(verb, limit=60)}.", hint, code=f"unknown_{kind}"
    )


def _tell(words: list[str], error: LlamaForgeError) -> ExitCode:
    if "--json" in words:
        output.print_error_json(error)
    output.narrate_error(error)
    return error.exit_code


def _logged(words: list[str], error: Exception) -> LlamaForgeError:
    """Return an unexpected error as a sentence; its traceback goes to the log."""
    log = paths.home() / "llamaforge.log"
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    trace = "".join(traceback.format_exception(error))
    text = f"{when} llamaforge {__version__}: {shlex.join(words)}\n{trace}\n"
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact(text))
        hint = f"The details are in {log}"
    except OSError as problem:
        hint = f"The details could not be written to {log}: {problem.strerror}."
    return LlamaForgeError(
        f"The program met an unexpected {type(error).__name__}.", hint, code="internal"
    )
