"""From a manifest's place to a `StoredModel`: what can be read is read, what cannot is said."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.blob import BlobFacts, read_facts
from llamaforge.catalog.blobs import Blobs, short_digest
from llamaforge.catalog.bounded import file_inside, whole_text
from llamaforge.catalog.index import FactsIndex
from llamaforge.catalog.licenses import license_names
from llamaforge.catalog.manifest import Layer, Manifest, read_manifest
from llamaforge.catalog.model import (
    Problem,
    StoredAdapter,
    StoredModel,
    StoredPart,
    problem_of,
)
from llamaforge.catalog.names import ModelName
from llamaforge.catalog.texts import TextReader, Texts
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.gguf.header import read_header
from llamaforge.gguf.model_file import SPLIT_NUMBER, split_count

_TEMPLATE_SIGNS: Final = ((".Tools", "tools"), (".Suffix", "insert"), (".Thinking", "thinking"))
_PASSING: Final = frozenset({"unreadable", "changed_gguf", "not_found"})
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999, the last that a datetime can hold


@dataclass
class _Weights:
    """What became of the layers that hold weights."""

    blob: Path | None = None
    digest: str = ""
    further: tuple[StoredPart, ...] = ()
    adapters: tuple[StoredAdapter, ...] = ()
    projectors: tuple[Path, ...] = ()
    drafts: tuple[Path, ...] = ()
    facts: BlobFacts | None = None


class Loader:
    """Loads the models of one store; a blob that several models share is looked into once.

    With an index, what earlier loaders have read of a blob is not read again.
    """

    def __init__(self, root: Path, manifests: Path, blobs: Blobs, index: FactsIndex | None) -> None:
        self._root = root
        self._manifests = manifests
        self._blobs = blobs
        self._index = index
        self._facts: dict[str, BlobFacts | LlamaForgeError] = {}
        self._texts = TextReader(blobs)

    def load(self, name: ModelName, path: Path) -> StoredModel:
        """Return the model `name`, whose manifest is at `path`; a bad one has a `problem`."""
        bare = StoredModel(name.short, name.full, manifest=path, store=self._root)
        try:
            real = file_inside(self._manifests, path, "the manifest")
            manifest = read_manifest(real)
        except LlamaForgeError as error:
            return replace(bare, problem=problem_of(error))
        problems: list[Problem] = []
        config: dict[str, Any] = {}
        texts, weights = Texts(), _Weights()
        try:
            config = self._texts.config(manifest.config)
        except LlamaForgeError as error:
            problems.append(problem_of(error))
        try:
            self._read_weights(manifest, config, weights)
        except LlamaForgeError as error:
            problems.insert(0, problem_of(error))  # what is wrong with the weights matters most
        try:
            self._texts.fill(texts, manifest.layers)
        except LlamaForgeError as error:
            problems.append(problem_of(error))
        return replace(
            _with_facts(bare, weights.facts, config),
            digest=manifest.digest,
            modified=_modified(real),
            layers=manifest.layers,
            config_layer=manifest.config,
            size_bytes=manifest.size_bytes,
            blob=weights.blob,
            blob_digest=weights.digest,
            further=weights.further,
            adapters=weights.adapters,
            projectors=weights.projectors,
            drafts=weights.drafts,
            template=texts.template,
            system=texts.system,
            parameters=texts.parameters,
            messages=texts.messages,
            licenses=texts.licenses,
            license_names=license_names(texts.licenses, _claimed_license(weights.facts)),
            config=config,
            capabilities=_capabilities(weights, config, texts.template or ""),
            problem=problems[0] if problems else None,
        )

    def _read_weights(self, manifest: Manifest, config: dict[str, Any], found: _Weights) -> None:
        """Fill `found`, and raise for the first thing that stands in training's way.

        Raises:
            LlamaForgeError: its code says what it is.
        """
        layers = _model_layers(manifest, config)
        layer = layers[0]
        found.digest = layer.digest
        paths = [self._blobs.of_layer(item, "the model blob") for item in layers]
        if len(layers) == 1:
            found.facts = self._look_into(paths[0], layer.digest)
            found.blob = paths[0]
        else:
            first, *further = _in_order(layers, paths)
            found.digest = first.digest
            found.facts = _facts_of_parts([first, *further])
            found.blob, found.further = first.path, tuple(further)
        for extra in manifest.layers:
            if extra.kind == "adapter":
                found.adapters += (self._adapter(extra),)
            elif extra.kind == "projector":
                found.projectors += (self._blobs.of_layer(extra, "the projector blob"),)
            elif extra.kind == "draft":
                found.drafts += (self._blobs.of_layer(extra, "the draft model's blob"),)
        if found.facts.untrainable is not None:
            raise found.facts.untrainable
        if found.adapters:
            raise _adapted(layer, found.adapters[0])

    def _adapter(self, layer: Layer) -> StoredAdapter:
        path = self._blobs.of_layer(layer, "the adapter blob")
        try:
            details = self._look_into(path, layer.digest).details
        except LlamaForgeError:
            details = {}  # safetensors, or damaged; what lies below it may be sound
        return StoredAdapter(
            path=path,
            digest=layer.digest,
            name=str(details.get("general.name", "")),
            base_digest=str(details.get("llamaforge.base.digest", "")).removeprefix("sha256:"),
            made_by=str(details.get("general.generated_by", "")),
        )

    def _look_into(self, path: Path, digest: str) -> BlobFacts:
        if digest not in self._facts:
            self._facts[digest] = self._kept(path, digest)
        known = self._facts[digest]
        if isinstance(known, LlamaForgeError):
            raise known
        return known

    def _kept(self, path: Path, digest: str) -> BlobFacts | LlamaForgeError:
        """Return what the index has of a blob, else read the blob and tell the index."""
        try:
            about = path.stat()
        except OSError:
            return _read(path, digest)
        key = digest, about.st_size, about.st_mtime_ns
        known = self._index.get(*key) if self._index else None
        if known is None:
            known = _read(path, digest)
            # Whether a file can be read may change at any time; what is in it does not.
            if self._index and getattr(known, "code", "") not in _PASSING:
                self._index.put(*key, known)
        return known


def _read(path: Path, digest: str) -> BlobFacts | LlamaForgeError:
    try:
        facts = read_facts(path)
    except LlamaForgeError as error:
        return _renamed(error, path, digest)
    return replace(
        facts, untrainable=facts.untrainable and _renamed(facts.untrainable, path, digest)
    )


def _renamed(error: LlamaForgeError, path: Path, digest: str) -> RefusedError:
    """Return `error` with the blob named as a person knows it, not by its long file name."""
    shown = f"the model blob {short_digest(digest)}"
    message = error.message.replace(f"The file {path}", shown).replace(path.name, shown)
    return RefusedError(message, error.hint, code=error.code)


def _in_order(layers: Sequence[Layer], paths: Sequence[Path]) -> list[StoredPart]:
    """Return the files of a model that is split as its parts, the first one first.

    Raises:
        LlamaForgeError: they are no parts of one model (`several_models`), or damaged.
    """
    places: dict[int, StoredPart] = {}
    for layer, path in zip(layers, paths, strict=True):
        try:
            header = read_header(path)
            count = split_count(header)
        except LlamaForgeError as error:
            raise _renamed(error, path, layer.digest) from error
        number = header.get(SPLIT_NUMBER)
        if count == len(layers) and isinstance(number, int):
            places[number] = StoredPart(path, layer.digest)
    if sorted(places) != list(range(len(layers))):
        raise LlamaForgeError(
            f"it is made of {len(layers)} model files that are not the parts of one.",
            "Choose a model with a single GGUF file.",
            code="several_models",
        )
    return [places[number] for number in range(len(layers))]


def _facts_of_parts(parts: Sequence[StoredPart]) -> BlobFacts:
    """Return the facts of a model that is split; the index keeps those of single files only.

    Raises:
        LlamaForgeError: the parts do not fit each other.
    """
    first = parts[0]
    try:
        facts = read_facts(first.path, [part.path for part in parts])
    except LlamaForgeError as error:
        for part in parts:
            error = _renamed(error, part.path, part.digest)
        raise error from None
    why = facts.untrainable and _renamed(facts.untrainable, first.path, first.digest)
    return replace(facts, untrainable=why)


def _model_layers(manifest: Manifest, config: dict[str, Any]) -> list[Layer]:
    """Return the layers that hold the GGUF file, or its parts.

    Raises:
        LlamaForgeError: there is none; the code says why.
    """
    if config.get("remote_host") or config.get("remote_model"):
        raise LlamaForgeError(
            "it runs on another machine, and the store has no weights of it.",
            "Pull a model that runs on this machine, such as: ollama pull qwen2.5:3b",
            code="remote",
        )
    found = {layer.digest: layer for layer in manifest.layers if layer.kind == "model"}
    if found:
        return list(found.values())
    if "image" in config.get("capabilities", ()):
        raise LlamaForgeError(
            "it makes pictures, not text.",
            "Choose a model that answers with text.",
            code="image_model",
        )
    if any(layer.kind == "tensor" for layer in manifest.layers):
        raise LlamaForgeError(
            "it is kept as safetensors, without a GGUF file.",
            "Pull a tag of the model in GGUF format, or create one with ollama create --quantize.",
            code="safetensors",
        )
    raise LlamaForgeError(
        "its manifest names no model layer.",
        "Pull the model again, or choose another one.",
        code="no_model_layer",
    )


def _adapted(weights: Layer, adapter: StoredAdapter) -> RefusedError:
    """Return why a model with an adapter is not trained: that would begin without the adapter."""
    made = f"the result of the run {adapter.name}" if adapter.is_own else "a base with an adapter"
    named = f", {whole_text(weights.from_)[:80]}" if weights.from_ else ""
    return RefusedError(
        f"it is {made}: training would begin from the weights below, without the adapter.",
        f"Train the model that it was made FROM{named}, or make one model of both and train that.",
        code="has_adapter",
    )


def _with_facts(model: StoredModel, facts: BlobFacts | None, config: dict[str, Any]) -> StoredModel:
    """Return `model` with what the GGUF header says, and else what the config layer claims."""
    known: dict[str, Any] = {
        "architecture": config.get("model_family"),
        "quantization": config.get("file_type"),
        "context_length": config.get("context_length"),
    }
    sources = {key: "config layer" for key, value in known.items() if value}
    if facts is not None:
        known |= {
            "architecture": facts.architecture or known["architecture"],
            "parameter_count": facts.parameter_count,
            "quantization": facts.quantization or known["quantization"],
            "context_length": facts.context_length or known["context_length"],
            "vocab_size": facts.vocab_size,
            "tensor_types": facts.tensor_types,
        }
        sources |= {key: "GGUF header" for key in known if getattr(facts, key)}
        known["details"] = facts.details
    given = {key: value for key, value in known.items() if value}
    return replace(model, sources=sources, **given)


def _capabilities(weights: _Weights, config: dict[str, Any], template: str) -> tuple[str, ...]:
    """Return what the model can do, in Ollama's words.

    Source: `Model.Capabilities` in `server/images.go` of Ollama, as far as a store tells it: what
    its built-in parsers can do is known to the server alone.
    """
    found: list[str] = list(config.get("capabilities", []))
    facts = weights.facts
    found += facts.abilities if facts else ()
    found += ["vision"] if weights.projectors else []
    from_go = [word for sign, word in _TEMPLATE_SIGNS if sign in template]
    from_jinja = facts.template_abilities if facts else ()
    # Ollama takes the GGUF's Jinja where the layer's template can do less, or is not there.
    found += from_jinja if len(from_jinja) > len(from_go) else from_go
    found += ["thinking"] if config.get("model_family") in {"gptoss", "gpt-oss"} else []
    return tuple(dict.fromkeys(found))


def _claimed_license(facts: BlobFacts | None) -> object:
    return facts.details.get("general.license") if facts else None


def _modified(path: Path) -> datetime:
    try:
        seconds = path.stat().st_mtime
    except OSError:  # removed since it was read
        seconds = 0.0
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


def bad_entry(shown: str, path: Path, store: Path, error: LlamaForgeError) -> StoredModel:
    """Return an entry that says only why nothing can be said of what lies at `path`."""
    return StoredModel(shown, shown, manifest=path, store=store, problem=problem_of(error))
