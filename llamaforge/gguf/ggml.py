"""ggml's own C functions, called in place: unpacking and packing of blocks.

The library is the one that llama-cpp-python installs, so blocks unpack here exactly as they do
where the model is served. Its struct of function pointers is no stable interface: it is held
against the table of block sizes before it is used, and where it does not fit, gguf-py's numpy
functions do the same work more slowly.
Source: `ggml/include/ggml.h` of llama.cpp (`struct ggml_type_traits`, `ggml_quantize_chunk`).
"""

import ctypes
import functools
import importlib.util
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from llamaforge.gguf.types import BLOCK_SIZES, FLOAT_TYPES, TensorType, row_bytes
from llamaforge.hardware import physical_cores

_Number = TypeVar("_Number", bound=np.generic)
_CHUNK_WEIGHTS: Final = 1 << 17
"""Weights a call: their float32 values (512 KiB) stay in a core's second-level cache."""
_PARALLEL_WEIGHTS: Final = 1 << 18
"""Below this many weights handing work to a second thread costs more than it saves."""


class _TypeTraits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    ]


_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Ggml:
    """The loaded library. Addresses are plain integers; arrays must be contiguous."""

    def __init__(self, library: ctypes.CDLL, processor: ctypes.CDLL | None = None) -> None:
        """Check the table of types; `processor` is ggml's library for this very processor.

        Raises:
            OSError: the table is not laid out as expected.
        """
        library.ggml_get_type_traits.argtypes = [ctypes.c_int]
        library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        library.ggml_fp32_to_bf16_row.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        library.ggml_fp32_to_bf16_row.restype = None
        library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_init.argtypes = [ctypes.c_int]
        library.ggml_quantize_init.restype = None
        library.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        self._library = library
        self._round: Callable[[int, int, int], object] = library.ggml_fp32_to_bf16_row
        if processor is not None and self._rounds_alike(processor):
            self._round = processor.ggml_cpu_fp32_to_bf16
        self._to_float = {
            kind: _ToFloat(address)
            for kind in TensorType
            if (address := self._checked_address(kind)) is not None
        }
        if TensorType.Q8_0 not in self._to_float:
            raise OSError("the library's table of types is not laid out as expected")

    def _checked_address(self, kind: TensorType) -> int | None:
        traits = self._library.ggml_get_type_traits(int(kind)).contents
        weights, size = BLOCK_SIZES[kind]
        if (traits.blck_size, traits.type_size) != (weights, size):
            return None
        address: int | None = traits.to_float
        return address

    def _rounds_alike(self, processor: ctypes.CDLL) -> bool:
        """Return whether the faster rounding gives the same bits, also for odd numbers."""
        faster = processor.ggml_cpu_fp32_to_bf16
        faster.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        faster.restype = None
        # Every exponent and sign, with mantissas that are cut, tied and rounded up: among them
        # zeros, subnormal numbers, infinities and what is no number at all.
        tails = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x18000, 0x7FFFFF], np.uint32)
        bits = ((np.arange(512, dtype=np.uint32) << 23)[:, None] | tails).reshape(-1)
        found = np.zeros((2, bits.size), dtype=np.uint16)
        self._library.ggml_fp32_to_bf16_row(bits.ctypes.data, found[0].ctypes.data, bits.size)
        faster(bits.ctypes.data, found[1].ctypes.data, bits.size)
        return bool((found[0] == found[1]).all())

    def can_unpack(self, kind: TensorType) -> bool:
        """Return whether the library unpacks `kind`."""
        return kind in self._to_float

    def unpack(self, kind: TensorType, source: int, target: int, weights: int) -> None:
        """Write `weights` float32 values to `target` from the blocks at `source`."""
        self._to_float[kind](source, target, weights)

    def to_bfloat16(self, source: int, target: int, weights: int) -> None:
        """Round `weights` float32 values at `source` to bfloat16 at `target`."""
        self._round(source, target, weights)

    def can_pack(self, kind: TensorType) -> bool:
        """Return whether the library packs `kind` without an importance matrix."""
        return kind in self._to_float and not self._library.ggml_quantize_requires_imatrix(kind)

    def pack(
        self,
        kind: TensorType,
        source: int,
        target: int,
        rows: int,
        width: int,
        importance: int | None = None,
    ) -> None:
        """Pack `rows` rows of `width` float32 values at `source` to blocks at `target`.

        At `importance` lie `width` float32 values: how much an error in each column counts.
        """
        self._library.ggml_quantize_chunk(int(kind), source, target, 0, rows, width, importance)

    def prepare_packing(self, kind: TensorType) -> None:
        """Build what packing `kind` needs, which several threads must not do at a time."""
        self._library.ggml_quantize_init(int(kind))


@functools.cache
def library() -> Ggml | None:
    """Return ggml, or None where it cannot be found or is not laid out as expected."""
    spec = importlib.util.find_spec("llama_cpp")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "lib"
        for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
            if (folder / name).exists():
                try:
                    base = ctypes.CDLL(str(folder / name))
                    return Ggml(base, _processor_library(folder, name.replace("base", "cpu")))
                except (OSError, AttributeError):
                    return None
    return None


def _processor_library(folder: Path, name: str) -> ctypes.CDLL | None:
    """Return ggml's library for this processor, or None: it only makes rounding faster."""
    try:
        found = ctypes.CDLL(str(folder / name))
        found.ggml_cpu_fp32_to_bf16  # noqa: B018 - raises where the function is absent
    except (OSError, AttributeError):
        return None
    return found


@functools.cache
def _helpers() -> ThreadPoolExecutor | None:
    """Return the threads that work beside the calling one; None on a single core."""
    extra = physical_cores() - 1
    return ThreadPoolExecutor(extra, thread_name_prefix="unpack") if extra else None


_scratch = threading.local()


def _scratch_address(weights: int) -> int:
    """Return this thread's own float32 buffer of at least `weights` values."""
    buffer: npt.NDArray[np.float32] | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < weights:
        buffer = np.empty(max(weights, _CHUNK_WEIGHTS), dtype=np.float32)
        _scratch.buffer = buffer
    return int(buffer.ctypes.data)


def unpack_rows(
    kind: TensorType, source: int, target: int, rows: int, width: int, *, bfloat16: bool = False
) -> None:
    """Unpack `rows` rows of `width` weights from the blocks at `source` to `target`.

    `target` takes float32, or bfloat16 rounded to nearest even. Work is divided among the
    machine's cores; no interpreter lock is held while it runs.
    """
    ggml = library()
    source_row = row_bytes(kind, width)
    target_row = width * (2 if bfloat16 else 4)
    step = max(1, _CHUNK_WEIGHTS // width)
    work: Callable[[int, int], None]
    if ggml is not None and ggml.can_unpack(kind):
        single = ggml  # bound for the closures below

        def work(start: int, stop: int) -> None:
            if not bfloat16:
                single.unpack(
                    kind,
                    source + start * source_row,
                    target + start * target_row,
                    (stop - start) * width,
                )
                return
            scratch = _scratch_address(step * width)
            for first in range(start, stop, step):
                weights = (min(first + step, stop) - first) * width
                single.unpack(kind, source + first * source_row, scratch, weights)
                single.to_bfloat16(scratch, target + first * target_row, weights)

    else:

        def work(start: int, stop: int) -> None:
            for first in range(start, stop, step):
                last = min(first + step, stop)
                _unpack_with_numpy(
                    kind,
                    source + first * source_row,
                    target + first * target_row,
                    last - first,
                    width,
                    bfloat16=bfloat16,
                )

    helpers = _helpers()
    if helpers is None or rows * width < _PARALLEL_WEIGHTS:
        work(0, rows)
        return
    parts = physical_cores()
    edges = [rows * part // parts for part in range(parts + 1)]
    pending = [helpers.submit(work, start, stop) for start, stop in itertools.pairwise(edges[1:])]
    work(edges[0], edges[1])
    for task in pending:
        task.result()


def _unpack_with_numpy(
    kind: TensorType, source: int, target: int, rows: int, width: int, *, bfloat16: bool
) -> None:
    """Do the work of ggml's functions with gguf-py's, which give the same bits."""
    import gguf  # noqa: PLC0415 - only where the library is missing

    packed = _view(source, rows * row_bytes(kind, width), np.uint8).reshape(rows, -1)
    values = gguf.dequantize(packed, gguf.GGMLQuantizationType(int(kind))).reshape(-1)
    if bfloat16:
        _view(target, values.size, np.uint16)[:] = round_to_bfloat16(values)
    else:
        _view(target, values.size, np.float32)[:] = values


def _view(address: int, count: int, kind: type[_Number]) -> npt.NDArray[_Number]:
    size = count * np.dtype(kind).itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(raw), dtype=kind)


def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return float32 values as the bits of bfloat16, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype(np.uint16)


def unpack(
    kind: TensorType, packed: npt.NDArray[np.uint8], shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return blocks as float32 values of `shape`, [rows, width]."""
    packed = np.ascontiguousarray(packed)
    values = np.empty(shape, dtype=np.float32)
    unpack_rows(kind, packed.ctypes.data, values.ctypes.data, *shape)
    return values


def can_pack(kind: TensorType, *, with_importance: bool = False) -> bool:
    """Return whether weights can be packed as `kind`, with an importance matrix or without."""
    if kind in FLOAT_TYPES:
        return True
    ggml = library()
    if ggml is None:
        return False
    return ggml.can_pack(kind) or (with_importance and ggml.can_unpack(kind))


def pack_rows(
    kind: TensorType,
    values: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return float32 `values` of shape [rows, width] packed as `kind`, [rows, row bytes].

    Work is divided among the machine's cores. `importance` [width] says how much an error in each
    column counts.

    Raises:
        ValueError: a row is no whole number of blocks, or the type cannot be packed.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    rows, width = values.shape
    if kind in FLOAT_TYPES:
        return _as_floats(kind, values)
    ggml = library()
    if ggml is None or not can_pack(kind, with_importance=importance is not None):
        raise ValueError(f"{kind.name} cannot be packed")
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        if importance.shape != (width,):
            raise ValueError(f"{importance.size} columns count, and there are {width}")
    counts = None if importance is None else importance.ctypes.data
    packed = np.empty((rows, row_bytes(kind, width)), dtype=np.uint8)
    ggml.prepare_packing(kind)

    def work(start: int, stop: int) -> None:
        if stop > start:
            source, target = values[start:].ctypes.data, packed[start:].ctypes.data
            ggml.pack(kind, source, target, stop - start, width, counts)

    helpers = _helpers()
    if helpers is None or rows * width < _PARALLEL_WEIGHTS:
        work(0, rows)
        return packed
    parts = physical_cores()
    edges = [rows * part // parts for part in range(parts + 1)]
    pending = [helpers.submit(work, start, stop) for start, stop in itertools.pairwise(edges[1:])]
    work(edges[0], edges[1])
    for task in pending:
        task.result()
    return packed


def _as_floats(kind: TensorType, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    rows = values.shape[0]
    if kind is TensorType.BF16:
        return round_to_bfloat16(values).view(np.uint8).reshape(rows, -1)
    plain = values if kind is TensorType.F32 else values.astype(np.float16)
    return plain.view(np.uint8).reshape(rows, -1)


def is_unpackable(kind: TensorType) -> bool:
    """Return whether weights of this type can be trained on."""
    if kind in FLOAT_TYPES:
        return True
    ggml = library()
    if ggml is not None:
        return ggml.can_unpack(kind)
    import gguf  # noqa: PLC0415 - only where the library is missing

    return gguf.GGMLQuantizationType(int(kind)) in gguf.quants._type_traits  # noqa: SLF001
