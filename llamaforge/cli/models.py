"""`llamaforge models`: what the store has, and what of it can be trained."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamaforge import paths
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.catalog.store import Store
from llamaforge.cli.options import add_json, add_store
from llamaforge.cli.output import console, narrate, print_json
from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.words import size_words


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "models",
        help="list the models of the store",
        description="List the models of an Ollama store, and say which can be trained.",
    )
    add_store(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the list of models.

    Raises:
        NotFoundError: there is no store, or it cannot be read.
    """
    store = open_store(arguments.store)
    models = store.models()
    if arguments.json:
        print_json([model_json(model) for model in models])
    elif models:
        _print_table(models)
    else:
        narrate(
            f"The store at {safe_line(str(store.root))} has no models yet. Pull one with: "
            "ollama pull qwen2.5:3b, or train the built-in one with: llamaforge demo"
        )
    return ExitCode.DONE


def open_store(chosen: Path | None) -> Store:
    """Return the store that was chosen, else Ollama's own.

    Raises:
        NotFoundError: there is none, or it cannot be read.
    """
    return Store.open(chosen or paths.default_store())


def model_json(model: StoredModel) -> dict[str, Any]:
    """Return a model as scripts get it; what is not known is null."""
    return {
        "name": model.name,
        "full_name": model.full_name,
        "digest": model.digest or None,
        "modified": model.modified.isoformat() if model.modified else None,
        "size_bytes": model.size_bytes,
        "architecture": model.architecture or None,
        "parameters": model.parameter_count or None,
        "quantization": model.quantization or None,
        "context_length": model.context_length or None,
        "vocab_size": model.vocab_size or None,
        "blob": str(model.blob) if model.blob else None,
        "blob_digest": model.blob_digest or None,
        "adapters": [str(path) for path in model.adapters],
        "capabilities": list(model.capabilities),
        "status": model.status.value,
        "reason": model.reason,
        "trainable": {
            "gguf": model.status is ModelStatus.READY,
            "hub": False,
            "reason": model.reason,
        },
    }


def status_words(status: ModelStatus) -> str:
    """Return a status as people read it."""
    return status.value.replace("_", " ")


def _print_table(models: Sequence[StoredModel]) -> None:
    from rich.table import Table
    from rich.text import Text

    def cell(value: str) -> Text:
        return Text(safe_line(value) or "–")

    table = Table(box=None, pad_edge=False)
    table.add_column("NAME", overflow="fold", ratio=1)
    table.add_column("ARCHITECTURE", overflow="fold", max_width=12)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("QUANT", overflow="fold", max_width=8)
    table.add_column("CONTEXT", justify="right", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    for model in models:
        table.add_row(
            cell(model.name),
            cell(model.architecture),
            cell(size_words(model.size_bytes)),
            cell(model.quantization),
            cell(f"{model.context_length:,}" if model.context_length else ""),
            cell(status_words(model.status)),
        )
    out = console()
    out.print(table)
    for model in models:
        if model.problem is not None:
            sentence = f"{model.name}: {model.reason}. {model.problem.hint}"
            out.print()
            out.print(Text(safe_line(sentence)))
