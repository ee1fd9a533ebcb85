"""Recipes and run specs as YAML, and what is wrong with one in words."""

import re
import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from llamaforge.data.privacy import masked_line
from llamaforge.errors import NotFoundError, UsageError
from llamaforge.recipe.spelling import meant, nearest
from llamaforge.safe_text import redact, safe_line

_T = TypeVar("_T", bound=BaseModel)

_SHORT = reprlib.Repr()
"""Of a list that names itself again and again, as YAML allows, no more than its beginning."""
_SHORT.maxstring = _SHORT.maxother = 4_000
_MOST_YAML_BYTES: Final = 32_000_000
"""A spec may hold a chat template; a file of weights that was named by mistake is larger."""


def to_yaml(model: BaseModel) -> str:
    """Return `model` as YAML, keys in their declared order."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_MERGED: Final = "<<"
"""YAML's word for another part's keys, which may be said again."""


class _TwiceError(Exception):
    """A key that stands twice in one part of a YAML file."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(key)
        self.key = key
        self.where = f"in line {first}" if first == second else f"in lines {first} and {second}"
        """From 1 on."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, PyYAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a part's keys and values.

        Raises:
            _TwiceError: a key stands in it twice.
        """
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == _MERGED:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _TwiceError(key.value, lines[key.value], line)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is not YAML, or has a key twice.
    """
    shown = safe_line(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_YAML_BYTES + 1)
    except OSError as error:
        raise NotFoundError(
            f"The file {safe_line(str(path))} cannot be read: {error.strerror}.",
            "Check the path.",
        ) from error
    if len(data) > _MOST_YAML_BYTES:
        raise UsageError(
            f"{shown} is too large to be a recipe.", _not_yaml_hint(path), code="bad_yaml"
        )
    try:
        return yaml.load(data.decode("utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{shown} is not YAML: it is not text in UTF-8.",
            _not_yaml_hint(path, "Save it as UTF-8."),
            code="bad_yaml",
        ) from error
    except _TwiceError as error:
        raise UsageError(
            f"{shown} has {safe_line(error.key, limit=60)} twice in one part, {error.where}.",
            "Keep one of them.",
            code="key_twice",
        ) from None
    # A ValueError: a date or a number that is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "lists are nested too deep" if isinstance(error, RecursionError) else _said(error)
        raise UsageError(
            f"{shown} is not YAML: {masked_line(reason, limit=200)}.",
            _not_yaml_hint(path),
            code="bad_yaml",
        ) from error


def _said(error: Exception) -> str:
    """Return what is wrong in a YAML file, with its line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        begun = f"{error.context}, " if error.problem.startswith("but ") else ""
        return f"{begun}{error.problem}, in line {error.problem_mark.line + 1}"
    return str(error)


def _not_yaml_hint(path: Path, usual: str = "Correct that line.") -> str:
    if path.suffix.lower() in {".yaml", ".yml"}:
        return usual
    return "A recipe is a YAML file; rows are named with --data, and a model with --model."


_HINTS: Final = {
    "list_type": "Write a list, as in [A, B].",
    "too_long": "Leave some out.",
    "together": "Change one of these settings.",
}
"""What to do, by pydantic's words for what is wrong."""


def parse(kind: type[_T], body: Any, source: str) -> _T:
    """Return `body` as a `kind`.

    Raises:
        UsageError: names the first key that is wrong, and the nearest known one if it is unknown.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        where = safe_line(".".join(str(part) for part in problem["loc"]), limit=120)
        if problem["type"] in {"extra_forbidden", "invalid_key"}:
            message = f"{source}: {where} is not a known setting."
            raise UsageError(message, meant(kind, problem["loc"]), code="unknown_key") from None
        if problem["type"] == "missing":
            raise UsageError(
                f"{source}: {where} is missing.", "Add it.", code="bad_value"
            ) from None
        if problem["type"] == "model_type" and problem["loc"]:
            raise UsageError(
                f"{source}: {where} is not a list of settings.",
                f"Write {where}: and its settings indented below.",
                code="bad_value",
            ) from None
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if problem["loc"] and problem["type"] == "value_error" and _is_part(problem["input"]):
            message = f"{where}: {message}"  # settings that do not go together
            problem["type"] = "together"
        elif problem["loc"]:
            message = f"{where} cannot be {_shown(problem.get('input'))}: {message}"
        raise UsageError(
            f"{source}: {message}.",
            _near_choice(problem) or _HINTS.get(problem["type"], "Correct the value."),
            code="bad_value",
        ) from None


def _is_part(value: Any) -> bool:
    return isinstance(value, dict | BaseModel)


def _near_choice(problem: Any) -> str:
    """Return a sentence about the choice that a wrong word is near to; empty where none is."""
    if problem["type"] != "literal_error":
        return ""
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    near = nearest(str(problem["input"]), choices)
    return f"Did you mean {near}?" if near else ""


def _shown(value: Any) -> str:
    """Return a value as YAML has it, cut short."""
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    return masked_line(redact(_SHORT.repr(value)), limit=60)
