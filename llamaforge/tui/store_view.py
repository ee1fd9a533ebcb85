"""The models of a store as a screen shows them: words, marks and the command to train one."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from textual.content import Content

from llamaforge import paths
from llamaforge.catalog.blobs import short_digest
from llamaforge.catalog.inventory import Inventory, disk_bytes
from llamaforge.catalog.listing import ListedModel, Lister
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, facts, hanging
from llamaforge.words import count_words, plural, size_words

STATUS_WORDS: Final = {
    ModelStatus.READY: ("✓", "ready"),
    ModelStatus.PARTIAL: ("…", "incomplete"),
    ModelStatus.MISSING_BLOB: ("✗", "file missing"),
    ModelStatus.REMOTE: ("–", "remote"),
    ModelStatus.UNSUPPORTED: ("–", "unsupported"),
    ModelStatus.BROKEN: ("✗", "damaged"),
}


_FIRST_MODELS: Final = 30
"""Shown as soon as they are read; a screen has no room for more."""
_SECONDS_BETWEEN: Final = 0.3
_SHOWN_EVIDENCE: Final = 4


@dataclass(frozen=True)
class StoreChoice:
    """What can be looked at: one store, or all of Ollama's together."""

    title: str
    root: Path | None
    """None for all places where Ollama keeps models on this machine."""
    is_default: bool = False
    """Whether commands find it without `--store`."""
    is_demo: bool = False


@dataclass(frozen=True)
class StoreContent:
    """What a store holds as far as it is read, or why that cannot be said."""

    choice: StoreChoice
    models: tuple[StoredModel, ...] = ()
    total: int = 0
    """How many models there will be."""
    listed: tuple[ListedModel, ...] = ()
    """The same models with their bases, once all are read."""
    places: tuple[Path, ...] = ()
    """The stores that were read."""
    notes: tuple[LlamaForgeError, ...] = field(default_factory=tuple)
    """What could not be looked at besides."""
    error: LlamaForgeError | None = None


def store_choices(root: Path | None) -> tuple[StoreChoice, ...]:
    """Return the stores to switch between: the one that was named or Ollama's, and the demo's."""
    demo = StoreChoice("Built-in demo store", paths.embedded_store(), is_demo=True)
    if root is None:
        return StoreChoice("Ollama's models", None, is_default=True), demo
    if root.absolute() == paths.embedded_store().absolute():
        return (demo,)
    return StoreChoice("Store", root), demo


def read_store(choice: StoreChoice) -> Iterator[StoreContent]:
    """Yield what the store holds, more and more of it; it may wait for the disk.

    The last one is whole, and its models come with their bases.
    """
    notes: list[LlamaForgeError] = []
    try:
        inventory = Inventory.open(() if choice.root is None else (choice.root,))
        notes += inventory.problems
        total = len(inventory.names)
        places = tuple(store.root for store in inventory.stores)
        models: list[StoredModel] = []
        shown_at = time.monotonic()
        for model in inventory.models():
            models.append(model)
            if len(models) == _FIRST_MODELS or time.monotonic() - shown_at > _SECONDS_BETWEEN:
                shown_at = time.monotonic()
                yield StoreContent(choice, tuple(models), total, places=places)
        yield StoreContent(choice, tuple(models), len(models), places=places, notes=tuple(notes))
        listed = _with_bases(inventory, models, notes)
        yield StoreContent(choice, tuple(models), len(models), listed, places, tuple(notes))
    except LlamaForgeError as error:
        yield StoreContent(choice, error=error)


def _with_bases(
    inventory: Inventory, models: list[StoredModel], notes: list[LlamaForgeError]
) -> tuple[ListedModel, ...]:
    try:
        lister = Lister(names_by_blob=inventory.names_by_blob())
        return tuple(map(lister.join, models))
    except LlamaForgeError as error:
        notes.append(error)
        return ()


def status_text(model: StoredModel) -> str:
    """Return a model's status as a mark and a word."""
    if any(adapter.is_own for adapter in model.adapters):
        return "◆ tuned here"
    return " ".join(STATUS_WORDS[model.status])


def place_words(content: StoreContent) -> str:
    """Return where the models lie."""
    if content.choice.is_demo:
        return ""
    if len(content.places) == 1:
        return short_path(content.places[0])
    return f"{len(content.places)} stores" if content.places else ""


def short_path(path: Path) -> str:
    """Return a path with the person's own folder as `~`, safe to print."""
    try:
        return safe_line(str(Path("~") / path.relative_to(Path.home())))
    except (ValueError, RuntimeError):
        return safe_line(str(path))


def detail_lines(
    model: StoredModel, listed: ListedModel | None, content: StoreContent, width: int
) -> list[Content]:
    """Return everything that matters of one model; why it cannot be trained comes first."""
    lines = Content.styled(safe_line(model.name, limit=200), "bold $primary").wrap(width)
    if model.problem is None:
        mark = Content.styled("✓", "bold $text-success")
        lines += hanging(mark, Content("Ready to train: press Enter."), indent=2, width=width)
    else:
        mark = Content.styled(STATUS_WORDS[model.status][0], "bold $text-error")
        why = f"Cannot be trained: {safe_line(model.problem.reason, limit=400)}."
        lines += hanging(mark, Content(why), indent=2, width=width)
        hint = Content.styled(safe_line(model.problem.hint, limit=400), MUTED)
        lines += hanging(Content(""), hint, indent=2, width=width)
    lines += [Content(""), *facts(_facts(model, content), width)]
    if listed is not None:
        lines += [Content(""), *facts(_base_facts(listed), width)]
    if content.listed:
        total = (
            f"{plural(len(content.models), 'model')}, "
            f"{size_words(disk_bytes(content.models))} on disk"
        )
        lines += [Content(""), *Content.styled(total, MUTED).wrap(width)]
    return lines


def _base_facts(listed: ListedModel) -> list[tuple[str, str]]:
    base, cache = listed.base, listed.cache
    if base.repo is None:
        found = [("made from", "not known")]
    else:
        words = {"complete": "complete here", "partial": "partly here", "absent": "not here"}
        size = f", {size_words(cache.bytes)}" if cache.bytes else ""
        found = [
            ("made from", f"{safe_line(base.repo, limit=120)} ({base.confidence})"),
            ("on the Hub", words[cache.state] + size),
        ]
    because = [safe_line(piece, limit=200) for piece in base.evidence[:_SHOWN_EVIDENCE]]
    return found + [
        ("because" if not number else "", piece) for number, piece in enumerate(because)
    ]


def _facts(model: StoredModel, content: StoreContent) -> list[tuple[str, str]]:
    digest = f"sha256:{short_digest(model.blob_digest)}…" if model.blob_digest else ""
    return [
        ("architecture", safe_line(model.architecture, limit=60)),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else ""),
        ("quantisation", safe_line(model.quantization, limit=40)),
        ("context", f"{model.context_length:,} tokens" if model.context_length else ""),
        ("capabilities", safe_line(", ".join(model.capabilities), limit=120)),
        ("license", safe_line(", ".join(model.license_names), limit=80)),
        ("tuned", _adapter_words(model)),
        ("blob", short_path(model.blob) if model.blob else ""),
        ("digest", digest),
        ("store", _stores_of(model) if len(content.places) > 1 else ""),
        ("server", safe_line(model.server, limit=80)),
        ("modified", f"{model.modified:%Y-%m-%d}" if model.modified else ""),
    ]


def _adapter_words(model: StoredModel) -> str:
    own = [adapter for adapter in model.adapters if adapter.is_own]
    if own:
        return f"by the run {safe_line(own[0].name, limit=64)}"
    return (
        f"{plural(len(model.adapters), 'adapter')} on top of the weights" if model.adapters else ""
    )


def _stores_of(model: StoredModel) -> str:
    return ", ".join(short_path(store) for store in (model.store, *model.other_stores) if store)


def row_cells(model: StoredModel, name_width: int) -> tuple[str, ...]:
    """Return a model's row: name, parameters, quantisation, size, context, status."""
    return (
        _end_of(safe_line(model.name), name_width) or "–",
        count_words(model.parameter_count) if model.parameter_count else "–",
        safe_line(model.quantization, limit=7) or "–",
        size_words(model.size_bytes) if model.size_bytes else "–",
        f"{model.context_length:,}" if model.context_length else "–",
        status_text(model),
    )


def _end_of(name: str, width: int) -> str:
    """Return a name's last `width` characters: models of one place differ at their ends."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def train_commands(model: StoredModel, choice: StoreChoice) -> tuple[tuple[str, str], ...]:
    """Return what to type in a shell to train the model, each with a sentence."""
    which = f"--model {shlex.quote(model.name)}"
    if choice.root is not None:
        which += f" --store {shlex.quote(str(choice.root))}"
    commands = [
        (
            "Type this in a shell; YOUR-ROWS.jsonl stands for your own file of examples:",
            f"llamaforge train {which} --data YOUR-ROWS.jsonl",
        ),
        (
            "To check model, rows and settings first, and start nothing:",
            f"llamaforge train {which} --data YOUR-ROWS.jsonl --dry-run",
        ),
    ]
    if choice.is_demo:
        commands.insert(
            0, ("To train this model on the rows that come with it, type:", "llamaforge demo")
        )
    return tuple(commands)
