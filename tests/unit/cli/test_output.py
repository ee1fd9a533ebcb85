"""Output: JSON in plain ASCII, tables as wide as there is room, questions with a safe answer."""

import io
import json

import pytest

from llamaforge.cli import output

Capture = pytest.CaptureFixture[str]
HOSTILE = "\x1b[2J\x9b\x7f\u202e𝄞\ud800é\n"


def test_json_is_ascii_without_controls_and_means_the_same(capsys: Capture) -> None:
    output.print_json({"name": HOSTILE, HOSTILE: [1, None]})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert json.loads(shown) == {"name": HOSTILE, HOSTILE: [1, None]}


def test_a_line_of_json_is_ascii_without_controls_and_means_the_same(capsys: Capture) -> None:
    output.print_json_line(json.dumps({"name": HOSTILE}, ensure_ascii=False))
    shown = capsys.readouterr().out
    assert shown.endswith("\n")
    assert shown.count("\n") == 1
    assert shown[:-1].isascii()
    assert shown[:-1].isprintable()
    assert json.loads(shown) == {"name": HOSTILE}


def test_a_number_that_json_does_not_have_is_not_printed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.print_json(float("nan"))


def test_a_terminal_gets_lines_folded_at_words_and_a_pipe_gets_them_whole(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.print_folded("one two three four five", indent=2)
    assert capsys.readouterr().out == "  one two three four five\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    output.print_folded("\x1b one two three four five", indent=2)
    assert capsys.readouterr().out == "  \\x1b one two three\n    four five\n"


def test_narration_goes_to_standard_error_with_escapes_made_visible(capsys: Capture) -> None:
    output.narrate("[bold]\x1b[31mred")
    assert capsys.readouterr() == ("", "[bold]\\x1b[31mred\n")


@pytest.mark.parametrize(("columns", "width"), [("120", 120), ("40", 40), ("", 80), ("x", 80)])
def test_the_console_follows_columns_and_is_80_wide_without_a_terminal(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert output.console().width == width


def test_the_console_takes_markup_as_text(capsys: Capture) -> None:
    output.console().print("[red]x[/red] :smile: [/nothing]")
    assert capsys.readouterr().out == "[red]x[/red] :smile: [/nothing]\n"


@pytest.mark.parametrize(
    ("typed", "default", "answer"),
    [
        ("\n", True, True),
        ("\n", False, False),
        ("y\n", False, True),
        ("YES\n", False, True),
        ("n\n", True, False),
        ("", True, False),
        ("what\n", True, False),
    ],
)
def test_only_a_yes_or_the_offered_answer_goes_on(
    typed: str, default: bool, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert output.confirm("Go on?", default=default) is answer
