"""What a person set up for the screens: colours and keys, kept in `screens.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from llamaforge import paths
from llamaforge.files import write_atomic

_MAX_BYTES: Final = 64 * 1024
_HEADER: Final = (
    "# Colours and keys of LlamaForge's screens; a key is written as Textual does: ctrl+x, f2\n"
)


@dataclass(frozen=True)
class Preferences:
    """Colours and keys; empty means the program's own."""

    theme: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The key of each action that has another one than usual, by the action's id."""
    problem: str = ""
    """Why the file could not be read; empty where it could, or where there is none."""


def read_preferences() -> Preferences:
    """Return what was kept; a file that cannot be read changes nothing and says why."""
    path = paths.home() / "screens.yaml"
    try:
        data = path.read_bytes()
        body: Any = yaml.safe_load(data) if len(data) <= _MAX_BYTES else None
    except FileNotFoundError:
        return Preferences()
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return Preferences(
            problem="screens.yaml cannot be read: the usual colours and keys are used."
        )
    if body is None:
        return Preferences()
    keys = body.get("keys", {}) if isinstance(body, dict) else None
    if not isinstance(keys, dict) or not isinstance(body.get("theme", ""), str):
        return Preferences(problem="screens.yaml is not as it should be: the usual keys are used.")
    return Preferences(
        theme=body.get("theme", ""),
        keys={str(name): str(key) for name, key in keys.items()},
    )


def keep_preferences(preferences: Preferences) -> None:
    """Write them down.

    Raises:
        OSError: the home cannot be written to.
    """
    body = {"theme": preferences.theme, "keys": dict(preferences.keys)}
    text = yaml.safe_dump({key: value for key, value in body.items() if value}, sort_keys=False)
    write_atomic(paths.home() / "screens.yaml", _HEADER + text)
