"""A model and its adapter as one GGUF file, streamed: no more than some rows are ever unpacked.

What the file says of itself, vocabulary and template included, is copied from the model's own.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.export.mix import FILE_TYPES, tensor_types
from llamaforge.export.place import HashingFile, check_room
from llamaforge.export.weights import MergedWeights, check_stop
from llamaforge.files import commit
from llamaforge.gguf.ggml import can_pack, pack_rows
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.types import TensorType
from llamaforge.gguf.writer import GgufStream, PlannedTensor

_COPIED_BYTES: Final = 4 * 1024 * 1024
_QUANTIZATION_VERSION: Final = 2


@dataclass(frozen=True)
class Provenance:
    """Where a merged file comes from, as it will say itself."""

    name: str
    """What it is called."""
    run: str
    base: str
    """The model's name in Ollama."""
    base_digest: str
    """`sha256:<hex>` of the file that was trained on."""
    program: str
    """The program with its version."""


@dataclass(frozen=True)
class Merged:
    """A file that was written."""

    path: Path
    sha256: str
    size_bytes: int
    quantization: str
    """As it was chosen; empty where every tensor kept its own type."""


def write_merged(
    path: Path,
    base: Header,
    adapter: Header | None,
    provenance: Provenance,
    *,
    quantization: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Merged:
    """Write `base` with `adapter` merged into its weights to `path`, whole or not at all.

    Args:
        path: where it goes; what lies there is replaced at the very end.
        base: the file that was trained on.
        adapter: what was trained; None only packs the base anew.
        provenance: what the file says of its making.
        quantization: one of `mix.FILE_TYPES`; None keeps the type of every tensor.
        on_progress: takes the bytes that are written, and all of them.
        stopped: asked between rows; True ends it without a file.

    Raises:
        InvalidFileError: the adapter is damaged, or made for another file.
        RefusedError: a type cannot be packed (`cannot_pack`), or the disk has no room.
        LlamaForgeError: a merged weight is not finite (`not_finite`), or it was `stopped`.
    """
    weights = MergedWeights(base, adapter)
    types = {name: info.type for name, info in base.tensors.items()}
    if quantization is not None:
        types |= tensor_types(base, quantization)
    _check_packable(base, types, weights.changed)
    planned = [PlannedTensor(name, info.shape, types[name]) for name, info in base.tensors.items()]
    total = sum(tensor.n_bytes for tensor in planned)
    check_room(path, total, "choose a smaller quantisation")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            changes = _changes(base, provenance, quantization)
            hashing = HashingFile(file)
            stream = GgufStream(hashing, base, changes, planned)
            work = _Work(weights, stream, on_progress, stopped, total)
            for tensor in planned:
                work.write(base.tensors[tensor.name], tensor)
                stream.end_tensor()
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Merged(path, hashing.sha256, hashing.tell(), quantization or "")


@dataclass
class _Work:
    """Writes tensors from the mapped base to the stream."""

    weights: MergedWeights
    stream: GgufStream
    on_progress: Callable[[int, int], None]
    stopped: Callable[[], bool]
    total: int
    done: int = 0

    def write(self, info: TensorInfo, tensor: PlannedTensor) -> None:
        """Write one tensor: copied where nothing changes, else unpacked, added to and packed."""
        if info.name not in self.weights.changed and tensor.type is info.type:
            raw = self.weights.raw(info)
            for start in range(0, info.n_bytes, _COPIED_BYTES):
                self._put(raw[start : start + _COPIED_BYTES].tobytes())
        else:
            for values in self.weights.parts(info):
                self._put(pack_rows(tensor.type, values).reshape(-1).data)
        self.weights.release(info)

    def _put(self, data: bytes | memoryview) -> None:
        self.stream.write(data)
        self.done += len(data)
        self.on_progress(self.done, self.total)
        check_stop(self.stopped)


def _check_packable(base: Header, types: dict[str, TensorType], touched: set[str]) -> None:
    for name, info in base.tensors.items():
        changed = name in touched or types[name] is not info.type
        if changed and not can_pack(types[name]):
            raise RefusedError(
                f"The tensor {name[:60]} has the type {types[name].name}, which cannot be packed "
                "again without an importance matrix.",
                "Choose a quantisation with --quant, such as Q4_K_M or Q8_0.",
                code="cannot_pack",
            )


def _changes(
    base: Header, provenance: Provenance, quantization: str | None
) -> dict[str, str | int | None]:
    changes: dict[str, str | int | None] = {
        "general.name": provenance.name,
        "general.base_model.count": 1,
        "general.base_model.0.name": provenance.base,
        "general.generated_by": provenance.program,
        "llamaforge.run": provenance.run,
        "llamaforge.base.digest": provenance.base_digest,
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    # What these say of the base's makers would be said of this file now.
    stale = ("basename", "finetune", "base_model.0.repo_url", "base_model.0.organization",
             "source.url", "source.huggingface.repository", "source.repo_url")  # fmt: skip
    changes |= {f"general.{key}": None for key in stale if f"general.{key}" in base.metadata}
    if quantization is not None:
        changes["general.file_type"] = FILE_TYPES[quantization]
    return changes
