"""Random packed blocks whose weights are all numbers, among them blocks with extreme scales."""

from typing import Final

import numpy as np
import numpy.typing as npt

from llamaforge.gguf.types import BLOCK_SIZES, TensorType, row_bytes

_HALVES: Final[dict[TensorType, tuple[int, ...]]] = {
    TensorType.Q4_0: (0,),
    TensorType.Q4_1: (0, 2),
    TensorType.Q5_0: (0,),
    TensorType.Q5_1: (0, 2),
    TensorType.Q8_0: (0,),
    TensorType.Q2_K: (80, 82),
    TensorType.Q3_K: (108,),
    TensorType.Q4_K: (0, 2),
    TensorType.Q5_K: (0, 2),
    TensorType.Q6_K: (208,),
    TensorType.IQ4_NL: (0,),
    TensorType.IQ4_XS: (0,),
    TensorType.F16: (0,),
}
"""Where in a block a float16 lies (`ggml/src/ggml-common.h` of llama.cpp)."""

KINDS: Final = (*_HALVES, TensorType.MXFP4, TensorType.BF16, TensorType.F32)
"""The types that `random_blocks` makes."""

_EXTREME_HALVES: Final = (
    *(0x0000, 0x8000),  # zero, and minus zero
    *(0x0001, 0x8001, 0x03FF, 0x83FF),  # the smallest and the largest subnormal number
    *(0x0400, 0x8400),  # the smallest normal number
    *(0x7BFF, 0xFBFF),  # the largest number
)


def random_blocks(kind: TensorType, rows: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return packed weights of shape [rows, bytes of a row]; none is infinite or not a number.

    The first blocks' scales are extreme, if there are enough blocks; the others are any float16.
    """
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (rows, row_bytes(kind, width)), dtype=np.uint8)
    blocks = raw.reshape(-1, BLOCK_SIZES[kind][1])
    if kind is TensorType.MXFP4:
        blocks[:, 0] %= 253  # exponents whose largest weight is still a number
        blocks[:4, 0] = np.arange(4)[: len(blocks)]
    elif kind in {TensorType.BF16, TensorType.F32}:
        high = blocks[:, -1]
        high[(high & 0x7F) == 0x7F] ^= 0x10  # no exponent of ones only
    for place in _HALVES.get(kind, ()):
        blocks[:, place : place + 2] = _halves(random, len(blocks))
    return raw


def _halves(random: np.random.Generator, count: int) -> npt.NDArray[np.uint8]:
    """Return `count` float16 numbers as bytes, shape [count, 2]."""
    bits = random.integers(0, 1 << 16, count, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] ^= 0x0400
    # In another order every time, so that scale and offset meet in many ways.
    extreme = random.permutation(np.array(_EXTREME_HALVES, dtype=np.uint16))
    bits[: len(extreme)] = extreme[:count]
    return bits.view(np.uint8).reshape(count, 2)
