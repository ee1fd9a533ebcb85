"""How rows look to the model, on a terminal or as JSON: every token's text, and what is trained.

A line of text begins with `|`; the line under it, which does not, marks what is trained, so that it
can be read without colour and no content can pretend to be marked.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from llamaforge.cli.output import console, print_json
from llamaforge.data.preview import Preview
from llamaforge.data.served_template import TemplateComparison
from llamaforge.runs.previews import PreviewAnswer
from llamaforge.safe_text import safe_line, safe_text
from llamaforge.words import plural

if TYPE_CHECKING:
    from rich.text import Text

LEGEND: Final = "^ trained   = control token, trained   - control token, not trained"

_TRAINED, _CONTROL = 1, 2
_SIGNS: Final = {0: " ", _TRAINED: "^", _CONTROL: "-", _TRAINED | _CONTROL: "="}
_STYLES: Final = {
    0: "",
    _TRAINED: "green",
    _CONTROL: "bold cyan",
    _TRAINED | _CONTROL: "bold green",
}
_TEXT_GUTTER, _SIGN_GUTTER = "| ", "  "
_NARROWEST: Final = 20
_WHITESPACE: Final = {" ": "·", "\t": "→", "\n": "⏎"}
_LEFT_OUT_SHOWN: Final = 5
_LEFT_OUT_CHARACTERS: Final = 60
_AROUND_CHARACTERS: Final = 30


def preview_text(shown: Preview, colour: bool, width: int, *, whitespace: bool = False) -> str:
    """Return a preview as lines of at most `width` cells, safe to print.

    Args:
        shown: the row.
        colour: whether to colour too; the signs under the lines say the same without.
        width: of the terminal, in cells.
        whitespace: whether spaces, tabs and line ends are made visible.
    """
    return _rendered([_head(shown), *_problems(shown), *_lines(shown, width, whitespace)], colour)


def comparison_text(comparison: TemplateComparison) -> str:
    """Return in words whether Ollama's template writes what is trained on, safe to print."""
    if comparison.state == "same":
        text = "Ollama's template writes the same prompt as the template for training."
    elif comparison.first_difference is None:
        text = f"Not compared with Ollama's template: {safe_line(comparison.reason)}."
    else:
        place = comparison.first_difference
        text = (
            "Ollama's template writes another prompt than the template for training; the first"
            f" difference is at character {place:,}:\n"
            f"  training  {_window(comparison.trained, place)}\n"
            f"  Ollama    {_window(comparison.served, place)}"
        )
    if comparison.left_out:
        text += "\nThe template for training takes no system message, so none was compared."
    return text


def preview_body(shown: Preview) -> dict[str, Any]:
    """Return a preview as JSON values: `tokens` (`id`, `text`, `trained` …), `truncated` …"""
    return {
        "source": shown.source,
        "row": shown.row,
        "tokens": [
            {
                "id": token.id,
                "text": token.text,
                "trained": token.trained,
                "special": token.special,
                "start": token.start,
                "stop": token.stop,
                "whole": token.whole,
            }
            for token in shown.tokens
        ],
        "text": shown.text,
        "token_count": shown.token_count,
        "trained_count": shown.trained_count,
        "truncated": shown.truncated,
        "shortened": shown.shortened,
        "trainable": shown.trainable,
        "problems": [
            {"level": item.level, "code": item.code, "message": item.message}
            for item in shown.problems
        ],
    }


def answer_body(answer: PreviewAnswer) -> dict[str, Any]:
    """Return a whole answer as JSON values; of a single row, that row's own keys stand on top."""
    rows = [preview_body(shown) for shown in answer.previews]
    body: dict[str, Any] = {
        "model": answer.model,
        "template": answer.template,
        "max_length": answer.max_length,
        "templates": [
            {
                "state": item.state,
                "reason": item.reason,
                "trained": item.trained,
                "served": item.served,
                "first_difference": item.first_difference,
                "left_out": list(item.left_out),
            }
            for item in answer.comparisons
        ],
    }
    return body | (rows[0] if len(rows) == 1 else {"rows": rows})


def print_answer(answer: PreviewAnswer, *, as_json: bool, whitespace: bool = False) -> None:
    """Print previews to standard output: in colour where that is a terminal, or as JSON."""
    if as_json:
        print_json(answer_body(answer))
        return
    out = console()
    colour = out.is_terminal and not out.no_color
    for shown in answer.previews:
        out.file.write(preview_text(shown, colour, out.width, whitespace=whitespace) + "\n")
    if any(shown.tokens for shown in answer.previews):
        out.file.write(LEGEND + "\n")
    for text in dict.fromkeys(map(comparison_text, answer.comparisons)):
        out.file.write(text + "\n")


@dataclass(frozen=True, slots=True)
class _Cell:
    """A character as it is printed, with the cells that it takes."""

    text: str
    flag: int
    width: int
    ends_line: bool = False


def _head(shown: Preview) -> "Text":
    from rich.text import Text

    where = f"row {shown.row:,}" if shown.row else "a row"
    if shown.source:
        where = f"{safe_line(shown.source)} {where}"
    figures = f"{plural(shown.token_count, 'token')}, {shown.trained_count:,} trained"
    return Text(f"{where}: {figures}" if shown.tokens else where)


def _problems(shown: Preview) -> Iterator["Text"]:
    from rich.text import Text

    for item in shown.problems:
        style = "bold red" if item.level == "error" else "bold yellow"
        yield Text.assemble((f"{item.level}:", style), " ", safe_line(item.message))
    for turn in shown.left_out[:_LEFT_OUT_SHOWN]:
        said = safe_line(turn.words, limit=_LEFT_OUT_CHARACTERS)
        yield Text(f"  left out: {safe_line(turn.role, limit=20)}: {said}")
    more = len(shown.left_out) - _LEFT_OUT_SHOWN
    if more > 0:
        yield Text(f"  and {more:,} more")


def _lines(shown: Preview, width: int, whitespace: bool) -> Iterator["Text"]:
    from rich.text import Text

    room = max(width, _NARROWEST) - len(_TEXT_GUTTER)
    for cells in _folded(_cells(shown, whitespace), room):
        line, signs = Text.assemble((_TEXT_GUTTER, "dim")), Text(_SIGN_GUTTER)
        for flag, run in groupby(cells, key=lambda cell: cell.flag):
            known = list(run)
            line.append("".join(cell.text for cell in known), _STYLES[flag])
            signs.append(_SIGNS[flag] * sum(cell.width for cell in known), _STYLES[flag])
        yield line
        if signs.plain.strip():
            signs.rstrip()
            yield signs


def _cells(shown: Preview, whitespace: bool) -> Iterator[_Cell]:
    """Yield the characters of a row; control tokens that no text shows (BOS) come first."""
    flags = bytearray(len(shown.text))
    for token in shown.tokens:
        flag = _TRAINED * token.trained | _CONTROL * token.special
        if token.special and token.start == token.stop:
            yield from (_cell(char, flag, whitespace) for char in token.text)
        for place in range(token.start, token.stop):
            flags[place] |= flag
    for char, flag in zip(shown.text, flags, strict=True):
        yield _cell(char, flag, whitespace)


def _cell(char: str, flag: int, whitespace: bool) -> _Cell:
    from rich.cells import cell_len

    if whitespace and char in _WHITESPACE:
        text = _WHITESPACE[char]
    elif char == "\n":
        text = ""
    else:
        text = "    " if char == "\t" else safe_text(char)
    return _Cell(text, flag, cell_len(text), char == "\n")


def _folded(cells: Iterator[_Cell], room: int) -> Iterator[list[_Cell]]:
    """Yield lines of at most `room` cells; an escape such as `\\x1b` is not torn apart."""
    line: list[_Cell] = []
    used = 0
    for cell in cells:
        if used + cell.width > room:
            yield line
            line, used = [], 0
        line.append(cell)
        used += cell.width
        if cell.ends_line:
            yield line
            line, used = [], 0
    if line:
        yield line


def _window(text: str, place: int) -> str:
    """Return the characters around `place` as Python would write them, the place marked."""
    before = text[max(0, place - _AROUND_CHARACTERS) : place]
    after = text[place : place + _AROUND_CHARACTERS]
    shown = [safe_text(repr(part)[1:-1]) for part in (before, after)]
    return f"{'…' if place > _AROUND_CHARACTERS else ''}{shown[0]} >>> {shown[1] or '(its end)'}"


def _rendered(lines: list["Text"], colour: bool) -> str:
    from rich.console import Console

    out = Console(
        file=io.StringIO(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    with out.capture() as captured:
        for line in lines:
            out.print(line, soft_wrap=True)
    return captured.get()
