"""Reading the store's small files: only regular files inside it, only so many bytes of them."""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any, Final, NoReturn

from llamaforge.errors import InvalidFileError, NotFoundError

MAX_JSON_DEPTH: Final = 32
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def whole_text(text: str) -> str:
    """Return `text` with lone surrogates as U+FFFD: what is left can be written as UTF-8."""
    return _SURROGATES.sub("\ufffd", text)


def file_inside(folder: Path, path: Path, what: str) -> Path:
    """Return `path` with its links followed, if it is a regular file inside `folder`.

    `folder` must be resolved already: that it is a link itself is its owner's affair.

    Raises:
        NotFoundError: there is nothing at `path` (code `missing_file`), or it may not be looked at.
        InvalidFileError: it is no regular file, or a link leads out of `folder`.
    """
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{what} is missing from the store.", "Pull the model again.", code="missing_file"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise _unreadable(what, error) from error
    if not real.is_relative_to(folder):
        raise InvalidFileError(
            f"{what} is a link that leads out of the store.",
            "Replace the link by the file itself, or pull the model again.",
            code="outside_store",
        )
    if not stat.S_ISREG(mode):
        raise InvalidFileError(
            f"{what} is not a regular file.", "Pull the model again.", code="not_a_file"
        )
    return real


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """Return the content of `path`, which `file_inside` has returned.

    Raises:
        InvalidFileError: it has more than `limit` bytes.
        NotFoundError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(what, error) from error
    if len(data) > limit:
        raise InvalidFileError(
            f"{what} has more than {limit:,} bytes, which none of its kind should.",
            "Pull the model again.",
            code="too_large",
        )
    return data


def parse_json(data: bytes, what: str) -> Any:
    """Return the value in `data`: finite numbers, whole text, at most `MAX_JSON_DEPTH` deep.

    Raises:
        InvalidFileError: it is not such JSON.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite
        )
        return _plain(value, MAX_JSON_DEPTH)
    except RecursionError as error:
        raise InvalidFileError(
            f"{what} is nested too deeply.", "Pull the model again.", code="not_json"
        ) from error
    except ValueError as error:
        raise InvalidFileError(
            f"{what} is not sound JSON.",
            "Pull the model again; the file was damaged or cut short.",
            code="not_json",
        ) from error


def _unreadable(what: str, error: Exception) -> NotFoundError:
    reason = (error.strerror if isinstance(error, OSError) else None) or "it leads nowhere"
    return NotFoundError(
        f"{what} cannot be read: {reason}.",
        "Check its permissions, or run as a user who may read it.",
        code="unreadable",
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond a float's range")
    return value


def _plain(value: Any, depth: int) -> Any:
    """Return `value` with whole text; `RecursionError` where it is deeper than `depth`."""
    if isinstance(value, str):
        return whole_text(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise RecursionError
    if isinstance(value, dict):
        return {whole_text(key): _plain(item, depth - 1) for key, item in value.items()}
    return [_plain(item, depth - 1) for item in value]
