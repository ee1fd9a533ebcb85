"""Unpacking on the device that holds the blocks: by its kernels, or else by torch's operations.

The CPU is not meant: ggml's own functions are faster there.
"""

import functools
import importlib.util
import os
import warnings
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from llamaforge.gguf.types import BLOCK_SIZES, TensorType
from llamaforge.training import unpack_torch


def can_unpack(kind: TensorType) -> bool:
    """Return whether blocks of `kind` are unpacked without the CPU."""
    return kind in unpack_torch.KINDS


def unpack(blocks: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    """Return the rows of `blocks` as `dtype`, shape [rows, width], on the blocks' device.

    Args:
        blocks: uint8, shape [rows, bytes of a row].
        kind: a type that `can_unpack` knows.
        width: weights a row.
        dtype: float32, bfloat16 or float16.
    """
    kernels = _kernels(blocks.device)
    if kernels is not None and kind in kernels.KINDS:
        return cast("Tensor", kernels.unpack(blocks, kind, width, dtype))
    return unpack_torch.unpack(blocks, kind, width, dtype)


def gather(
    blocks: Tensor, rows: Tensor, kind: TensorType, width: int, dtype: torch.dtype
) -> Tensor:
    """Return the rows numbered in `rows` (any shape) as `dtype`, shape [*rows, width].

    The other arguments are those of `unpack`.
    """
    kernels = _kernels(blocks.device)
    if kernels is not None and kind in kernels.KINDS:
        return cast("Tensor", kernels.gather(blocks, rows, kind, width, dtype))
    # To look for rows that occur twice would wait for the device; they are unpacked twice.
    picked = blocks.index_select(0, rows.reshape(-1))
    return unpack_torch.unpack(picked, kind, width, dtype).view(*rows.shape, width)


@functools.cache
def _kernels(device: torch.device) -> ModuleType | None:
    """Return the Triton kernels if they work on `device`.

    They are for CUDA, or for any device under Triton's interpreter (`TRITON_INTERPRET=1`).
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    is_cuda = device.type == "cuda" and torch.version.cuda is not None
    if not (interpreted or is_cuda) or importlib.util.find_spec("triton") is None:
        return None
    try:
        return _tried(device)
    # Triton compiles when a kernel is first called, with the machine's own C compiler for its
    # launcher: whatever is missing there or in the driver may be raised.
    except Exception as error:
        warnings.warn(
            f"Triton's kernels do not work on {device} ({_reason(error)}): blocks are unpacked by "
            "PyTorch's own operations, which takes longer.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _tried(device: torch.device) -> ModuleType:
    """Return the kernels after one of them unpacked a block as torch's operations do.

    Raises:
        ValueError: it did not.
        Exception: what Triton met with.
    """
    from llamaforge.training import unpack_triton  # noqa: PLC0415 - only where Triton is

    weights, size = BLOCK_SIZES[TensorType.Q8_0]
    blocks = torch.arange(size, dtype=torch.uint8).to(device)[None]
    ours = unpack_triton.unpack(blocks, TensorType.Q8_0, weights, torch.float32)
    theirs = unpack_torch.unpack(blocks, TensorType.Q8_0, weights, torch.float32)
    if not torch.equal(ours, theirs):
        raise ValueError("they give other weights")
    return unpack_triton


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
