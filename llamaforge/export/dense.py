"""Full-precision weights in safetensors files, with what was learned in them, some rows at a time.

Source of the format: https://huggingface.co/docs/safetensors/index#format. Offsets and sizes are
held against the file before they are believed. Source of the formulas: PEFT's `LoraLayer` and
`DoraLinearLayer`: W' = W + s B A, and with DoRA each row of that has the length m.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamaforge.catalog.hub_files import SINGLE_WEIGHTS, WEIGHTS_INDEX
from llamaforge.catalog.hub_weights import read_header_text, read_index
from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.export.weights import Array, unpacked
from llamaforge.gguf.types import BLOCK_SIZES, TensorType
from llamaforge.safe_text import safe_line

_KINDS: Final = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_PART_WEIGHTS: Final = 4 * 1024 * 1024
_PRODUCT_SIZE: Final = 256 * 1024
"""Multiplications in one matrix product; numpy's library divides larger ones among threads."""

Rows = slice | npt.NDArray[np.int64]
"""Some rows of a tensor: neighbours, or one by one."""


@dataclass(frozen=True)
class Change:
    """What was learned for one matrix: W' = W + scale · B A, rows as in the base."""

    a: Array
    """[r, in_features]"""
    b: Array
    """[out_features, r]"""
    scale: float
    magnitude: Array | None = None
    """m, the length of each row of W', [out_features]; None where it is not trained (no DoRA)."""

    def apply(self, values: Array, chosen: Rows) -> Array:
        """Return the chosen rows of W' from those of W, [n, in_features], which are overwritten."""
        b = self.b[chosen] * np.float32(self.scale)
        step = max(1, _PRODUCT_SIZE // self.a.size)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found afterwards
            for start in range(0, len(values), step):
                values[start : start + step] += b[start : start + step] @ self.a
            if self.magnitude is not None:
                length = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
                values *= (self.magnitude[chosen] / length).astype(np.float32)[:, None]
        return values


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    kind: TensorType
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""

    @property
    def rows(self) -> int:
        """All dimensions but the last multiplied; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        """The last dimension."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_bytes(self) -> int:
        """The bytes of all values."""
        return self.rows * self.width * BLOCK_SIZES[self.kind][1]


class DenseWeights:
    """The tensors of a folder; those that something was learned for come out changed."""

    def __init__(self, folder: Path, changes: Mapping[str, Change] | None = None) -> None:
        """Look at the weights in `folder`.

        Args:
            folder: with `model.safetensors`, or its index and shards.
            changes: what was learned, by the names that the folder has for the matrices.

        Raises:
            InvalidFileError: a file is missing, cut short or unsound, or of a type that is no
                float (`bad_base`); or a change fits no matrix.
        """
        self.folder = folder
        self.tensors = _tensors(folder)
        self.changes = dict(changes or {})
        self._maps: dict[Path, mmap.mmap] = {}
        for name, change in self.changes.items():
            found = self.tensors.get(name)
            if found is None or (found.rows, found.width) != (
                change.b.shape[0],
                change.a.shape[1],
            ):
                raise _bad(folder, f"has no matrix {safe_line(name, limit=80)} of the adapter's")

    def rows(self, name: str, chosen: Rows) -> Array:
        """Return the chosen rows of a tensor as float32, what was learned in them, [n, width]."""
        tensor = self.tensors[name]
        row = tensor.n_bytes // max(tensor.rows, 1)
        data = np.frombuffer(self._map(tensor.file), np.uint8, tensor.n_bytes, tensor.start)
        blocks = np.ascontiguousarray(data.reshape(tensor.rows, row)[chosen])
        values = unpacked(blocks, tensor.kind, tensor.width)
        change = self.changes.get(name)
        return values if change is None else change.apply(values, chosen)

    def parts(self, name: str) -> Iterator[Array]:
        """Yield all rows of a tensor, some at a time.

        Raises:
            LlamaForgeError: a value is not a finite number (`not_finite`).
        """
        tensor = self.tensors[name]
        step = max(1, _PART_WEIGHTS // max(tensor.width, 1))
        for start in range(0, tensor.rows, step):
            values = self.rows(name, slice(start, min(start + step, tensor.rows)))
            check_finite(values, name)
            yield values
        self.release(name)

    def release(self, name: str) -> None:
        """Let the system have back the memory in which it holds a tensor."""
        tensor, page = self.tensors[name], mmap.PAGESIZE
        start = tensor.start // page * page
        with suppress(OSError, AttributeError, ValueError):
            self._map(tensor.file).madvise(
                mmap.MADV_DONTNEED, start, tensor.start + tensor.n_bytes - start
            )

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]


def check_finite(values: Array, name: str) -> None:
    """Raise `LlamaForgeError` (`not_finite`) where a merged weight is no finite number."""
    if not np.isfinite(values).all():
        raise LlamaForgeError(
            f"The merged weights of {safe_line(name, limit=80)} are not finite numbers.",
            "The base or what was trained is damaged; verify the run again.",
            code="not_finite",
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder: the single one, else the shards of the index.

    Raises:
        InvalidFileError: there are none.
    """
    if (folder / SINGLE_WEIGHTS).is_file():
        return [folder / SINGLE_WEIGHTS]
    index = read_index(folder / WEIGHTS_INDEX)
    if index is None:
        raise _bad(folder, "has no safetensors")
    return [folder / name for name in index.shards]


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        header = read_header_text(file)
        try:
            table: Any = json.loads(header or b"")
        except (ValueError, RecursionError):
            table = None
        if header is None or not isinstance(table, dict):
            raise _bad(folder, f"has no sound {safe_line(file.name)}")
        size = file.stat().st_size
        for name, entry in table.items():
            if name != "__metadata__":
                found[name] = _tensor(folder, file, 8 + len(header), size, name, entry)
    return found


def _tensor(
    folder: Path, file: Path, before: int, size: int, name: str, entry: Any
) -> StoredTensor:
    try:
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
        kind = _KINDS.get(entry["dtype"])
        numbers = (*shape, first, last)
    except (TypeError, KeyError, ValueError):
        raise _bad(folder, f"says nothing sound of {safe_line(name, limit=80)}") from None
    if kind is None:
        raise _bad(folder, f"has {safe_line(name, limit=80)} in a type that is no float")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _bad(folder, f"says nothing sound of {safe_line(name, limit=80)}")
    tensor = StoredTensor(file, kind, shape, before + first)
    if last - first != tensor.n_bytes or before + last > size:
        raise _bad(folder, f"has {safe_line(name, limit=80)} cut short")
    return tensor


def _bad(folder: Path, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The folder {safe_line(str(folder))} {what}.",
        "Fetch the base again: llamaforge base MODEL --download",
        code="bad_base",
    )
