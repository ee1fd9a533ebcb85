"""A model and its adapter as one GGUF file, streamed: no more than some rows are ever unpacked.

What the file says of itself, vocabulary and template included, is copied from the model's own.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from llamaforge import hardware
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.export.adapter import BASE_DIGEST_KEY
from llamaforge.export.mix import FILE_TYPES, tensor_types
from llamaforge.files import commit
from llamaforge.gguf.ggml import can_pack, pack_rows, unpack_rows
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.types import FLOAT_TYPES, TensorType
from llamaforge.gguf.writer import GgufStream, PlannedTensor
from llamaforge.safe_text import safe_line

_ROWS_WEIGHTS: Final = 4 * 1024 * 1024
"""Weights that are unpacked at a time: 16 MiB."""
_COPIED_BYTES: Final = 4 * 1024 * 1024
_SLACK_DISK_BYTES: Final = 64 * 1024 * 1024
_QUANTIZATION_VERSION: Final = 2

Array = npt.NDArray[np.float32]


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


class _Adapter:
    """The pairs of an adapter file, in the base file's row order: W' = W + scale · B A."""

    def __init__(self, header: Header, base: Header, base_digest: str) -> None:
        """Take an adapter for `base`, whose file has the digest `sha256:<hex>`.

        Raises:
            InvalidFileError: it is none, or not for this file.
        """
        self._header = header
        self._check_kind(base, base_digest)
        self._data = np.memmap(header.path, dtype=np.uint8, mode="r")
        alpha = header.get("adapter.lora.alpha")
        if not isinstance(alpha, int | float):
            raise _refuse(header, "does not say its alpha")
        self._alpha = float(alpha)
        self.names = {
            name.removesuffix(".lora_a") for name in header.tensors if name.endswith(".lora_a")
        }
        for name in sorted(self.names):
            self._check_pair(name, base)

    def factors(self, name: str) -> tuple[Array, Array]:
        """Return A [r, in], already scaled, and B [out, r] for the tensor `name`."""
        a, b = self._matrix(f"{name}.lora_a"), self._matrix(f"{name}.lora_b")
        return a * np.float32(self._alpha / a.shape[0]), b

    def _matrix(self, name: str) -> Array:
        info = self._header.tensors[name]
        raw = self._data[info.offset : info.offset + info.n_bytes]
        kinds: dict[TensorType, Any] = {TensorType.F32: np.float32, TensorType.F16: np.float16}
        if info.type not in kinds:
            raise _refuse(self._header, f"holds {name} as {info.type.name}")
        values: Array = raw.view(kinds[info.type]).reshape(info.rows, info.width).astype(np.float32)
        if not np.isfinite(values).all():
            raise _refuse(self._header, f"holds numbers in {name} that are not finite")
        return values

    def _check_kind(self, base: Header, base_digest: str) -> None:
        said = self._header.get("general.type"), self._header.get("adapter.type")
        if said != ("adapter", "lora"):
            raise _refuse(self._header, "is no LoRA adapter")
        if self._header.architecture != base.architecture:
            raise _refuse(self._header, f"is made for {self._header.architecture[:40]} models")
        # An adapter that another program wrote does not say it.
        made_for = self._header.get(BASE_DIGEST_KEY, base_digest)
        if made_for != base_digest:
            raise _refuse(
                self._header, f"is made for the file {safe_line(str(made_for), limit=24)}…"
            )

    def _check_pair(self, name: str, base: Header) -> None:
        target = base.tensors.get(name)
        a, b = (self._header.tensors.get(f"{name}.lora_{part}") for part in "ab")
        if target is None or a is None or b is None:
            raise _refuse(self._header, f"has a pair for {name[:60]} that fits nothing")
        if len(target.shape) > 2 or (a.width, b.rows, a.rows) != (
            target.width,
            target.rows,
            b.width,
        ):
            raise _refuse(self._header, f"has a pair of another shape than {name[:60]}")


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
    pairs = None if adapter is None else _Adapter(adapter, base, provenance.base_digest)
    types = {name: info.type for name, info in base.tensors.items()}
    if quantization is not None:
        types |= tensor_types(base, quantization)
    touched = set() if pairs is None else pairs.names
    _check_packable(base, types, touched)
    planned = [PlannedTensor(name, info.shape, types[name]) for name, info in base.tensors.items()]
    total = sum(tensor.n_bytes for tensor in planned)
    _check_room(path, total)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            changes = _changes(base, provenance, quantization)
            hashing = _Hashing(file)
            stream = GgufStream(hashing, base, changes, planned)
            data = np.memmap(base.path, dtype=np.uint8, mode="r")
            work = _Work(data, stream, on_progress, stopped, total)
            for tensor in planned:
                info = base.tensors[tensor.name]
                pair = pairs.factors(tensor.name) if tensor.name in touched and pairs else None
                work.write(info, tensor, pair)
                stream.end_tensor()
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Merged(path, hashing.digest.hexdigest(), hashing.tell(), quantization or "")


class _Hashing:
    """A file whose digest is worked out while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        """Write, count and hash."""
        self._at += len(data)
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self._at


@dataclass
class _Work:
    """Writes tensors from the mapped base to the stream."""

    data: npt.NDArray[np.uint8]
    stream: GgufStream
    on_progress: Callable[[int, int], None]
    stopped: Callable[[], bool]
    total: int
    done: int = 0

    def write(
        self, info: TensorInfo, tensor: PlannedTensor, pair: tuple[Array, Array] | None
    ) -> None:
        """Write one tensor: copied where nothing changes, else unpacked, added to and packed."""
        raw = self.data[info.offset : info.offset + info.n_bytes]
        if pair is None and tensor.type is info.type:
            for start in range(0, info.n_bytes, _COPIED_BYTES):
                self._put(raw[start : start + _COPIED_BYTES].tobytes())
            return
        step = max(1, _ROWS_WEIGHTS // info.width)
        row = info.n_bytes // info.rows
        for first in range(0, info.rows, step):
            last = min(first + step, info.rows)
            blocks = raw[first * row : last * row]
            values = _unpacked(blocks, info.type, last - first, info.width)
            if pair is not None:
                a, b = pair
                values += b[first:last] @ a
            if not np.isfinite(values).all():
                raise LlamaForgeError(
                    f"The merged weights of {info.name} are not finite numbers.",
                    "The model's file or the adapter is damaged; verify the run again.",
                    code="not_finite",
                )
            self._put(_packed(values, tensor.type).data)

    def _put(self, data: bytes | memoryview) -> None:
        self.stream.write(data)
        self.done += len(data)
        self.on_progress(self.done, self.total)
        if self.stopped():
            raise LlamaForgeError(
                "The export was stopped.", "Begin it again at any time.", code="stopped"
            )


def _unpacked(blocks: npt.NDArray[np.uint8], kind: TensorType, rows: int, width: int) -> Array:
    if kind in FLOAT_TYPES:
        if kind is TensorType.BF16:
            bits = blocks.view(np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).reshape(rows, width)
        plain = np.float32 if kind is TensorType.F32 else np.float16
        values: Array = blocks.view(plain).astype(np.float32).reshape(rows, width)
        return values
    values = np.empty((rows, width), dtype=np.float32)
    unpack_rows(kind, blocks.ctypes.data, values.ctypes.data, rows, width)
    return values


def _packed(values: Array, kind: TensorType) -> npt.NDArray[np.uint8]:
    return pack_rows(kind, values).reshape(-1)


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


def _check_room(path: Path, total: int) -> None:
    needed = total + _SLACK_DISK_BYTES
    free = hardware.free_disk_bytes(path.parent)
    if free < needed:
        raise RefusedError(
            f"The file takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at "
            f"{path.parent}.",
            "Free some space, choose a smaller quantisation, or name another place with --out.",
            code="no_disk_space",
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
        BASE_DIGEST_KEY: provenance.base_digest,
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    # What these say of the base's makers would be said of this file now.
    stale = ("basename", "finetune", "base_model.0.repo_url", "base_model.0.organization",
             "source.url", "source.huggingface.repository", "source.repo_url")  # fmt: skip
    changes |= {f"general.{key}": None for key in stale if f"general.{key}" in base.metadata}
    if quantization is not None:
        changes["general.file_type"] = FILE_TYPES[quantization]
    return changes


def _refuse(header: Header, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The adapter {header.path.name} {what}.",
        "Export the run's adapter again, or choose the model that it was trained on.",
        code="wrong_adapter",
    )
