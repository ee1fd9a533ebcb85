"""From a manifest's place to a `StoredModel`: what can be read is read, what cannot is said."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.blob import BlobFacts, read_facts
from llamaforge.catalog.blobs import Blobs, short_digest
from llamaforge.catalog.bounded import file_inside
from llamaforge.catalog.manifest import Layer, Manifest, read_manifest
from llamaforge.catalog.model import Problem, StoredModel, problem_of
from llamaforge.catalog.names import ModelName
from llamaforge.catalog.texts import Texts, read_config, read_texts
from llamaforge.errors import LlamaForgeError, RefusedError

_LAST_SECOND: Final = 253_402_300_799  # of the year 9999, the last that a datetime can hold


@dataclass
class _Weights:
    """What became of the layers that hold weights."""

    blob: Path | None = None
    digest: str = ""
    adapters: tuple[Path, ...] = ()
    projectors: tuple[Path, ...] = ()
    facts: BlobFacts | None = None


class Loader:
    """Loads the models of one store; a blob that several models share is looked into once."""

    def __init__(self, manifests: Path, blobs: Blobs) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._facts: dict[str, BlobFacts | LlamaForgeError] = {}

    def load(self, name: ModelName, path: Path) -> StoredModel:
        """Return the model `name`, whose manifest is at `path`; a bad one has a `problem`."""
        bare = StoredModel(name=name.short, full_name=name.full, manifest=path)
        try:
            real = file_inside(self._manifests, path, "the manifest")
            manifest = read_manifest(real)
        except LlamaForgeError as error:
            return replace(bare, problem=problem_of(error))
        problems: list[Problem] = []
        config: dict[str, Any] = {}
        texts, weights = Texts(), _Weights()
        try:
            config = read_config(self._blobs, manifest.config)
        except LlamaForgeError as error:
            problems.append(problem_of(error))
        try:
            self._read_weights(manifest, config, weights)
        except LlamaForgeError as error:
            problems.insert(0, problem_of(error))  # what is wrong with the weights matters most
        try:
            read_texts(self._blobs, manifest.layers, texts)
        except LlamaForgeError as error:
            problems.append(problem_of(error))
        return replace(
            _with_facts(bare, weights.facts, config),
            digest=manifest.digest,
            modified=_modified(real),
            layers=manifest.layers,
            size_bytes=sum(layer.size for layer in manifest.layers),
            blob=weights.blob,
            blob_digest=weights.digest,
            adapters=weights.adapters,
            projectors=weights.projectors,
            template=texts.template,
            system=texts.system,
            parameters=texts.parameters,
            messages=texts.messages,
            licenses=texts.licenses,
            config=config,
            capabilities=_capabilities(weights, config, texts.template or ""),
            problem=problems[0] if problems else None,
        )

    def _read_weights(self, manifest: Manifest, config: dict[str, Any], found: _Weights) -> None:
        """Fill `found`, and raise for the first thing that stands in training's way.

        Raises:
            LlamaForgeError: its code says what it is.
        """
        layer = _model_layer(manifest, config)
        found.digest = layer.digest
        path = self._blobs.of_layer(layer, "the model blob")
        found.facts = self._look_into(path, layer.digest)
        found.blob = path
        for extra in manifest.layers:
            if extra.kind == "adapter":
                found.adapters += (self._blobs.of_layer(extra, "the adapter blob"),)
            elif extra.kind == "projector":
                found.projectors += (self._blobs.of_layer(extra, "the projector blob"),)
        if found.facts.untrainable is not None:
            raise found.facts.untrainable

    def _look_into(self, path: Path, digest: str) -> BlobFacts:
        if digest not in self._facts:
            try:
                facts = read_facts(path)
                untrainable = facts.untrainable and _renamed(facts.untrainable, path, digest)
                self._facts[digest] = replace(facts, untrainable=untrainable)
            except LlamaForgeError as error:
                self._facts[digest] = _renamed(error, path, digest)
        known = self._facts[digest]
        if isinstance(known, LlamaForgeError):
            raise known
        return known


def _renamed(error: LlamaForgeError, path: Path, digest: str) -> RefusedError:
    """Return `error` with the blob named as a person knows it, not by its long file name."""
    shown = f"the model blob {short_digest(digest)}"
    message = error.message.replace(f"The file {path}", shown).replace(path.name, shown)
    return RefusedError(message, error.hint, code=error.code)


def _model_layer(manifest: Manifest, config: dict[str, Any]) -> Layer:
    """Return the layer that holds the GGUF file.

    Raises:
        LlamaForgeError: there is none, or more than one; the code says why.
    """
    if config.get("remote_host") or config.get("remote_model"):
        raise LlamaForgeError(
            "it runs on another machine, and the store has no weights of it.",
            "Pull a model that runs on this machine, such as: ollama pull qwen2.5:3b",
            code="remote",
        )
    found = {layer.digest: layer for layer in manifest.layers if layer.kind == "model"}
    if len(found) > 1:
        raise LlamaForgeError(
            f"it is made of {len(found)} model files.",
            "Choose a model with a single GGUF file.",
            code="several_models",
        )
    if found:
        return next(iter(found.values()))
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

    Source: `Model.Capabilities` in `server/images.go` of Ollama, as far as a store tells it.
    """
    found: list[str] = list(config.get("capabilities", []))
    if weights.facts is not None:
        found.append("embedding" if weights.facts.pools else "completion")
    if weights.projectors:
        found.append("vision")
    for variable, capability in (
        (".Tools", "tools"),
        (".Suffix", "insert"),
        (".Thinking", "thinking"),
    ):
        if variable in template:
            found.append(capability)
    return tuple(dict.fromkeys(found))


def _modified(path: Path) -> datetime:
    try:
        seconds = path.stat().st_mtime
    except OSError:  # removed since it was read
        seconds = 0.0
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


def bad_entry(shown: str, path: Path, error: LlamaForgeError) -> StoredModel:
    """Return an entry that says only why nothing can be said of what lies at `path`."""
    return StoredModel(name=shown, full_name=shown, manifest=path, problem=problem_of(error))
