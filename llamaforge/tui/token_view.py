"""A row as tokens: the text, and under it which of it is learned, readable without colour too."""

from itertools import groupby
from typing import Final

from textual.content import Content

from llamaforge.data.preview import Preview
from llamaforge.runs.previews import PreviewAnswer
from llamaforge.safe_text import safe_line, safe_text
from llamaforge.tui.widgets.lines import MUTED, hanging
from llamaforge.words import plural

LEGEND: Final = "^ learned   = control token, learned   - control token, not learned"
_TRAINED, _CONTROL = 1, 2
_SIGNS: Final = {0: " ", _TRAINED: "^", _CONTROL: "-", _TRAINED | _CONTROL: "="}
_STYLES: Final = {
    0: "",
    _TRAINED: "$text-success",
    _CONTROL: "$text-accent",
    _TRAINED | _CONTROL: "bold $text-success",
}
_NARROWEST: Final = 16


def row_lines(answer: PreviewAnswer, width: int) -> list[Content]:
    """Return the first row of an answer as lines of at most `width` cells."""
    if not answer.previews:
        return []
    shown = answer.previews[0]
    count = f"{plural(shown.token_count, 'token')}, {shown.trained_count:,} of them learned"
    lines = [Content.styled(count, "bold")]
    for item in shown.problems:
        mark, style = ("✗", "$text-error") if item.level == "error" else ("!", "$text-warning")
        text = Content(safe_line(item.message, limit=300))
        lines += hanging(Content.styled(mark, style), text, indent=2, width=width)
    lines += [Content(""), *_folded(_cells(shown), max(width - 2, _NARROWEST))]
    return [*lines, Content(""), *Content.styled(LEGEND, MUTED).wrap(width)]


def _cells(shown: Preview) -> list[tuple[str, int]]:
    """Return the characters of the tokens with their signs; `\\n` ends a line."""
    found: list[tuple[str, int]] = []
    for token in shown.tokens:
        flag = _TRAINED * token.trained | _CONTROL * token.special
        for char in token.text:
            if char == "\n":
                found += [("⏎", flag), ("\n", flag)]
            else:
                found += [(safe, flag) for safe in safe_text(char).replace("\n", " ")]
    return found


def _folded(cells: list[tuple[str, int]], room: int) -> list[Content]:
    lines: list[Content] = []
    line: list[tuple[str, int]] = []
    used = 0
    for char, flag in cells:
        size = Content(char).cell_length
        if char == "\n" or used + size > room:
            lines += _line(line)
            line, used = [], 0
        if char != "\n":
            line.append((char, flag))
            used += size
    return lines + (_line(line) if line else [])


def _line(cells: list[tuple[str, int]]) -> list[Content]:
    """Return a line of text and the line of signs under it, which is left out if it is blank."""
    parts = [
        ("".join(char for char, _ in group), _STYLES[flag])
        for flag, group in groupby(cells, key=lambda cell: cell[1])
    ]
    signs = "".join(_SIGNS[flag] * Content(char).cell_length for char, flag in cells).rstrip()
    text = Content.assemble(("│ ", MUTED), *parts)
    return [text, *([Content.assemble("  ", (signs, MUTED))] if signs else [])]
