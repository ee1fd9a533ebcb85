"""What the beginning of a text says about it: JSON, a table or plain text, and how it is written.

The content decides. The name breaks ties: prose with commas looks like a table to any rule.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

HEAD_BYTES: Final = 64 * 1024
"""How much of a text is looked at."""

TextKind = Literal["jsonl", "json", "csv", "tsv", "txt"]

TABLE_SUFFIXES: Final = frozenset({".csv", ".tsv", ".tab"})
PROSE_SUFFIXES: Final = frozenset({".md", ".markdown", ".rst"})
TEXT_SUFFIXES: Final = PROSE_SUFFIXES | {".txt", ".text"}
JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})

KNOWN_COLUMNS: Final = frozenset(
    {
        *("messages", "conversations", "prompt", "completion", "text", "system", "history"),
        *("instruction", "input", "output", "context", "response", "category"),
        *("question", "answer", "q", "a", "query", "user", "assistant"),
        *("chosen", "rejected", "rejected_message", "preferred_output", "non_preferred_output"),
        *("input_ids", "label", "score", "split", "id"),
    }
)
"""Column names of the formats that are understood, in lower case."""

_DELIMITERS: Final = (",", "\t", ";", "|")
_SAMPLE_RECORDS: Final = 50
_JSON: Final = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*(?:[{\]]|\Z))")
_HINT_LINE: Final = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table is written."""

    delimiter: str
    quoted: bool = True
    """Whether `"` encloses cells; if not, it is a character like any other."""
    skipped_lines: int = 0
    """Lines before the header: Excel's `sep=;`."""


def text_kind(head: str, suffix: str) -> tuple[TextKind, Dialect | None]:
    """Return what a text is that begins with `head`, and how it is written if it is a table.

    Args:
        head: the first characters, at most `HEAD_BYTES` bytes of them.
        suffix: the end of the file's name in lower case, such as `.csv`; without `.gz`.
    """
    if _begins_as_json(head, suffix):
        return ("json" if head.lstrip().startswith("[") else "jsonl"), None
    if suffix in PROSE_SUFFIXES:
        return "txt", None
    dialect, score = _best_dialect(head, suffix)
    if suffix in TABLE_SUFFIXES or _is_table(score, head, suffix):
        return ("tsv" if dialect.delimiter == "\t" else "csv"), dialect
    return ("txt" if suffix in TEXT_SUFFIXES else "jsonl"), None


def _begins_as_json(head: str, suffix: str) -> bool:
    """Prose may begin with a link in brackets, a table with a name in them; JSON goes on."""
    if suffix in TEXT_SUFFIXES | TABLE_SUFFIXES:
        return _JSON.match(head) is not None
    return head.lstrip()[:1] in {"{", "["}


@dataclass(frozen=True, slots=True, order=True)
class _Score:
    """How well a dialect fits: compared from the first field to the last."""

    known: int
    """Columns of the header with a name of `KNOWN_COLUMNS`."""
    several: bool
    """Whether there is more than one column."""
    even: float
    """Part of the records that have as many cells as the header, 0 to 1."""
    width: int
    """Columns."""
    records: int


def _best_dialect(head: str, suffix: str) -> tuple[Dialect, _Score]:
    hint = _HINT_LINE.match(head)
    body = head[hint.end() :] if hint else head
    whole = len(head.encode("utf-8", "surrogatepass")) < HEAD_BYTES - 4
    lines = list(io.StringIO(body, newline=""))
    if not whole and len(lines) > 1:
        del lines[-1]
    if hint:
        candidates: Sequence[str] = (hint.group(1),)
    else:
        first = "\t" if suffix in {".tsv", ".tab"} else ","
        candidates = sorted(_DELIMITERS, key=lambda sign: sign != first)
    found = [
        (Dialect(sign, quoted, 1 if hint else 0), _score(lines, sign, quoted=quoted))
        for sign in candidates
        # Files with tabs are often written without any quoting; with commas they cannot be.
        for quoted in ((True, False) if sign in "\t|" else (True,))
    ]
    fit = [(way, score) for way, score in found if way.quoted or score.several]
    return max(fit, key=lambda pair: pair[1])  # the first of equals


def _score(lines: Iterable[str], delimiter: str, *, quoted: bool) -> _Score:
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] = []
    records = even = 0
    for cells in islice(_readable(reader), _SAMPLE_RECORDS):
        if cells == []:
            continue
        if not header:
            header = cells or []
        records += 1
        even += cells is not None and len(cells) == len(header)
    known = sum(name.strip().lower() in KNOWN_COLUMNS for name in header)
    several = len(header) > 1
    return _Score(
        known, several, round(even / records, 2) if records else 0.0, len(header), records
    )


def _readable(reader: Iterable[list[str]]) -> Iterable[list[str] | None]:
    """Yield the records that `reader` finds; none for one that is broken."""
    records = iter(reader)
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                return  # the sample ends within a cell
            yield None


def _is_table(score: _Score, head: str, suffix: str) -> bool:
    """Return whether what is not called a table is one all the same."""
    if score.known >= 2 and score.even >= 0.8:
        return not (suffix in JSON_SUFFIXES and re.search(r"^\s*\{", head, re.MULTILINE))
    named = suffix in TEXT_SUFFIXES | JSON_SUFFIXES
    return not named and score.several and score.records >= 3 and score.even >= 0.9


def unmarked_utf16(head: bytes) -> str | None:
    """Return which UTF-16 `head` is in if it has no byte order mark and is ASCII at least in part.

    In UTF-16 every second byte of ASCII text is 0; other text has next to none.
    """
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if not head or min(zeros) > 0 or max(zeros) < len(head) / 8:
        return None
    encoding = "utf-16-be" if zeros[0] else "utf-16-le"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[\x00-\x08\x0e-\x1f]", text) else encoding


def is_western(head: bytes) -> bool:
    """Return whether bytes that are not UTF-8 can only be Windows-1252 or Latin-1.

    There, letters beyond ASCII stand among ASCII letters. In a Cyrillic, Greek or Chinese code
    page they stand in rows.
    """
    return (
        re.search(rb"[\x80-\xff]{4}", head) is None
        and re.search(rb"[\x81\x8d\x8f\x90\x9d]", head) is None
    )


def is_mostly_utf8(head: bytes) -> bool:
    """Return whether `head`, which may end within a character, is UTF-8 with few mistakes."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    beyond = [char for char in decoder.decode(head) if char > "\x7f"]
    mistakes = sum("\udc80" <= char <= "\udcff" for char in beyond)
    return mistakes * 2 <= len(beyond)
