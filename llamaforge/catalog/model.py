"""One model of the store: everything known of it, whatever its state."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.manifest import Layer
from llamaforge.errors import LlamaForgeError


class ModelStatus(StrEnum):
    """Whether a model can be trained, and if not, what kind of obstacle there is."""

    READY = "ready"
    PARTIAL = "partial"
    """A download of one of its blobs has begun and not ended."""
    MISSING_BLOB = "missing_blob"
    REMOTE = "remote"
    """It runs on another machine: the store has no weights of it."""
    UNSUPPORTED = "unsupported"
    """It is whole, and of a kind that cannot be trained yet."""
    BROKEN = "broken"
    """Its files contradict each other, or cannot be read."""


_STATUS_OF_CODE: Final = {
    "missing_blob": ModelStatus.MISSING_BLOB,
    "partial_blob": ModelStatus.PARTIAL,
    "remote": ModelStatus.REMOTE,
    "safetensors": ModelStatus.UNSUPPORTED,
    "several_models": ModelStatus.UNSUPPORTED,
    "split_gguf": ModelStatus.UNSUPPORTED,
    "embedding_model": ModelStatus.UNSUPPORTED,
    "image_model": ModelStatus.UNSUPPORTED,
    "has_adapter": ModelStatus.UNSUPPORTED,
    "unsupported_architecture": ModelStatus.UNSUPPORTED,
    "unsupported_tokenizer": ModelStatus.UNSUPPORTED,
    "no_eos": ModelStatus.UNSUPPORTED,
    "unsupported_type": ModelStatus.UNSUPPORTED,
    "unsupported_variant": ModelStatus.UNSUPPORTED,
}


@dataclass(frozen=True)
class Problem:
    """Why a model cannot be trained."""

    status: ModelStatus
    code: str
    """A short stable word."""
    reason: str
    """A clause without a full stop."""
    hint: str
    """A sentence that says what to do."""


def problem_of(error: LlamaForgeError) -> Problem:
    """Return `error` as a model's problem; a code that is not listed here means broken."""
    status = _STATUS_OF_CODE.get(error.code, ModelStatus.BROKEN)
    return Problem(status, error.code, error.message.rstrip("."), error.hint)


@dataclass(frozen=True)
class StoredAdapter:
    """A LoRA file that is applied to a model's weights when it is served."""

    path: Path
    digest: str
    """64 hexadecimal digits."""
    name: str = ""
    """What the file calls itself; of one that this program made, the run's name."""
    base_digest: str = ""
    """The blob that this program trained it on, 64 digits; empty for others' adapters."""
    made_by: str = ""
    """The program that wrote the file, with its version, where the file says so."""

    @property
    def is_own(self) -> bool:
        """Whether this program trained it."""
        return bool(self.base_digest)


@dataclass(frozen=True)
class StoredPart:
    """One file, after the first, of a model that is split into several."""

    path: Path
    digest: str
    """64 hexadecimal digits."""


@dataclass(frozen=True)
class StoredModel:
    """A model in an Ollama store. What is not known is 0, empty or None.

    All text is as the store has it: pass it through `safe_text` before it is printed.
    """

    name: str
    """As people type it: `qwen2.5:3b`."""
    full_name: str
    """`registry.ollama.ai/library/qwen2.5:3b`."""
    manifest: Path | None = None
    """None for a model that only a server knows."""
    store: Path | None = None
    """The store it was read from; None for a model that only a server knows."""
    other_stores: tuple[Path, ...] = ()
    """Further stores that have the same model under the same name."""
    server: str = ""
    """The address of the server that lists it too, or alone, where one was asked."""
    digest: str = ""
    """sha256 of the manifest, 64 hexadecimal digits; `ollama list` shows the first twelve."""
    modified: datetime | None = None
    """When the manifest was written, in UTC; None where it cannot be read."""
    layers: tuple[Layer, ...] = ()
    config_layer: Layer | None = None
    size_bytes: int = 0
    """All layers and the config, as `ollama list` counts it."""
    blob: Path | None = None
    """The GGUF file with the weights, or the first of several, where it is there and whole."""
    further: tuple[StoredPart, ...] = ()
    """The other files of a model that is split, in their order."""
    blob_digest: str = ""
    """sha256 of the weights as the manifest gives it, 64 hexadecimal digits."""
    adapters: tuple[StoredAdapter, ...] = ()
    """LoRA files that are applied to the weights when the model is served."""
    projectors: tuple[Path, ...] = ()
    """What turns pictures or sounds into tokens."""
    drafts: tuple[Path, ...] = ()
    """Small models that guess tokens ahead for this one."""
    template: str | None = None
    """Go template."""
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """What PARAMETER lines set: temperature, stop and so on."""
    messages: tuple[dict[str, Any], ...] = ()
    """`role` and `content` of the turns that every chat begins with."""
    licenses: tuple[str, ...] = ()
    """The texts."""
    license_names: tuple[str, ...] = ()
    """`Apache-2.0`, `llama3.1` and so on; `unknown` for a text that is not recognised."""
    config: dict[str, Any] = field(default_factory=dict)
    """The known fields of the config blob: `model_family`, `file_type`, `renderer` and so on."""
    architecture: str = ""
    parameter_count: int = 0
    quantization: str = ""
    context_length: int = 0
    """Tokens."""
    vocab_size: int = 0
    """Tokens."""
    tensor_types: dict[str, int] = field(default_factory=dict)
    """How many tensors have each block type."""
    details: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Further keys of the GGUF header."""
    sources: dict[str, str] = field(default_factory=dict)
    """Where a fact was read: `architecture` → `GGUF header` and so on."""
    capabilities: tuple[str, ...] = ()
    """`completion`, `embedding`, `tools`, `insert`, `vision`, `audio`, `image`, `thinking`."""
    problem: Problem | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with the weights in their order; none where there is no `blob`."""
        return () if self.blob is None else (self.blob, *(part.path for part in self.further))

    @property
    def status(self) -> ModelStatus:
        """`ready`, or the kind of obstacle."""
        return ModelStatus.READY if self.problem is None else self.problem.status

    @property
    def reason(self) -> str:
        """Why it is not ready; empty where it is."""
        return "" if self.problem is None else self.problem.reason
