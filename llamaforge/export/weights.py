"""The weights of a file with an adapter merged into them, unpacked some rows at a time."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.export.adapter import BASE_DIGEST_KEY
from llamaforge.gguf.ggml import unpack_rows
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.types import FLOAT_TYPES, TensorType
from llamaforge.safe_text import safe_line

_ROWS_WEIGHTS: Final = 4 * 1024 * 1024
"""Weights that are unpacked at a time: 16 MiB."""
_FLOATS: Final[dict[TensorType, Any]] = {TensorType.F32: np.float32, TensorType.F16: np.float16}

Array = npt.NDArray[np.float32]
Rows = slice | npt.NDArray[np.int64]
"""Some rows of a tensor: neighbours, or one by one."""
Stopped = Callable[[], bool]


class Adapter:
    """The pairs of an adapter file, in the base file's row order: W' = W + scale · B A."""

    def __init__(self, header: Header, base: Header, base_digest: str | None = None) -> None:
        """Take an adapter for `base`, whose file has the digest `sha256:<hex>` where it is known.

        Raises:
            InvalidFileError: it is none, or not for this file.
        """
        self._header = header
        self._check_kind(base)
        self._check_base(base_digest)
        self._data = np.memmap(header.path, dtype=np.uint8, mode="r")
        alpha = header.get("adapter.lora.alpha")
        if not isinstance(alpha, int | float):
            raise _refuse(header, "does not say its alpha")
        self._alpha = float(alpha)
        self.names = {
            name.removesuffix(".lora_a") for name in header.tensors if name.endswith(".lora_a")
        }
        """The tensors that are changed, such as `blk.0.attn_q.weight`."""
        for name in sorted(self.names):
            self._check_pair(name, base)

    def pair(self, name: str) -> tuple[Array, Array, float]:
        """Return A [r, in], B [out, r] and the scale for the tensor `name`."""
        a, b = self._matrix(f"{name}.lora_a"), self._matrix(f"{name}.lora_b")
        return a, b, self._alpha / a.shape[0]

    def factors(self, name: str) -> tuple[Array, Array]:
        """Return A [r, in], already scaled, and B [out, r] for the tensor `name`."""
        a, b, scale = self.pair(name)
        return a * np.float32(scale), b

    def _matrix(self, name: str) -> Array:
        info = self._header.tensors[name]
        raw = self._data[info.offset : info.offset + info.n_bytes]
        if info.type not in _FLOATS:
            raise _refuse(self._header, f"holds {name} as {info.type.name}")
        values: Array = raw.view(_FLOATS[info.type]).reshape(info.rows, info.width)
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise _refuse(self._header, f"holds numbers in {name} that are not finite")
        return values

    def _check_kind(self, base: Header) -> None:
        said = self._header.get("general.type"), self._header.get("adapter.type")
        if said != ("adapter", "lora"):
            raise _refuse(self._header, "is no LoRA adapter")
        if self._header.architecture != base.architecture:
            raise _refuse(self._header, f"is made for {self._header.architecture[:40]} models")

    def _check_base(self, base_digest: str | None) -> None:
        # An adapter that another program wrote does not say it.
        made_for = self._header.get(BASE_DIGEST_KEY, base_digest)
        if base_digest is not None and made_for != base_digest:
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


class MergedWeights:
    """Reads the tensors of a mapped model; those that an adapter changes come out changed."""

    def __init__(self, base: Header, adapter: Header | None) -> None:
        """Map `base`.

        Raises:
            InvalidFileError: the adapter is damaged, or made for another file.
        """
        self.base = base
        self._adapter = None if adapter is None else Adapter(adapter, base)
        self.changed = self._adapter.names if self._adapter else set[str]()
        self._maps = [_mapped(path) for path in base.files]
        self._data = [np.frombuffer(data, dtype=np.uint8) for data in self._maps]
        self._pair: tuple[str, Array, Array] | None = None

    def raw(self, info: TensorInfo) -> npt.NDArray[np.uint8]:
        """Return the bytes of a tensor as they lie in the file, without a copy."""
        return self._data[info.file][info.offset : info.offset + info.n_bytes]

    def parts(self, info: TensorInfo, chosen: Rows = slice(None)) -> Iterator[Array]:
        """Yield the chosen rows as `rows` does, some at a time.

        Raises:
            LlamaForgeError: a weight is not a finite number (`not_finite`).
        """
        step = max(1, _ROWS_WEIGHTS // info.width)
        if not isinstance(chosen, slice):
            for start in range(0, len(chosen), step):
                yield self.rows(info, chosen[start : start + step])
            return
        first, last, _ = chosen.indices(info.rows)
        for start in range(first, last, step):
            yield self.rows(info, slice(start, min(start + step, last)))

    def rows(self, info: TensorInfo, chosen: Rows) -> Array:
        """Return the chosen rows unpacked, with the adapter's part in them, shape [n, width].

        Raises:
            LlamaForgeError: a weight is not a finite number (`not_finite`).
        """
        blocks = np.ascontiguousarray(self.raw(info).reshape(info.rows, -1)[chosen])
        values = unpacked(blocks, info.type, info.width)
        if info.name in self.changed:
            a, b = self._factors(info.name)
            values += b[chosen] @ a
        if not np.isfinite(values).all():
            raise LlamaForgeError(
                f"The merged weights of {info.name} are not finite numbers.",
                "The model's file or the adapter is damaged; verify the run again.",
                code="not_finite",
            )
        return values

    def release(self, info: TensorInfo) -> None:
        """Let the system have back the memory in which it holds a tensor of the file."""
        page = mmap.PAGESIZE
        start = info.offset // page * page
        with suppress(OSError, AttributeError, ValueError):
            length = info.offset + info.n_bytes - start
            self._maps[info.file].madvise(mmap.MADV_DONTNEED, start, length)

    def _factors(self, name: str) -> tuple[Array, Array]:
        """Return A [r, in], already scaled, and B [out, r]; those of the last tensor are kept."""
        if self._pair is None or self._pair[0] != name:
            assert self._adapter is not None  # noqa: S101 - only its own names are asked for
            self._pair = name, *self._adapter.factors(name)
        return self._pair[1:]


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_stop(stopped: Stopped) -> None:
    """Raise `LlamaForgeError` (`stopped`) where a person wants the export to end."""
    if stopped():
        raise LlamaForgeError(
            "The export was stopped.", "Begin it again at any time.", code="stopped"
        )


def unpacked(blocks: npt.NDArray[np.uint8], kind: TensorType, width: int) -> Array:
    """Return blocks, uint8 [rows, bytes of a row], as float32 [rows, width]."""
    rows = blocks.shape[0]
    if kind is TensorType.BF16:
        bits = blocks.view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(rows, width)
    if kind in FLOAT_TYPES:
        floats: Array = blocks.view(_FLOATS[kind]).astype(np.float32).reshape(rows, width)
        return floats
    values = np.empty((rows, width), dtype=np.float32)
    unpack_rows(kind, blocks.ctypes.data, values.ctypes.data, rows, width)
    return values


def _refuse(header: Header, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The adapter {header.path.name} {what}.",
        "Export the run's adapter again, or choose the model that it was trained on.",
        code="wrong_adapter",
    )
