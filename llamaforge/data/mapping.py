"""Columns mapped by hand: what a file calls its question and its answer, as a person says it.

    prompt=question,completion=answer,system=context
    prompt="{title}\\n\\n{body}",completion=summary
    messages=data.turns,message.role=speaker,message.content=text,roles.ai=assistant
    text=body

A value is the path of a column (names joined by dots, places in lists in brackets) or, in quotes,
a text with paths in braces. A column whose whole name is the path comes first.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from llamaforge.data.json_row import kind
from llamaforge.data.privacy import masked_line
from llamaforge.data.records import ROLES, RowError
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line

Fields = AnyMapping[str, Any]

TARGETS: Final = (
    "prompt", "completion", "system", "messages", "chosen", "rejected", "label", "text", "split",
)  # fmt: skip
"""What a column can be."""
SETTINGS: Final = ("message.role", "message.content")
"""What the keys of one message can be called."""
CHECKED_ROWS: Final = 100
"""Rows at the head of a file among which each column has to be found."""

_CARRIED: Final = ("split", "meta", "tools", "images", "image", "image_url")
_STEP: Final = re.compile(r"(?:\A|\.)(?P<key>[^.\[\]]+)|\[(?P<place>-?[0-9]{1,6})\]")
_ESCAPES: Final = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_ENOUGH_PATHS: Final = 200
_PATH_DEPTH: Final = 4
_ASKS: Final = (
    "prompt", "question", "instruction", "query", "input", "problem", "ask", "user", "source", "q",
)  # fmt: skip
_ANSWERS: Final = (
    "completion", "answer", "response", "output", "reply", "solution", "assistant", "target",
    "label", "a",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Path:
    """The way to a value in a row."""

    text: str

    def find(self, fields: Fields) -> Any:
        """Return the value there.

        Raises:
            KeyError: there is none.
        """
        if self.text in fields:
            return fields[self.text]
        value: Any = fields
        for step in self._steps():
            try:
                value = value[step] if _leads_on(value, step) else _missing(self.text)
            except IndexError:
                _missing(self.text)
        return value

    def _steps(self) -> Iterator[str | int]:
        end = 0
        while end < len(self.text):
            found = _STEP.match(self.text, end)
            if found is None:
                _missing(self.text)
            end = found.end()
            yield found["key"] if found["key"] is not None else int(found["place"])


@dataclass(frozen=True, slots=True)
class Template:
    """Text with paths in it; a lone path stands for its value as it is."""

    parts: tuple[str | Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths, in their order."""
        return tuple(part for part in self.parts if isinstance(part, Path))

    def fill(self, fields: Fields) -> Any:
        """Return the value for a row; a text whose columns are all blank is empty.

        Raises:
            RowError: a column is missing, or holds no text where text is wanted.
        """
        found = {path: _found(path, fields) for path in self.paths}
        if len(self.parts) == 1 and isinstance(self.parts[0], Path):
            value = found[self.parts[0]]
            return value if isinstance(value, list | dict) else _as_text(self.parts[0], value)
        texts = {path: _as_text(path, value) for path, value in found.items()}
        if texts and not any(text.strip() for text in texts.values()):
            return ""
        return "".join(part if isinstance(part, str) else texts[part] for part in self.parts)

    def __str__(self) -> str:
        if len(self.parts) == 1 and isinstance(self.parts[0], Path):
            text = self.parts[0].text
            if not re.search(r'[,"{}\\]|\A\s|\s\Z', text):
                return text
        return '"' + "".join(map(_escaped, self.parts)) + '"'


@dataclass(frozen=True, slots=True)
class Mapping:
    """What the columns of a file are."""

    columns: dict[str, Template] = field(default_factory=dict)
    """By target, one of `TARGETS`."""
    roles: dict[str, str] = field(default_factory=dict)
    """What each of the file's own names for a role means, in lower case."""
    role_key: str | None = None
    content_key: str | None = None

    @property
    def is_raw_text(self) -> bool:
        """Whether rows are texts to go on reading, without questions and answers."""
        return "text" in self.columns

    @classmethod
    def parse(cls, text: str) -> "Mapping":
        """Return the mapping that `text` says.

        Raises:
            UsageError: it says none (`bad_mapping`).
        """
        columns: dict[str, Template] = {}
        roles: dict[str, str] = {}
        settings: dict[str, str] = {}
        for name, value in _entries(text):
            if name in columns or name in settings or _role_name(name) in roles:
                raise _bad(f"{safe_line(name)} is named twice")
            if name in TARGETS:
                columns[name] = value
            elif name in SETTINGS:
                settings[name] = _plain(name, value)
            elif name.startswith("roles.") and _role_name(name):
                roles[_role_name(name)] = _role(name, _plain(name, value))
            else:
                parts = f"; a row has {', '.join(TARGETS)}"
                near = _near(name, [*TARGETS, *SETTINGS]) or parts
                raise _bad(f"there is no {safe_line(name)}{near}")
        _require_whole(columns, settings, roles)
        return cls(columns, roles, settings.get(SETTINGS[0]), settings.get(SETTINGS[1]))

    def __str__(self) -> str:
        """Return the text that `parse` makes this mapping of."""
        keys = {SETTINGS[0]: self.role_key, SETTINGS[1]: self.content_key}
        settings = {name: Template((Path(key),)) for name, key in keys.items() if key is not None}
        roles = {f"roles.{name}": Template((Path(role),)) for name, role in self.roles.items()}
        every = {**self.columns, **settings, **roles}
        return ",".join(f"{name}={value}" for name, value in every.items())

    def apply(self, fields: Fields) -> dict[str, Any]:
        """Return a row under the names of a known format.

        The row's own split, meta, tools and images stay.

        Raises:
            RowError: a column is missing, or holds what it cannot.
        """
        if not self.columns:
            return dict(fields)
        mapped = {key: fields[key] for key in _CARRIED if key in fields}
        for target, value in self.columns.items():
            found = value.fill(fields)
            # A table has an empty cell where a row asks for no side.
            mapped[target] = None if target == "split" and found == "" else found
        return mapped

    def has_columns(self, rows: Iterable[Fields]) -> bool:
        """Return whether any of its columns is in one of `rows`; one that names none fits all."""
        paths = [path for value in self.columns.values() for path in value.paths]
        return not paths or any(_has(path, fields) for fields in rows for path in paths)

    def require_columns(self, rows: Iterable[Fields], name: str) -> None:
        """Check that each column is in one of `rows` at least; without rows nothing is wrong.

        Raises:
            UsageError: one is not (`unknown_column`); what it may have been is named.
        """
        looked_at = list(rows)
        if not looked_at:
            return
        for target, value in self.columns.items():
            for path in value.paths:
                if not any(_has(path, fields) for fields in looked_at):
                    known = list(dict.fromkeys(p for row in looked_at for p in paths_of(row)))
                    raise UsageError(
                        f"The mapping takes {target} from {safe_line(path.text, limit=60)}, which"
                        f" no row looked at in {safe_line(name)} has{_near(path.text, known)}.",
                        f"There are: {', '.join(known[:12]) or 'no columns'}.",
                        code="unknown_column",
                    )


def suggested_mapping(keys: Sequence[str]) -> str:
    """Return a mapping's text that may fit rows with `keys`, for a person to correct.

    `COLUMN` stands where nothing can be guessed.
    """
    asks = _first_named(_ASKS, keys)
    answers = _first_named(_ANSWERS, [key for key in keys if key != asks])
    values = (Template((Path(key),)) if key else "COLUMN" for key in (asks, answers))
    return safe_line("prompt={},completion={}".format(*values), limit=160)


def paths_of(fields: Fields) -> list[str]:
    """Return the paths of a row that can be mapped, safe to print; of a list its first item."""
    found: list[str] = []
    waiting: list[tuple[str, Any, int]] = [
        (key, value, 1) for key, value in list(fields.items())[:_ENOUGH_PATHS]
    ]
    for path, value, depth in waiting:
        if len(found) >= _ENOUGH_PATHS:
            break
        found.append(masked_line(path, limit=60))
        if depth < _PATH_DEPTH and isinstance(value, dict):
            inner = list(value.items())[:_ENOUGH_PATHS]
            waiting += [(f"{path}.{key}", child, depth + 1) for key, child in inner]
        elif depth < _PATH_DEPTH and isinstance(value, list) and value:
            waiting.append((f"{path}[0]", value[0], depth + 1))
    return found


def _first_named(wanted: Sequence[str], keys: Sequence[str]) -> str:
    """Return the key that is named like the first possible one of `wanted`."""
    lower = {key.strip().lower(): key for key in reversed(keys)}
    exact = next((lower[name] for name in wanted if name in lower), "")
    part = (
        key for name in wanted if len(name) > 1 for known, key in lower.items() if name in known
    )
    return exact or next(part, "")


def _leads_on(value: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, list)
    return isinstance(value, dict) and step in value


def _missing(text: str) -> NoReturn:
    raise KeyError(text)


def _has(path: Path, fields: Fields) -> bool:
    try:
        path.find(fields)
    except KeyError:
        return False
    return True


def _found(path: Path, fields: Fields) -> Any:
    try:
        return path.find(fields)
    except KeyError:
        raise RowError(f"{safe_line(path.text, limit=60)} is missing") from None


def _as_text(path: Path, value: Any) -> str:
    """Return a scalar as text: numbers and truth as JSON writes them, null as nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise RowError(f"{safe_line(path.text, limit=60)} is {kind(value)}, not a text")
    return json.dumps(value)


def _escaped(part: str | Path) -> str:
    if isinstance(part, Path):
        return "{" + part.text + "}"
    text = part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return text.replace("{", "{{").replace("}", "}}")


def _entries(text: str) -> Iterator[tuple[str, Template]]:
    """Yield the names and the values of a mapping's text."""
    place = 0
    while place < len(text):
        sign = text.find("=", place)
        if sign < 0:
            raise _bad(f"{safe_line(text[place:], limit=60)} has no value")
        name = text[place:sign].strip()
        start = sign + 1
        while text[start : start + 1].isspace():
            start += 1
        if text[start : start + 1] == '"':
            value, place = _quoted(text, start + 1)
            while text[place : place + 1].isspace():
                place += 1
            if place < len(text) and text[place] != ",":
                raise _bad(f"a comma is missing after the value of {safe_line(name, limit=60)}")
        else:
            comma = text.find(",", start)
            place = len(text) if comma < 0 else comma
            column = text[start:place].strip()
            if not column:
                raise _bad(f"{safe_line(name, limit=60)} has no value")
            value = Template((Path(column),))
        yield name, value
        place += 1
    if not text.strip():
        raise _bad("it is empty")
    if text.rstrip().endswith(","):
        raise _bad("it ends with a comma")


def _quoted(text: str, place: int) -> tuple[Template, int]:
    """Return the template that begins at `place`, and where its closing quote ends."""
    parts: list[str | Path] = []
    literal = ""
    while place < len(text):
        sign, pair = text[place], text[place : place + 2]
        place += 1
        if sign == '"':
            whole = [*parts, literal] if literal or not parts else parts
            return Template(tuple(whole)), place
        if sign == "\\":
            if pair[1:] not in _ESCAPES:
                raise _bad(f'the escape {safe_line(pair)} is not one of \\n, \\t, \\" and \\\\')
            literal += _ESCAPES[pair[1:]]
            place += 1
        elif pair in {"{{", "}}"}:
            literal += sign
            place += 1
        elif sign == "{":
            end = text.find("}", place)
            column = text[place:end].strip() if end >= 0 else ""
            if not column or "{" in column:
                raise _bad("a brace in a text is not closed around a column; {{ stands for a brace")
            parts += [literal, Path(column)] if literal else [Path(column)]
            literal, place = "", end + 1
        elif sign == "}":
            raise _bad("a brace in a text is closed without a column; }} stands for a brace")
        else:
            literal += sign
    raise _bad("the quotes around a text are not closed")


def _plain(name: str, value: Template) -> str:
    if len(value.parts) != 1 or not isinstance(value.parts[0], Path):
        raise _bad(f"{safe_line(name, limit=60)} is one name, not a text with columns")
    return value.parts[0].text


def _role_name(name: str) -> str:
    return name.removeprefix("roles.").strip().lower() if name.startswith("roles.") else ""


def _role(name: str, role: str) -> str:
    known = ROLES.get(role.strip().lower())
    if known is None:
        given = f"{safe_line(name, limit=60)} is {safe_line(role, limit=40)}"
        raise _bad(f"{given}, not system, user, assistant or tool{_near(role, list(ROLES))}")
    return known


def _require_whole(
    columns: AnyMapping[str, Template], settings: AnyMapping[str, str], roles: AnyMapping[str, str]
) -> None:
    """Check that the columns make one format.

    Raises:
        UsageError: they do not.
    """
    given = columns.keys() - {"system", "split"}
    if given in ({"prompt", "completion"}, {"messages"}, {"chosen", "rejected"}):
        return
    if given in ({"prompt", "completion", "label"}, {"messages", "label"}):
        return
    if given == {"prompt", "chosen", "rejected"} or (not columns and (settings or roles)):
        return
    if columns.keys() - {"split"} == {"text"}:
        return
    ways = (
        "prompt and completion, or messages, with or without label, or chosen and rejected with or "
        "without prompt, or text alone"
    )
    named = ", ".join(sorted(given)) or "no column to ask or to answer"
    raise _bad(f"it names {named}; name {ways}")


def _near(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=3)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def _bad(problem: str) -> UsageError:
    return UsageError(
        f"The mapping cannot be used: {problem}.",
        "Write it like --map prompt=question,completion=answer",
        code="bad_mapping",
    )
