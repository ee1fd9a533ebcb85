"""`llamaforge show MODEL`: everything the store says about one model, and where it says it."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llamaforge import paths
from llamaforge.catalog.blobs import short_digest
from llamaforge.catalog.model import StoredAdapter
from llamaforge.cli.models import make_lister, model_json, open_inventory, status_words
from llamaforge.cli.options import add_json, add_stores
from llamaforge.cli.output import console, print_json
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.runs.directory import check_run_name
from llamaforge.safe_text import safe_line, safe_text
from llamaforge.words import count_words, size_words

if TYPE_CHECKING:
    from llamaforge.catalog.listing import ListedModel

_MANIFEST = "manifest"
_CONFIG = "config layer"
_HEADER = "GGUF header"
_SHOWN_MISSING = 3
_SHOWN_LAYERS = 40
_SHOWN_TEXT_CHARACTERS = 4_000

_Row = tuple[str, str, str]
"""A fact's name, its value, and where it was read."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the main parser."""
    parser = verbs.add_parser(
        "show",
        help="show everything known about a model",
        description="Show everything the store says about a model, and where each fact was read.",
    )
    parser.add_argument("model", metavar="MODEL", help="a name such as qwen2.5:3b")
    add_stores(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print what is known about the model.

    Raises:
        UsageError: the name is not a model's name.
        NotFoundError: there is no such store or model.
    """
    inventory = open_inventory(arguments.stores)
    listed = make_lister(inventory).join(inventory.find(arguments.model))
    if arguments.json:
        print_json(_json(listed))
    else:
        _print(listed)
    return ExitCode.DONE


def _json(listed: "ListedModel") -> dict[str, Any]:
    model = listed.model
    return model_json(listed) | {
        "code": model.problem.code if model.problem else None,
        "hint": model.problem.hint if model.problem else None,
        "manifest": str(model.manifest) if model.manifest else None,
        "layers": [
            {
                "kind": layer.kind,
                "media_type": layer.media_type,
                "digest": layer.digest,
                "size_bytes": layer.size,
                "from": layer.from_ or None,
                "name": layer.name or None,
            }
            for layer in model.layers
        ],
        "config": model.config,
        "gguf": model.details,
        "tensor_types": model.tensor_types,
        "sources": model.sources,
        "projectors": [str(path) for path in model.projectors],
        "drafts": [str(path) for path in model.drafts],
        "template": model.template,
        "system": model.system,
        "model_parameters": model.parameters,
        "messages": list(model.messages),
        "licenses": list(model.licenses),
    }


def _facts(listed: "ListedModel") -> Iterable[_Row]:
    """Yield what is known in the order in which it is read most."""
    model = listed.model
    source = model.sources.get
    yield "full name", model.full_name, _MANIFEST
    yield "digest", short_digest(model.digest), _MANIFEST
    if model.modified:
        yield "modified", model.modified.strftime("%Y-%m-%d %H:%M UTC"), _MANIFEST
    yield "size", size_words(model.size_bytes), _MANIFEST
    for store in (model.store, *model.other_stores):
        yield "store", str(store or ""), "place of the manifest"
    yield "server", model.server, "server"
    yield "blob", str(model.blob or ""), _MANIFEST
    yield from (("further part", str(part.path), _MANIFEST) for part in model.further)
    for adapter in model.adapters:
        yield "adapter", str(adapter.path), _MANIFEST
        yield "", _adapter_words(adapter), "adapter's header"
    for path in model.projectors:
        yield "projector", str(path), _MANIFEST
    for path in model.drafts:
        yield "draft model", str(path), _MANIFEST
    yield "license", ", ".join(model.license_names), "license layer" if model.licenses else _HEADER
    yield "architecture", model.architecture, source("architecture", "")
    if model.parameter_count:
        exact = f"{count_words(model.parameter_count)} ({model.parameter_count:,})"
        yield "parameters", exact, source("parameter_count", "")
    yield "quantization", model.quantization, source("quantization", "")
    kinds = ", ".join(f"{count} {kind}" for kind, count in model.tensor_types.items())
    yield "tensors", kinds, _HEADER
    if model.context_length:
        yield "context length", f"{model.context_length:,} tokens", source("context_length", "")
    if model.vocab_size:
        yield "vocabulary", f"{model.vocab_size:,} tokens", source("vocab_size", "")
    for key, value in model.details.items():
        yield key, str(value), _HEADER
    for key, value in model.config.items():
        yield key, ", ".join(value) if isinstance(value, list) else str(value), _CONFIG
    for key, value in model.parameters.items():
        yield f"PARAMETER {key}", json.dumps(value, ensure_ascii=False), "params layer"
    yield "capabilities", ", ".join(model.capabilities), "layers and header"


def _adapter_words(adapter: StoredAdapter) -> str:
    if not adapter.is_own:
        return f"named {adapter.name}" if adapter.name else ""
    known = (paths.runs_folder() / adapter.name).is_dir() if _is_run_name(adapter.name) else False
    where = "which is on this machine" if known else "which is not on this machine"
    return (
        f"trained by {adapter.made_by or 'LlamaForge'} in the run {adapter.name}, {where}, on the "
        f"blob {short_digest(adapter.base_digest)}"
    )


def _is_run_name(name: str) -> bool:
    try:
        check_run_name(name)
    except LlamaForgeError:
        return False
    return True


def _base_rows(listed: "ListedModel") -> Iterable[_Row]:
    """Yield what is known of the base, every piece of evidence in a line of its own."""
    base, cache = listed.base, listed.cache
    yield "base", base.repo or "unknown", ""
    yield "confidence", base.confidence, ""
    for piece in base.evidence:
        yield "because", piece, ""
    if base.repo is None:
        return
    words = {"complete": "complete", "partial": "in part", "absent": "not downloaded"}
    held = f"{words[cache.state]}, {size_words(cache.bytes)}" if cache.bytes else words[cache.state]
    if cache.missing:
        held += f"; missing: {', '.join(cache.missing[:_SHOWN_MISSING])}"
        held += " …" if len(cache.missing) > _SHOWN_MISSING else ""
    if cache.missing_bytes:
        held += f" ({size_words(cache.missing_bytes)})"
    yield "in Hub cache", held, ""
    ways = listed.trainable
    yield "--from hub", "can be trained" if ways.hub else ways.hub_reason, ""


def _print(listed: "ListedModel") -> None:
    from rich.table import Table
    from rich.text import Text

    model = listed.model
    out = console()
    out.print(Text(safe_line(f"{model.name}: {status_words(model)}"), style="bold"))
    if model.problem is not None:
        out.print(Text(safe_line(f"{model.reason}. {model.problem.hint}")))
    out.print()

    facts = Table(box=None, pad_edge=False)
    facts.add_column("FACT", overflow="fold", max_width=26)
    facts.add_column("VALUE", overflow="fold", ratio=1)
    facts.add_column("READ FROM", no_wrap=True)
    for name, value, source in _facts(listed):
        if value:
            cells = (safe_line(name), safe_line(value, limit=1_000), source)
            facts.add_row(*(Text(cell) for cell in cells))
    out.print(facts)

    bases = Table(box=None, pad_edge=False, show_header=False)
    bases.add_column("FACT", no_wrap=True)
    bases.add_column("VALUE", overflow="fold", ratio=1)
    for name, value, _ in _base_rows(listed):
        bases.add_row(Text(name), Text(safe_line(value, limit=1_000)))
    out.print()
    out.print(Text("HUGGING FACE BASE", style="bold"))
    out.print(bases)

    if model.layers:
        layers = Table(box=None, pad_edge=False)
        layers.add_column("LAYER", overflow="fold", ratio=1)
        layers.add_column("DIGEST", no_wrap=True)
        layers.add_column("SIZE", justify="right", no_wrap=True)
        for layer in model.layers[:_SHOWN_LAYERS]:
            title = " ".join(part for part in (layer.kind, layer.name, layer.from_) if part)
            cells = (safe_line(title), short_digest(layer.digest), size_words(layer.size))
            layers.add_row(*(Text(cell) for cell in cells))
        out.print()
        out.print(layers)
        if len(model.layers) > _SHOWN_LAYERS:
            out.print(Text(f"… and {len(model.layers) - _SHOWN_LAYERS} more; see --json"))

    texts = [("TEMPLATE", model.template), ("SYSTEM", model.system)]
    texts += [(f"MESSAGE {turn['role']}", turn["content"]) for turn in model.messages]
    texts += [("LICENSE", text.strip().partition("\n")[0]) for text in model.licenses]
    for title, text in texts:
        if text:
            out.print()
            out.print(Text(safe_line(title), style="bold"))
            out.print(Text(safe_text(text.rstrip(), limit=_SHOWN_TEXT_CHARACTERS)))
