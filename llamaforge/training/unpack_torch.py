"""Unpacking of blocks by plain torch operations, on whatever device the blocks lie.

It is the way for devices without kernels of their own, and what those kernels are held against.
Nothing here waits for the device: no value is read back, and tables are sent over once.
Source of the layouts: `ggml/src/ggml-common.h` and `ggml-quants.c` of llama.cpp. A product of a
scale and a quantised number has at most 24 significant bits, so float32 holds it exactly, and
the order of operations does not matter.
"""

import functools
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from llamaforge.gguf.types import BLOCK_SIZES, FLOAT_TYPES, TensorType

_CHUNK_WEIGHTS: Final = 1 << 24
"""Weights that are worked on at a time: each float32 step of the way takes 64 MiB."""
_IQ4_VALUES: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the four bits of IQ4_NL and IQ4_XS stand for (`kvalues_iq4nl`)."""
_FP4_VALUES: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the four bits of an E2M1 number stand for (`kvalues_mxfp4`)."""
_FLOATS: Final = {
    TensorType.F32: torch.float32,
    TensorType.F16: torch.float16,
    TensorType.BF16: torch.bfloat16,
}


def _shifts(blocks: Tensor, step: int) -> Tensor:
    """Return 0, `step`, … below 8, made on the device of `blocks` without a copy to it."""
    return torch.arange(0, 8, step, dtype=torch.uint8, device=blocks.device)


@functools.cache
def _table(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _looked_up(numbers: Tensor, values: tuple[int, ...]) -> Tensor:
    """Return what the four-bit `numbers` stand for, in float32."""
    return _table(values, numbers.device)[numbers.int()]


def _half(part: Tensor) -> Tensor:
    """Return pairs of bytes [n, 2] as the float16 they hold, in float32, shape [n, 1]."""
    # Blocks lie at odd addresses; the copy does not.
    return part.contiguous().view(torch.float16).float()


def _spread(part: Tensor, run: int, bits: int) -> Tensor:
    """Cut bytes [n, m] into fields of `bits`, shape [n, m / run, 8 / bits, run].

    The lowest field of `run` bytes in a row comes first, then the next field of the same bytes.
    """
    fields = part.reshape(part.shape[0], -1, 1, run) >> _shifts(part, bits)[:, None]
    return fields & ((1 << bits) - 1)


def _nibbles(part: Tensor, run: int = 16) -> Tensor:
    """Return both halves of bytes [n, m] as [n, 2 m], the low ones of `run` bytes first."""
    return _spread(part, run, 4).flatten(1)


def _fifth_bits(part: Tensor) -> Tensor:
    """Return the bits of four bytes [n, 4], the lowest first, as 0 or 16, shape [n, 32]."""
    return _spread(part, 1, 1).flatten(1) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _nibbles(blocks[:, 4:]).float() + _half(blocks[:, 2:4])


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks[:, :2]) * (numbers.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks[:, :2]) * numbers.float() + _half(blocks[:, 2:4])


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * blocks[:, 2:].view(torch.int8).float()


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    scale = _half(blocks[:, 80:82]) * (scales & 15).float()
    offset = _half(blocks[:, 82:84]) * (scales >> 4).float()
    numbers = _spread(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16)
    return scale[..., None] * numbers.float() - offset[..., None]


def _q3_k(blocks: Tensor) -> Tensor:
    # Sixteen scales of six bits: four low ones in eight bytes, two high ones in four.
    scales = _nibbles(blocks[:, 96:104], 8) | (_spread(blocks[:, 104:108], 4, 2).flatten(1) << 4)
    scale = _half(blocks[:, 108:110]) * (scales.float() - 32)
    low = _spread(blocks[:, 32:96], 32, 2).reshape(-1, 16, 16)
    high = _spread(blocks[:, :32], 32, 1).reshape(-1, 16, 16)
    # A number is four less where its third bit is not set.
    return scale[..., None] * ((low | (high << 2)).float() - 4)


def _scales_and_offsets(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eight scales and offsets of Q4_K and Q5_K blocks, each [n, 8, 1] in float32.

    Twelve bytes hold sixteen numbers of six bits: those of the first four parts are the low six
    bits of bytes 0 to 3 and 4 to 7; the others have four bits in bytes 8 to 11, and their high
    two bits in what is left of the first eight bytes.
    """
    first, second, low = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, (low & 15) | ((first >> 2) & 48)], dim=1)
    offsets = torch.cat([second & 63, (low >> 4) | ((second >> 2) & 48)], dim=1)
    return (
        (_half(blocks[:, :2]) * scales.float())[..., None],
        (_half(blocks[:, 2:4]) * offsets.float())[..., None],
    )


def _q4_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(blocks)
    return scale * _spread(blocks[:, 16:], 32, 4).reshape(-1, 8, 32).float() - offset


def _q5_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(blocks)
    low = _spread(blocks[:, 48:], 32, 4).reshape(-1, 8, 32)
    high = _spread(blocks[:, 16:48], 32, 1).reshape(-1, 8, 32)
    return scale * (low | (high << 4)).float() - offset


def _q6_k(blocks: Tensor) -> Tensor:
    scale = _half(blocks[:, 208:210]) * blocks[:, 192:208].view(torch.int8).float()
    low = _spread(blocks[:, :128], 64, 4).reshape(-1, 16, 16)
    high = _spread(blocks[:, 128:192], 32, 2).reshape(-1, 16, 16)
    return scale[..., None] * ((low | (high << 4)).float() - 32)


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _looked_up(_nibbles(blocks[:, 2:]), _IQ4_VALUES)


def _iq4_xs(blocks: Tensor) -> Tensor:
    low, high = _nibbles(blocks[:, 4:8], 1), _spread(blocks[:, 2:4], 1, 2).flatten(1)
    scale = _half(blocks[:, :2]) * ((low | (high << 4)).float() - 32)
    numbers = _nibbles(blocks[:, 8:]).reshape(-1, 8, 32)
    return scale[..., None] * _looked_up(numbers, _IQ4_VALUES)


def _mxfp4(blocks: Tensor) -> Tensor:
    exponent = blocks[:, :1].int()
    # Half of 2^(e - 127), since the table is doubled; 0 and 1 give subnormal numbers.
    bits = torch.where(exponent < 2, 0x00200000 << exponent, (exponent - 1) << 23)
    return bits.view(torch.float32) * _looked_up(_nibbles(blocks[:, 1:]), _FP4_VALUES)


_UNPACKERS: Final[dict[TensorType, Callable[[Tensor], Tensor]]] = {
    TensorType.Q4_0: _q4_0,
    TensorType.Q4_1: _q4_1,
    TensorType.Q5_0: _q5_0,
    TensorType.Q5_1: _q5_1,
    TensorType.Q8_0: _q8_0,
    TensorType.Q2_K: _q2_k,
    TensorType.Q3_K: _q3_k,
    TensorType.Q4_K: _q4_k,
    TensorType.Q5_K: _q5_k,
    TensorType.Q6_K: _q6_k,
    TensorType.IQ4_NL: _iq4_nl,
    TensorType.IQ4_XS: _iq4_xs,
    TensorType.MXFP4: _mxfp4,
}
"""From blocks [n, bytes of a block] to float32 values, [n, …] with a block's weights in order."""

KINDS: Final = FLOAT_TYPES | _UNPACKERS.keys()
"""The types that `unpack` knows."""


def unpack(blocks: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    """Return the rows of `blocks` as `dtype`, shape [rows, width], on the blocks' device.

    Args:
        blocks: uint8, shape [rows, bytes of a row], on any device.
        kind: one of `KINDS`.
        width: weights a row.
        dtype: float32, bfloat16 or float16; values are worked out in float32 and rounded last.
    """
    if kind in FLOAT_TYPES:
        return blocks.contiguous().view(_FLOATS[kind]).to(dtype)
    weights, size = BLOCK_SIZES[kind]
    unpacker = _UNPACKERS[kind]
    flat = blocks.reshape(-1, size)
    out = torch.empty(flat.shape[0], weights, dtype=dtype, device=blocks.device)
    step = _CHUNK_WEIGHTS // weights
    for start in range(0, flat.shape[0], step):
        part = flat[start : start + step]
        out[start : start + step] = unpacker(part).reshape(-1, weights)
    return out.view(blocks.shape[0], width)
