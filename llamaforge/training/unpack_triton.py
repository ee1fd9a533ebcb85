"""Unpacking of the commonest block types by Triton kernels: bytes in, weights out, nothing between.

To be imported only where Triton is installed. A program takes several whole blocks, and its
threads follow the order of the weights, so that neighbours write neighbouring places; bytes that
two weights share are read twice, the second time from the cache. Scales are put together from
single bytes, since blocks do not lie at even addresses.
Source of the layouts: `ggml/src/ggml-common.h` and `ggml-quants.c` of llama.cpp. A product of a
scale and a quantised number has at most 24 significant bits, so fused multiplication and addition
rounds no differently from the two steps apart.
"""

import functools
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from llamaforge.gguf.types import BLOCK_SIZES, TensorType

_WEIGHTS_A_PROGRAM: Final = 2048
"""Sixteen for each thread of four warps; a power of two, as blocks have."""

_kernel = functools.partial(triton.jit, do_not_specialize=["count", "row_blocks", "rows"])
"""Compile once for matrices of all sizes: nothing is gained from knowing what divides them."""


@triton.jit
def _places(ids: tl.tensor, count: tl.tensor, row_blocks: tl.tensor, rows: tl.tensor,
            BLOCKS: tl.constexpr) -> Any:  # fmt: skip
    """Return the numbers of this program's blocks, [BLOCKS]: where to write, and what to read.

    With `ids` the rows it names are read; -1 stands for no block.
    """
    target = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = target < count
    source = tl.where(inside, target, -1)
    if ids is not None:
        row = tl.load(ids + target // row_blocks, mask=inside, other=-1).to(tl.int64)
        known = (row >= 0) & (row < rows)
        source = tl.where(known, row * row_blocks + target % row_blocks, -1)
    return target, source


@triton.jit
def _bytes(address: tl.tensor, known: tl.tensor) -> Any:
    """Return the bytes at `address` as int32, 0 where a block is not `known`."""
    return tl.load(address, mask=known, other=0).to(tl.int32)


@triton.jit
def _signed(address: tl.tensor, known: tl.tensor) -> Any:
    """Return the bytes at `address` as the int8 they hold, in float32."""
    return tl.load(address, mask=known, other=0).to(tl.int8, bitcast=True).to(tl.float32)


@triton.jit
def _half(address: tl.tensor, known: tl.tensor) -> Any:
    """Return the two bytes at `address` as the float16 they hold, in float32.

    Kernels ask for one address a block and spread the answer: spread addresses would be read once
    for every weight.
    """
    bits = _bytes(address, known) | (_bytes(address + 1, known) << 8)
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _store(out: tl.tensor, target: tl.tensor, source: tl.tensor, count: tl.tensor,
           place: tl.tensor, values: tl.tensor, WEIGHTS: tl.constexpr) -> None:  # fmt: skip
    """Write each block's values to their `place` in it; an unknown row becomes not a number."""
    values = tl.where((source >= 0)[:, None, None], values, float("nan"))
    address = out + target[:, None, None] * WEIGHTS + place
    tl.store(address, values.to(out.dtype.element_ty), mask=(target < count)[:, None, None])


@_kernel
def _q4_0(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    half = tl.arange(0, 2)[None, :, None]
    lane = tl.arange(0, 16)[None, None, :]
    first, known = blocks + source * 18, source >= 0
    scale = _half(first, known)[:, None, None]
    number = (_bytes(first[:, None, None] + 2 + lane, known[:, None, None]) >> (4 * half)) & 15
    values = scale * (number - 8).to(tl.float32)
    _store(out, target, source, count, half * 16 + lane, values, 32)


@_kernel
def _q5_0(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    half = tl.arange(0, 2)[None, :, None]
    lane = tl.arange(0, 16)[None, None, :]
    first, known = blocks + source * 22, source >= 0
    scale = _half(first, known)[:, None, None]
    low = (_bytes(first[:, None, None] + 6 + lane, known[:, None, None]) >> (4 * half)) & 15
    # The fifth bits of the sixteen weights of a half, one below the other.
    bits = _bytes(first + 2, known) | (_bytes(first + 3, known) << 8)
    more = _bytes(first + 4, known) | (_bytes(first + 5, known) << 8)
    bits = bits | (more << 16)
    high = (bits[:, None, None] >> (half * 16 + lane)) & 1
    values = scale * ((low | (high << 4)) - 16).to(tl.float32)
    _store(out, target, source, count, half * 16 + lane, values, 32)


@_kernel
def _q8_0(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    lane = tl.arange(0, 32)[None, None, :]
    first, known = blocks + source * 34, source >= 0
    scale = _half(first, known)[:, None, None]
    values = scale * _signed(first[:, None, None] + 2 + lane, known[:, None, None])
    _store(out, target, source, count, lane, values, 32)


@triton.jit
def _scales_and_offsets(first: tl.tensor, known: tl.tensor) -> Any:
    """Return scales and offsets of the eight parts of Q4_K and Q5_K blocks, [BLOCKS, 8, 1] each.

    The first four parts have six bits each in bytes 4 to 7 and 8 to 11; the others have four in
    bytes 12 to 15, and their high two in what is left of the first eight.
    """
    part = tl.arange(0, 8)[None, :]
    scales, there = first[:, None] + 4 + part % 4, known[:, None]
    one, two, low = _bytes(scales, there), _bytes(scales + 4, there), _bytes(scales + 8, there)
    scale = tl.where(part < 4, one & 63, (low & 15) | ((one >> 2) & 48)).to(tl.float32)
    offset = tl.where(part < 4, two & 63, (low >> 4) | ((two >> 2) & 48)).to(tl.float32)
    scale = _half(first, known)[:, None] * scale
    offset = _half(first + 2, known)[:, None] * offset
    return scale[:, :, None], offset[:, :, None]


@_kernel
def _q4_k(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    part = tl.arange(0, 8)[None, :, None]
    lane = tl.arange(0, 32)[None, None, :]
    first, known = blocks + source * 144, source >= 0
    scale, offset = _scales_and_offsets(first, known)
    base, there = first[:, None, None], known[:, None, None]
    number = (_bytes(base + 16 + part // 2 * 32 + lane, there) >> (part % 2 * 4)) & 15
    values = scale * number.to(tl.float32) - offset
    _store(out, target, source, count, part * 32 + lane, values, 256)


@_kernel
def _q5_k(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    part = tl.arange(0, 8)[None, :, None]
    lane = tl.arange(0, 32)[None, None, :]
    first, known = blocks + source * 176, source >= 0
    scale, offset = _scales_and_offsets(first, known)
    base, there = first[:, None, None], known[:, None, None]
    low = (_bytes(base + 48 + part // 2 * 32 + lane, there) >> (part % 2 * 4)) & 15
    high = (_bytes(base + 16 + lane, there) >> part) & 1
    values = scale * (low | (high << 4)).to(tl.float32) - offset
    _store(out, target, source, count, part * 32 + lane, values, 256)


@_kernel
def _q6_k(blocks: tl.tensor, out: tl.tensor, ids: tl.tensor, count: tl.tensor,
          row_blocks: tl.tensor, rows: tl.tensor, BLOCKS: tl.constexpr) -> None:  # fmt: skip
    target, source = _places(ids, count, row_blocks, rows, BLOCKS)
    first, known = blocks + source * 210, source >= 0
    # Sixteen parts with a scale each; eight of them, in four pairs, share the bytes of a half.
    scales = first[:, None] + 192 + tl.arange(0, 16)[None, :]
    scale = _half(first + 208, known)[:, None] * _signed(scales, known[:, None])
    part = tl.arange(0, 16)[None, :, None]
    lane = tl.arange(0, 16)[None, None, :]
    half, pair, column = part // 8, part // 2 % 4, part % 2 * 16 + lane
    base, there = first[:, None, None], known[:, None, None]
    low = _bytes(base + half * 64 + pair % 2 * 32 + column, there) >> (pair // 2 * 4)
    high = _bytes(base + 128 + half * 32 + column, there) >> (pair * 2)
    number = ((low & 15) | ((high & 3) << 4)) - 32
    values = scale[:, :, None] * number.to(tl.float32)
    _store(out, target, source, count, part * 16 + lane, values, 256)


_KERNELS: Final[dict[TensorType, Any]] = {
    TensorType.Q4_0: _q4_0,
    TensorType.Q5_0: _q5_0,
    TensorType.Q8_0: _q8_0,
    TensorType.Q4_K: _q4_k,
    TensorType.Q5_K: _q5_k,
    TensorType.Q6_K: _q6_k,
}

KINDS: Final = frozenset(_KERNELS)
"""The types that have a kernel."""


def unpack(blocks: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    """Return the rows of `blocks` as `dtype`, shape [rows, width], on the blocks' device.

    Args:
        blocks: uint8, shape [rows, bytes of a row].
        kind: one of `KINDS`.
        width: weights a row.
        dtype: float32, bfloat16 or float16; values are worked out in float32 and rounded last.
    """
    out = torch.empty(blocks.shape[0], width, dtype=dtype, device=blocks.device)
    return _launch(blocks, None, kind, out)


def gather(blocks: Tensor, ids: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    """Return the rows numbered in `ids` (any shape) as `dtype`, shape [*ids, width].

    No value is read back to check the numbers: the row of one that does not exist is filled with
    what is not a number. Arguments are those of `unpack`, and `ids` int32 or int64.
    """
    out = torch.empty(*ids.shape, width, dtype=dtype, device=blocks.device)
    return _launch(blocks, ids.contiguous(), kind, out)


def _launch(blocks: Tensor, ids: Tensor | None, kind: TensorType, out: Tensor) -> Tensor:
    """Fill `out` [..., width] from all rows, or from those that `ids` names, and return it."""
    weights = BLOCK_SIZES[kind][0]
    count = out.numel() // weights
    if count:
        taken = _WEIGHTS_A_PROGRAM // weights
        # Triton launches on the current device, which need not be that of the blocks.
        with torch.cuda.device_of(blocks):  # type: ignore[no-untyped-call]
            _KERNELS[kind][(triton.cdiv(count, taken),)](
                blocks.contiguous(),
                out,
                ids,
                count,
                out.shape[-1] // weights,
                blocks.shape[0],
                BLOCKS=taken,
            )
    return out
