"""`llamaforge models`: what the stores have, and what of it can be trained."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge.catalog.inventory import Inventory, disk_bytes
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.cli.options import add_json, add_stores
from llamaforge.cli.output import console, narrate, narrate_error, print_json, print_text
from llamaforge.cli.rows import Column, RowPrinter
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.words import count_words, plural, size_words

if TYPE_CHECKING:
    from llamaforge.catalog.listing import ListedModel, Lister

_WIDE: Final = 120
"""From this many columns on there is room for the base."""
_LEAST_NAME: Final = 16
_NAMED: Final = 8
"""Models that are named where one reason concerns many."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "models",
        help="list the models of the store",
        description="List the models of Ollama's stores, and say which can be trained.",
    )
    add_stores(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the list of models.

    Raises:
        NotFoundError: there is no store, or it cannot be read.
    """
    inventory = open_inventory(arguments.stores)
    if arguments.json:
        lister = make_lister(inventory)
        print_json([model_json(lister.join(model)) for model in inventory.models()])
    elif inventory.names:
        _print_table(inventory)
    else:
        narrate(
            f"The store at {inventory.places} has no models yet. Pull one with: "
            "ollama pull qwen2.5:3b, or train the built-in one with: llamaforge demo"
        )
    return ExitCode.DONE


def open_inventory(chosen: Iterable[Path]) -> Inventory:
    """Return the models of the stores that were chosen, else of all that Ollama has.

    What could not be looked at is said on standard error.

    Raises:
        NotFoundError: there is none, or it cannot be read.
    """
    inventory = Inventory.open(tuple(chosen))
    for problem in inventory.problems:
        narrate_error(problem, kind="note")
    return inventory


def make_lister(inventory: Inventory) -> "Lister":
    """Return what finds the models' bases; a user's map that is not sound is said and left out."""
    from llamaforge.catalog.base_map import load_base_map
    from llamaforge.catalog.listing import Lister

    names = inventory.names_by_blob()
    try:
        return Lister(names_by_blob=names)
    except LlamaForgeError as error:
        narrate_error(error, kind="note")
        return Lister(load_base_map(own=False), names)


def model_json(listed: "ListedModel") -> dict[str, Any]:
    """Return a model as scripts get it; what is not known is null."""
    model, base, cache = listed.model, listed.base, listed.cache
    stores = [store for store in (model.store, *model.other_stores) if store]
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
        "further_parts": [str(part.path) for part in model.further],
        "blob_digest": model.blob_digest or None,
        "stores": [str(store) for store in stores],
        "server": model.server or None,
        "adapters": [
            {
                "path": str(adapter.path),
                "digest": adapter.digest,
                "run": adapter.name if adapter.is_own else None,
                "base_digest": adapter.base_digest or None,
                "made_by": adapter.made_by or None,
            }
            for adapter in model.adapters
        ],
        "capabilities": list(model.capabilities),
        "license": list(model.license_names),
        "status": model.status.value,
        "reason": model.reason,
        "base": {
            "repo": base.repo,
            "confidence": base.confidence,
            "evidence": list(base.evidence),
        },
        "cache": {
            "state": cache.state,
            "bytes": cache.bytes,
            "missing_bytes": cache.missing_bytes,
            "missing": list(cache.missing),
            "revision": cache.revision,
        },
        "trainable": {
            "gguf": listed.trainable.gguf,
            "hub": listed.trainable.hub,
            "reason": listed.trainable.reason,
            "hub_reason": listed.trainable.hub_reason,
        },
    }


def status_words(model: StoredModel) -> str:
    """Return a model's status as people read it; what this program made is not unsupported."""
    if any(adapter.is_own for adapter in model.adapters):
        return "tuned here"
    return model.status.value.replace("_", " ")


def _print_table(inventory: Inventory) -> None:
    """Print each row as soon as its model is read, then why some cannot be trained."""
    width = console().width
    several = len(inventory.stores) > 1
    lister = make_lister(inventory) if width >= _WIDE else None
    columns = [
        Column("PARAMS", 6, right=True),
        Column("QUANT", 8),
        Column("SIZE", 7, right=True),
        Column("CONTEXT", 9, right=True),
        Column("STATUS", 12),
    ]
    columns += [Column("STORE", 5, right=True)] if several else []
    columns += [Column("BASE", 44)] if lister else []
    room = width - sum(column.width + 2 for column in columns)
    longest = max(len(safe_line(name)) for name in inventory.names)
    name = Column("NAME", max(min(room, longest), _LEAST_NAME))
    printer = RowPrinter([name, *columns])
    printer.head()
    seen: list[StoredModel] = []
    for model in inventory.models():
        cells = [
            model.name,
            count_words(model.parameter_count) if model.parameter_count else "",
            model.quantization,
            size_words(model.size_bytes) if model.size_bytes else "",
            f"{model.context_length:,}" if model.context_length else "",
            status_words(model),
        ]
        cells += [_store_number(inventory, model)] if several else []
        cells += [_base_words(lister.join(model))] if lister else []
        printer.row(cells)
        seen.append(model)
    sys.stdout.flush()
    _print_problems(seen)
    _say_total(inventory, seen)


def _print_problems(models: list[StoredModel]) -> None:
    """Print why some models cannot be trained, each reason once."""
    names: dict[str, list[str]] = {}
    for model in models:
        if model.problem is not None:
            names.setdefault(f"{model.reason}. {model.problem.hint}", []).append(model.name)
    for words, concerned in names.items():
        title = ", ".join(safe_line(name) for name in concerned[:_NAMED])
        more = len(concerned) - _NAMED
        title += f" and {more:,} more" if more > 0 else ""
        print_text("")
        console().print(f"{title}: {safe_line(words)}")


def _say_total(inventory: Inventory, models: list[StoredModel]) -> None:
    ready = sum(model.status is ModelStatus.READY for model in models)
    here = [model for model in models if model.store is not None]
    narrate("")
    narrate(
        f"{plural(len(models), 'model')}, {ready:,} ready to train; "
        f"{size_words(disk_bytes(here))} on disk, shared files counted once."
    )
    if len(inventory.stores) > 1:
        for number, store in enumerate(inventory.stores, 1):
            narrate(f"Store {number}: {safe_line(str(store.root))}")


def _store_number(inventory: Inventory, model: StoredModel) -> str:
    roots = [store.root for store in inventory.stores]
    mine = [root for root in (model.store, *model.other_stores) if root]
    return ",".join(str(roots.index(root) + 1) for root in mine)


def _base_words(listed: "ListedModel") -> str:
    base = listed.base
    if base.repo is None:
        return ""
    return base.repo if base.confidence == "certain" else f"{base.repo} ({base.confidence})"
