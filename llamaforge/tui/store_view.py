"""The models of a store as a screen shows them: words, marks and the command to train one."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from textual.content import Content

from llamaforge import paths
from llamaforge.catalog.blobs import short_digest
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.catalog.store import Store
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, facts, hanging
from llamaforge.words import count_words, size_words

STATUS_WORDS: Final = {
    ModelStatus.READY: ("✓", "ready"),
    ModelStatus.PARTIAL: ("…", "incomplete"),
    ModelStatus.MISSING_BLOB: ("✗", "file missing"),
    ModelStatus.REMOTE: ("–", "remote"),
    ModelStatus.UNSUPPORTED: ("–", "unsupported"),
    ModelStatus.BROKEN: ("✗", "damaged"),
}


@dataclass(frozen=True)
class StoreChoice:
    """A store that can be looked at."""

    title: str
    root: Path
    is_default: bool = False
    """Whether commands find it without `--store`."""
    is_demo: bool = False


@dataclass(frozen=True)
class StoreContent:
    """What a store holds, or why that cannot be said."""

    choice: StoreChoice
    models: tuple[StoredModel, ...] = ()
    error: LlamaForgeError | None = None


def store_choices(root: Path | None) -> tuple[StoreChoice, ...]:
    """Return the stores to switch between: the one that was named or Ollama's, and the demo's."""
    demo = StoreChoice("Built-in demo store", paths.embedded_store(), is_demo=True)
    if root is None:
        return StoreChoice("Ollama's store", paths.default_store(), is_default=True), demo
    if root.absolute() == demo.root.absolute():
        return (demo,)
    return StoreChoice("Store", root), demo


def read_store(choice: StoreChoice) -> StoreContent:
    """Return what the store holds; it may wait for the disk."""
    try:
        return StoreContent(choice, tuple(Store.open(choice.root).models()))
    except LlamaForgeError as error:
        return StoreContent(choice, error=error)


def status_text(status: ModelStatus) -> str:
    """Return a model's status as a mark and a word."""
    return " ".join(STATUS_WORDS[status])


def short_path(path: Path) -> str:
    """Return a path with the person's own folder as `~`, safe to print."""
    try:
        return safe_line(str(Path("~") / path.relative_to(Path.home())))
    except (ValueError, RuntimeError):
        return safe_line(str(path))


def detail_lines(model: StoredModel, width: int) -> list[Content]:
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
    return [*lines, Content(""), *facts(_facts(model), width)]


def _facts(model: StoredModel) -> list[tuple[str, str]]:
    digest = f"sha256:{short_digest(model.blob_digest)}…" if model.blob_digest else ""
    return [
        ("architecture", safe_line(model.architecture, limit=60)),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else ""),
        ("quantisation", safe_line(model.quantization, limit=40)),
        ("context", f"{model.context_length:,} tokens" if model.context_length else ""),
        ("capabilities", safe_line(", ".join(model.capabilities), limit=120)),
        ("adapters", f"{len(model.adapters)} on top of the weights" if model.adapters else ""),
        ("blob", short_path(model.blob) if model.blob else ""),
        ("digest", digest),
        ("modified", f"{model.modified:%Y-%m-%d}" if model.modified else ""),
    ]


def row_cells(model: StoredModel, name_width: int) -> tuple[str, ...]:
    """Return a model's row: name, parameters, quantisation, size, context, status."""
    return (
        _end_of(safe_line(model.name), name_width) or "–",
        count_words(model.parameter_count) if model.parameter_count else "–",
        safe_line(model.quantization, limit=7) or "–",
        size_words(model.size_bytes) if model.size_bytes else "–",
        f"{model.context_length:,}" if model.context_length else "–",
        status_text(model.status),
    )


def _end_of(name: str, width: int) -> str:
    """Return a name's last `width` characters: models of one place differ at their ends."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def train_commands(model: StoredModel, choice: StoreChoice) -> tuple[tuple[str, str], ...]:
    """Return what to type in a shell to train the model, each with a sentence."""
    which = f"--model {shlex.quote(model.name)}"
    if not choice.is_default:
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
