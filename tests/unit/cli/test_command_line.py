"""`main`: verbs and near verbs, errors in two sentences, exit codes, JSON for scripts."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamaforge import __version__, paths
from llamaforge.cli import models
from llamaforge.cli.main import VERBS, main
from llamaforge.errors import ExitCode

Capture = pytest.CaptureFixture[str]
COMMAND = [sys.executable, "-m", "llamaforge"]


def raising(error: BaseException) -> Callable[[object], None]:
    def fail(arguments: object) -> None:
        raise error

    return fail


def test_the_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llamaforge {__version__}\n"


def test_help_names_every_verb(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {verb} " in shown for verb in VERBS)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_in_80_columns(verb: str, capsys: Capture) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: llamaforge {verb}")
    assert max(map(len, shown.splitlines())) <= 80


def test_without_a_verb_and_a_terminal_the_help_is_printed_and_it_is_a_usage_error(
    capsys: Capture,
) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: llamaforge")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_verb_the_screens_open_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, object]] = []

    def screens(store: object, run: object) -> ExitCode:
        opened.append((store, run))
        return ExitCode.INTERRUPTED

    monkeypatch.setattr("llamaforge.tui.app.main", screens)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    assert main([]) == 130
    assert opened == [(None, None)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "There is no verb trian. Did you mean llamaforge train?"),
        (["--verison"], "There is no option --verison. Did you mean llamaforge --version?"),
        (["xyzzy"], "There is no verb xyzzy. See: llamaforge --help"),
        (["models", "--stroe", "x"], "llamaforge models has no option --stroe. Did you mean"),
        (["show"], "The following arguments are required: MODEL. See: llamaforge show --help"),
        (["models", "more"], "more is one argument too many. See: llamaforge models --help"),
        (
            ["train", "--method", "sfd"],
            "--method cannot be sfd; it is one of: sft, dpo, orpo, kto.",
        ),
        (["runs", "sohw"], "ACTION cannot be sohw"),
        (["models", "--sto", "x"], "llamaforge models has no option --sto."),
        (["models", "--store", ""], "Argument --store: the name of a folder is needed."),
    ],
)
def test_a_slip_is_named_with_what_was_meant(
    words: list[str], sentence: str, capsys: Capture
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {sentence}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_what_a_person_typed_cannot_command_the_terminal(capsys: Capture) -> None:
    assert main(["\x1b[31m\u202ered"]) == 2
    assert main(["show", "--\x1b]0;title\x07"]) == 2
    assert main(["runs", "\x9b2J"]) == 2
    shown = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
    assert "\\x1b[31m\\u202ered" in shown


def test_an_error_has_its_exit_code_and_is_json_for_scripts(capsys: Capture) -> None:
    assert main(["show", "absent", "--json"]) == 4
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == "no_model"
    assert printed.err == f"error: {error['message']} {error['hint']}\n"


def test_a_usage_error_is_json_too(capsys: Capture) -> None:
    assert main(["runs", "show", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_an_unexpected_error_is_one_sentence_and_its_trace_is_in_the_log(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(models, "run", raising(ZeroDivisionError("hf_abcdefgh12345678")))
    assert main(["models"]) == 1
    printed = capsys.readouterr()
    log = home / "llamaforge.log"
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: The program met an unexpected ZeroDivisionError. ")
    assert str(log) in printed.err
    text = log.read_text()
    assert "Traceback" in text
    assert "test_command_line.py" in text
    assert "hf_abcdefgh" not in text
    assert log.stat().st_mode & 0o777 == 0o600


def test_an_unexpected_error_is_told_where_no_log_can_be_written(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(models, "run", raising(ZeroDivisionError()))
    assert main(["models"]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_ctrl_c_is_exit_code_130_without_a_trace(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "run", raising(KeyboardInterrupt()))
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "\n"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_the_program_quietly(more: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "models", "--store", str(paths.embedded_store()), *more],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_unicode_gets_escapes() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*COMMAND, "show", "llamaforge-demo", "--store", "/täst"],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 4
    assert b"/t\\xe4st" in done.stderr
