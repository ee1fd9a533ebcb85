"""Whether the weights of a GGUF file are numbers, told from the blocks' scales alone.

A block's integers are numbers whatever their bits; only its half-precision scales, and the values
of tensors without blocks, can be infinite or no number at all. Where the scales lie is the layout
of `ggml/src/ggml-common.h` of llama.cpp.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from llamaforge.gguf.header import Header
from llamaforge.gguf.types import BLOCK_SIZES, TensorType

_SCALES_AT: Final = {
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
    TensorType.IQ2_XXS: (0,),
    TensorType.IQ2_XS: (0,),
    TensorType.IQ2_S: (0,),
    TensorType.IQ3_XXS: (0,),
    TensorType.IQ3_S: (0,),
    TensorType.IQ1_S: (0,),
    TensorType.IQ4_NL: (0,),
    TensorType.IQ4_XS: (0,),
    TensorType.TQ1_0: (52,),
    TensorType.TQ2_0: (64,),
    TensorType.Q1_0: (0,),
    TensorType.F16: (0,),
}
"""Bytes into a block at which half-precision numbers stand."""

_HALF_EXPONENT: Final = np.uint16(0x7C00)
_BFLOAT16_EXPONENT: Final = np.uint16(0x7F80)
_FLOAT32_EXPONENT: Final = np.uint32(0x7F800000)
_IQ1_M_SCALES_AT: Final = 48
_LARGEST_MXFP4_EXPONENT: Final = 252
"""A larger one takes the type's largest value, 12 halves, beyond float32."""
_STRETCH_BYTES: Final = 1 << 26


def not_finite(header: Header, on_bytes: Callable[[int], None] | None = None) -> str | None:
    """Return the name of the first tensor that holds an infinite value or no number, if any does.

    `on_bytes` takes the number of tensor bytes looked at so far, after every few of them.
    """
    done = 0
    for name, info in header.tensors.items():
        for stretch in _stretches(header.file_of(info), info.offset, info.n_bytes, info.type):
            if not is_finite(stretch, info.type):
                return name
            done += stretch.nbytes
            if on_bytes is not None:
                on_bytes(done)
    return None


def _stretches(
    path: Path, offset: int, size: int, kind: TensorType
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a tensor's bytes in stretches of whole blocks, each read and dropped again."""
    block = BLOCK_SIZES[kind][1]
    step = _STRETCH_BYTES // block * block
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, size, step):
            yield np.frombuffer(file.read(min(step, size - start)), dtype=np.uint8)


def is_finite(data: npt.NDArray[np.uint8], kind: TensorType) -> bool:
    """Return whether whole blocks of `kind` hold neither infinite values nor what is no number."""
    if kind is TensorType.F32:
        return not bool((~data.view("<u4") & _FLOAT32_EXPONENT == 0).any())
    if kind is TensorType.BF16:
        return not bool((~data.view("<u2") & _BFLOAT16_EXPONENT == 0).any())
    if kind is TensorType.MXFP4:
        return not bool((data[:: BLOCK_SIZES[kind][1]] > _LARGEST_MXFP4_EXPONENT).any())
    if kind is TensorType.IQ1_M:
        return _are_halves(_iq1_m_scales(data))
    block = BLOCK_SIZES[kind][1]
    rows = data[: data.size // block * block].reshape(-1, block)
    return all(
        _are_halves(np.ascontiguousarray(rows[:, at : at + 2]).view("<u2"))
        for at in _SCALES_AT.get(kind, ())
    )


def _are_halves(bits: npt.NDArray[np.uint16]) -> bool:
    return not bool((~bits & _HALF_EXPONENT == 0).any())


def _iq1_m_scales(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Return the scales of IQ1_M blocks: four bits each at the top of four 16-bit words."""
    rows = data.reshape(-1, BLOCK_SIZES[TensorType.IQ1_M][1])
    words = np.ascontiguousarray(rows[:, _IQ1_M_SCALES_AT:]).view("<u2")
    parts = [
        (words[:, place] & np.uint16(0xF000)) >> np.uint16(12 - 4 * place) for place in range(4)
    ]
    whole: npt.NDArray[np.uint16] = parts[0] | parts[1] | parts[2] | parts[3]
    return whole
