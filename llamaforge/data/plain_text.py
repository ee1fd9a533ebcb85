"""Rows of plain text and Markdown: passages of whole paragraphs.

A short file is one row. A longer one becomes passages of about `PASSAGE_CHARACTERS`, so that part
of it can be held out and none is cut by a model's context: one ends at the first blank line after
that many characters or, in text without blank lines, at the first line end after
`MOST_CHARACTERS`.
A Markdown heading goes with the paragraph below it.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from llamaforge.data.json_rows import skip_line
from llamaforge.data.raw_rows import MAX_ROW_BYTES, TOO_LONG, Row, require_unicode
from llamaforge.data.records import Rejection, RowError

PASSAGE_CHARACTERS: Final = 8_192
"""About 2,048 tokens, the longest row that a run takes by default."""
MOST_CHARACTERS: Final = 4 * PASSAGE_CHARACTERS

_HEADING: Final = re.compile(r"#{1,6}\s")


def passages(stream: BinaryIO, name: str) -> Iterator[Row | Rejection]:
    """Yield the passages of a text in UTF-8 as `{"text": …}`, by the line on which each begins.

    Line ends become `\\n`; white space around a passage is left out.
    """
    lines: list[str] = []
    first = number = size = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            skip_line(stream)
            if lines:
                yield _passage(lines, first, name)
            lines, size = [], 0
            yield Rejection(name, number, TOO_LONG)
            continue
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if not lines and not text.strip():
            continue
        if not lines:
            first = number
        lines.append(text)
        size += len(text) + 1
        if size < PASSAGE_CHARACTERS or (text.strip() and size < MOST_CHARACTERS):
            continue
        kept = _before_heading(lines)
        yield _passage(lines[:kept], first, name)
        while kept < len(lines) and not lines[kept].strip():
            kept += 1
        lines = lines[kept:]
        first += kept
        size = sum(len(rest) + 1 for rest in lines)
    if lines:
        yield _passage(lines, first, name)


def _before_heading(lines: list[str]) -> int:
    """Return how many of `lines` are left without the headings, if any, that they end with."""
    count = len(lines)
    while count and (not lines[count - 1].strip() or _HEADING.match(lines[count - 1])):
        count -= 1
    has_heading = any(_HEADING.match(line) for line in lines[count:])
    return count if count and has_heading else len(lines)


def _passage(lines: list[str], first: int, name: str) -> Row | Rejection:
    text = "\n".join(lines).strip()
    try:
        require_unicode(text)
    except RowError as error:
        return Rejection(name, first, str(error))
    return Row(first, {"text": text})
