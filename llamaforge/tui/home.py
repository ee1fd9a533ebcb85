"""What the first screen shows of the machine, its models, its server and its runs, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from textual.content import Content

from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, facts, hanging
from llamaforge.words import plural, size_words

if TYPE_CHECKING:
    from llamaforge.errors import LlamaForgeError
    from llamaforge.tui.run_list import RunRow
    from llamaforge.wizard.draft import Draft
    from llamaforge.wizard.facts import Machine

_LIVE: Final = frozenset({"running", "paused"})
_RESUMABLE: Final = frozenset({"lost", "stopped"})
_SHOWN_RUNS: Final = 3
_SHOWN_DRAFTS: Final = 2


@dataclass(frozen=True)
class ModelCount:
    """How many models there are."""

    total: int = 0
    trainable: int = 0
    places: tuple[Path, ...] = ()
    error: "LlamaForgeError | None" = None
    """Why they cannot be looked at."""


@dataclass(frozen=True)
class Home:
    """What is known so far; None is what was not looked at yet."""

    machine: "Machine | None" = None
    models: ModelCount | None = None
    runs: "tuple[RunRow, ...] | None" = None
    server: str | None = None
    """The version of the Ollama server; empty where none answers."""
    draft: "Draft | None" = None
    """The newest that was left behind."""
    other_drafts: "tuple[Draft, ...]" = ()


@dataclass(frozen=True)
class Entry:
    """One thing to begin with."""

    key: str
    """`start`, `draft`, `draft:NUMBER`, `run:NAME`, `history`, `models` or `demo`."""
    title: str
    words: str


def entries(home: Home) -> list[Entry]:
    """Return what can be done from here, what is most likely wanted first."""
    found: list[Entry] = []
    has_models = home.models is None or home.models.trainable > 0
    demo = Entry("demo", "Demo", "see it work on a small built-in model, in about a minute")
    start = Entry("start", "Start", "choose a model, name your rows, look it over, begin")
    if not has_models:
        start = Entry("start", "Start", "there is no model to train yet: see below")
        found.append(demo)
    found.append(start)
    if home.draft is not None:
        found.append(Entry("draft", "Go on", _draft_words(home.draft)))
        others = enumerate(home.other_drafts[:_SHOWN_DRAFTS])
        found += [Entry(f"draft:{n}", "Go on", _draft_words(draft)) for n, draft in others]
    runs = home.runs or ()
    live = [row for row in runs if row.state.value in _LIVE]
    for row in live[:_SHOWN_RUNS]:
        words = f"{row.state.value}, {row.progress}" if row.progress != "–" else row.state.value
        found.append(Entry(f"run:{row.id}", f"Watch {_short(row.id)}", words))
    waiting = next((row for row in runs if row.state.value in _RESUMABLE), None)
    if waiting is not None:
        words = f"{'its worker is gone' if waiting.state.value == 'lost' else 'stopped'}"
        words += f" at {waiting.progress}; it can go on"
        found.append(Entry(f"run:{waiting.id}", f"Look at {_short(waiting.id)}", words))
    if runs:
        found.append(Entry("history", "History", _history_words(runs)))
    if home.models is not None and home.models.total:
        found.append(Entry("models", "Models", _model_words(home.models)))
    if has_models:
        found.append(demo)
    return found


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _draft_words(draft: "Draft") -> str:
    rows = Path(draft.sources[0]).name if draft.sources else "no rows yet"
    more = f" and {len(draft.sources) - 1} more" if len(draft.sources) > 1 else ""
    return safe_line(f"{draft.model or 'no model yet'} with {rows}{more}: answered, not begun")


def _history_words(runs: "Sequence[RunRow]") -> str:
    done = sum(row.state.value == "finished" for row in runs)
    count = plural(len(runs), "run")
    return f"{count}, {done} finished; the newest is {_short(runs[0].id)}"


def _model_words(models: ModelCount) -> str:
    return f"{models.total} in Ollama, {models.trainable} can be trained"


def machine_lines(home: Home, width: int) -> list[Content]:
    """Return what the machine can do and what was found on it."""
    lines = [Content.styled("This machine", "bold $primary")]
    if home.machine is None:
        return [*lines, Content.styled("measuring …", MUTED)]
    return lines + facts(_machine_facts(home), width)


def _machine_facts(home: Home) -> list[tuple[str, str]]:
    machine = home.machine
    assert machine is not None  # noqa: S101 - the caller looked
    gpus = ", ".join(
        f"{safe_line(gpu.name, limit=40)}, {size_words(gpu.free_bytes)} of "
        f"{size_words(gpu.total_bytes)} free"
        for gpu in machine.gpus
    )
    fast = ", fast in bfloat16" if machine.has_bfloat16 else ""
    cores = plural(machine.cores, "core")
    return [
        ("processor", f"{cores}{fast}"),
        ("memory", f"{size_words(machine.memory)} of {size_words(machine.memory_total)} free"),
        ("GPU", gpus or "none found: training runs on the processor"),
        ("disk", f"{size_words(machine.disk)} free where runs are kept"),
        ("models", _models_fact(home.models)),
        ("Ollama", _server_fact(home.server)),
    ]


def _models_fact(models: ModelCount | None) -> str:
    if models is None:
        return "looking …"
    if models.error is not None:
        return "no Ollama store was found"
    return f"{models.total} found, {models.trainable} can be trained"


def _server_fact(version: str | None) -> str:
    if version is None:
        return "asking …"
    if not version:
        return "no server answers; it is only needed to publish"
    return f"version {safe_line(version, limit=40)} answers"


def advice_lines(home: Home, width: int) -> list[Content]:
    """Return what to do where there is no model to train; nothing where there is one."""
    models = home.models
    if models is None or models.trainable:
        return []
    if models.error is not None:
        what = models.error.message
        hints: tuple[str, ...] = (
            "Install Ollama from https://ollama.com, then pull a model: ollama pull qwen2.5:3b",
            "Are your models somewhere else? Say where: OLLAMA_MODELS=/path llamaforge",
        )
    elif models.total:
        what = (
            "Your only model cannot be trained; Models says why."
            if models.total == 1
            else f"None of your {models.total:,} models can be trained; Models says why of each."
        )
        hints = ("Pull one that can be: ollama pull qwen2.5:3b",)
    else:
        what = "Ollama has no models yet."
        hints = ("Pull one: ollama pull qwen2.5:3b",)
    lines = hanging(
        Content.styled("!", "$text-warning"), Content(safe_line(what)), indent=2, width=width
    )
    for hint in (*hints, "Or try the demo, which needs neither Ollama nor a network."):
        lines += hanging(Content.styled("→", MUTED), Content(hint), indent=2, width=width)
    return lines
