"""Weights as safetensors files: planned first, then streamed, so that no tensor is ever held.

Source of the format: the README of the safetensors repository. The index beside the files is that
of transformers (`model.safetensors.index.json`).
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.export.place import HashingFile
from llamaforge.export.weights import Array, Stopped, check_stop
from llamaforge.files import write_json
from llamaforge.gguf.ggml import pack_rows
from llamaforge.gguf.types import BLOCK_SIZES, TensorType

INDEX_NAME: Final = "model.safetensors.index.json"
_ALIGNMENT: Final = 8


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    """As torch has it."""
    values: Callable[[], Iterator[Array]]
    """Its values in their order, in parts of any shape."""

    def n_bytes(self, kind: TensorType) -> int:
        """Return how many bytes it takes as `kind`, one of the float types."""
        return math.prod(self.shape) * BLOCK_SIZES[kind][1]


def divided(
    tensors: Sequence[Planned], kind: TensorType, shard_bytes: int
) -> list[tuple[str, list[Planned]]]:
    """Return the tensors by the name of their file, each of `shard_bytes` at most.

    A tensor that is larger gets a file of its own.
    """
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.n_bytes(kind) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.n_bytes(kind)
    count = len(shards)
    return [
        (f"model-{number:05}-of-{count:05}.safetensors", shard)
        for number, shard in enumerate(shards, 1)
    ]


class ShardWriter:
    """Writes files of weights, and counts what is done."""

    def __init__(
        self,
        folder: Path,
        kind: TensorType,
        total: int,
        on_progress: Callable[[int, int], None],
        stopped: Stopped,
    ) -> None:
        """Take the folder, the type of all weights and the bytes of all of them."""
        self._folder = folder
        self._kind = kind
        self._total = total
        self._done = 0
        self._on_progress = on_progress
        self._stopped = stopped

    def write(self, name: str, tensors: Sequence[Planned]) -> str:
        """Write a file and return its sha256.

        Raises:
            LlamaForgeError: a value does not fit the type (`overflow`), or it was `stopped`.
        """
        with (self._folder / name).open("wb") as raw:
            file = HashingFile(raw)
            file.write(head(tensors, self._kind))
            for tensor in tensors:
                end = file.tell() + tensor.n_bytes(self._kind)
                for values in tensor.values():
                    self._put(file, tensor, values)
                if file.tell() != end:
                    raise InvalidFileError(
                        f"The tensor {tensor.name} is not of the size that the model wants.",
                        "Pull the model again; the file contradicts itself.",
                        code="wrong_shape",
                    )
        return file.sha256

    def _put(self, file: HashingFile, tensor: Planned, values: Array) -> None:
        with np.errstate(over="ignore"):
            packed = pack_rows(self._kind, values.reshape(1, -1))
        if self._kind is TensorType.F16 and not np.isfinite(packed.view(np.float16)).all():
            raise LlamaForgeError(
                f"Weights of {tensor.name} are too large for float16.",
                "Say --dtype bfloat16, or float32.",
                code="overflow",
            )
        file.write(packed.reshape(-1).data)
        self._done += packed.size
        self._on_progress(self._done, self._total)
        check_stop(self._stopped)


def write_index(
    path: Path, shards: Sequence[tuple[str, Sequence[Planned]]], kind: TensorType
) -> None:
    """Write which tensor lies in which file."""
    total = sum(tensor.n_bytes(kind) for _, tensors in shards for tensor in tensors)
    places = {tensor.name: name for name, tensors in shards for tensor in tensors}
    metadata = {
        "total_parameters": sum(math.prod(t.shape) for _, tensors in shards for t in tensors),
        "total_size": total,
    }
    write_json(path, {"metadata": metadata, "weight_map": dict(sorted(places.items()))})


def head(tensors: Sequence[Planned], kind: TensorType) -> bytes:
    """Return what stands in a file before its values."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        size = tensor.n_bytes(kind)
        table[tensor.name] = {
            "dtype": kind.name,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
