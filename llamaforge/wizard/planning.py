"""What a run would take, for whoever asks before it begins: `llamaforge plan` and the screens.

`plan_of(spec)` is the one function: it starts a process that tries some passes of the model, takes
some ten seconds, and returns a `Plan`. A screen calls it in a thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import plans

DOING: Final[Mapping[str, str]] = {
    "rows": "Looking at the rows",
    "model": "Loading the model",
    "trial": "Trying some passes of the model",
    "served": "Trying how fast llama.cpp answers",
}
"""What is said while a plan is made, by what `on_progress` is told."""

MEMORY_PARTS: Final[Mapping[str, str]] = {
    "weights": "the model",
    "adapter": "the adapter",
    "optimizer": "the optimizer",
    "activations": "activations",
    "logits": "logits",
    "overhead": "the program",
}
"""What memory is taken by, in few words, by the keys of a plan."""


def _silent(what: str) -> None:
    del what


@dataclass(frozen=True)
class Plan:
    """What a run would take, and how it would be done."""

    body: Mapping[str, Any]
    """As `llamaforge plan --json` prints it."""

    @property
    def memory_bytes(self) -> int:
        """The most that training will hold at one time."""
        return int(self.body["memory_bytes"]["total"])

    @property
    def memory_by_part(self) -> dict[str, int]:
        """The same by the words of `MEMORY_PARTS`, the largest part first."""
        parts = self.body["memory_bytes"]
        found = {words: int(parts[key]) for key, words in MEMORY_PARTS.items() if parts[key]}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def processes(self) -> int:
        """Processes that train together; memory is that of each."""
        return int(self.body["processes"])

    @property
    def available_bytes(self) -> int:
        """The memory that there is for it."""
        return int(self.body["available_bytes"])

    @property
    def disk_bytes(self) -> int:
        """The most that the run's folder will hold at one time."""
        return int(self.body["disk_peak_bytes"])

    @property
    def seconds(self) -> tuple[int, int] | None:
        """How long the whole run takes, at least and at most; None if it cannot be trained."""
        found = self.body["seconds"]
        return None if found is None else (int(found[0]), int(found[1]))

    @property
    def problems(self) -> list[dict[str, str]]:
        """What stands against it, or should be known: `level`, `code`, `message`, `fix`."""
        return list(self.body["problems"])

    @property
    def can_begin(self) -> bool:
        """Whether nothing keeps the run from being done."""
        return not any(item["level"] == "stop" for item in self.problems)


def plan_of(spec: RunSpec, on_progress: Callable[[str], None] = _silent) -> Plan:
    """Return what the run of `spec` would take on this machine now.

    Args:
        spec: as `beginning.resolved` or `checks.spec_of` returns it; no run is made.
        on_progress: takes a key of `DOING` whenever something else begins.

    Raises:
        LlamaForgeError: the model or the rows cannot be read at all, or the process died.
    """
    return Plan(plans.plan(spec.model_dump_json(), on_progress))
