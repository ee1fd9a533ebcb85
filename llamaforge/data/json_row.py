"""One row's bytes read as strict JSON: what Python lets pass and others do not is an error here."""

import json
import math
from typing import Any, Final

from llamaforge.data.privacy import masked_line
from llamaforge.data.records import RowError
from llamaforge.safe_text import safe_line

MAX_DEPTH: Final = 64
"""Lists and objects within each other. Deeper rows are an attack or a mistake."""

_TOO_DEEP: Final = f"lists and objects are nested more than {MAX_DEPTH} deep"
_WORDS_CUT_OFF: Final = frozenset(
    word[:length] for word in ("true", "false", "null") for length in range(1, len(word))
) | {"-"}


class CutOffError(RowError):
    """The row's text ends before its JSON does."""


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`, which is UTF-8 without a byte order mark.

    Raises:
        CutOffError: the text ends before the JSON does.
        RowError: the bytes are not UTF-8, not JSON (RFC 8259) or not an object; an object has a
            key twice; a number is NaN or infinite; or lists and objects are nested too deep.
    """
    value = parse_json(_decoded(data))
    if not isinstance(value, dict):
        raise RowError(f"the row is {kind(value)}, not an object")
    return value


def parse_json(text: str) -> Any:
    """Return the one JSON value in `text`.

    Raises:
        CutOffError, RowError: as `parse_object`, but for the type of the value.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"invalid JSON at character {error.pos + 1}: {_clause(error.msg)}"
        if _ends_early(text, error):
            raise CutOffError(place) from None
        raise RowError(place) from None
    except RecursionError:
        raise RowError(_TOO_DEEP) from None
    except ValueError as error:  # Python refuses to convert integers of thousands of digits
        raise RowError(f"invalid JSON: {safe_line(str(error), limit=120)}") from None
    # Without that many brackets it cannot be too deep: the walk is for the few odd rows.
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise RowError(_TOO_DEEP)
    return value


def kind(value: object) -> str:
    """Return what JSON calls the type of `value`, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise CutOffError("the last character is not whole") from None
        raise RowError(
            f"byte 0x{data[error.start]:02x} at position {error.start + 1} is not UTF-8"
        ) from None


def _ends_early(text: str, error: json.JSONDecodeError) -> bool:
    """Return whether more text could have made the JSON whole."""
    rest = text[error.pos :].strip()
    if not rest or rest in _WORDS_CUT_OFF or error.msg.startswith("Unterminated string"):
        return True
    # An escape of less than six characters at the very end: `\u00e`.
    return error.msg.startswith("Invalid \\u") and len(rest) < 6 and '"' not in rest


def _clause(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(" at").removesuffix(" starting at")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RowError(f"the key {masked_line(repr(key), limit=60)} occurs twice")
            seen.add(key)
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RowError(f"the number {safe_line(text, limit=40)} is too large")
    return value


def _no_constant(name: str) -> float:
    raise RowError(f"{name} is not a JSON number")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_no_constant
)


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    """Return what a list or an object holds; a scalar holds nothing."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
