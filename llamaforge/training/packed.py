"""Linear layers and embeddings whose weights stay as the file's packed blocks.

A weight is unpacked for the moment of a product and dropped again: forward and backward each
unpack it, and autograd keeps only the packed bytes. Gradients reach the input, never the blocks.
"""

import threading
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from llamaforge.gguf.ggml import unpack_rows
from llamaforge.gguf.types import FLOAT_TYPES, TensorType

_TORCH_TYPES: Final = {
    TensorType.F32: torch.float32,
    TensorType.F16: torch.float16,
    TensorType.BF16: torch.bfloat16,
}

_SCRATCH_WEIGHTS: Final = 64 * 1024 * 1024
"""A matrix of at most this many weights is unpacked into memory that is used again and again."""


class _Scratch(threading.local):
    """This thread's memory for unpacked matrices, one stretch for each type."""

    def __init__(self) -> None:
        self.lent: dict[torch.dtype, Tensor] = {}


_scratch = _Scratch()


class PackedWeight:
    """A frozen matrix of shape [rows, width] in the form in which its file holds it."""

    def __init__(self, blocks: Tensor, kind: TensorType, rows: int, width: int) -> None:
        """Take `blocks`, a uint8 tensor of shape [rows, bytes of a row], without a copy."""
        self.blocks = blocks.contiguous()
        self.kind = kind
        self.rows = rows
        self.width = width
        self._kept: Tensor | None = None

    def halves(self) -> "tuple[PackedWeight, PackedWeight]":
        """Return the first and the second half of the rows, without a copy."""
        middle = self.rows // 2
        return (
            PackedWeight(self.blocks[:middle], self.kind, middle, self.width),
            PackedWeight(self.blocks[middle:], self.kind, self.rows - middle, self.width),
        )

    def kept(self, dtype: torch.dtype) -> Tensor:
        """Return all rows as `dtype`, shape [rows, width], unpacked once and kept from then on."""
        if self._kept is None or self._kept.dtype is not dtype:
            self._kept = self.unpack(dtype)
        return self._kept

    def unpack(self, dtype: torch.dtype, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop` as `dtype`, shape [stop - start, width]."""
        stop = self.rows if stop is None else stop
        return _unpack(self.blocks[start:stop], self.kind, self.width, dtype)

    def lend(self, dtype: torch.dtype) -> Tensor:
        """Return all rows as `dtype`, shape [rows, width], until this thread's next `lend`.

        Fresh memory costs a page fault every 4 KiB, which takes longer than unpacking into it.
        """
        size = self.rows * self.width
        if self.kind in FLOAT_TYPES or size > _SCRATCH_WEIGHTS:
            return self.unpack(dtype)
        lent = _scratch.lent
        if dtype not in lent or lent[dtype].numel() < size:
            lent[dtype] = torch.empty(size, dtype=dtype)
        out = lent[dtype][:size].view(self.rows, self.width)
        return _unpack_to(out, self.blocks, self.kind)

    def gather(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows numbered in `rows` (any shape) as `dtype`, shape [*rows, width]."""
        unique, places = torch.unique(rows, return_inverse=True)
        picked = self.blocks.index_select(0, unique)
        return _unpack(picked, self.kind, self.width, dtype)[places]

    def parts(self, weights: int) -> Iterator[tuple[int, int]]:
        """Yield row ranges [start, stop) of at most about `weights` weights each."""
        step = max(1, weights // self.width)
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)


def _unpack(blocks: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    if kind in FLOAT_TYPES:
        return blocks.view(_TORCH_TYPES[kind]).to(dtype)
    return _unpack_to(torch.empty(blocks.shape[0], width, dtype=dtype), blocks, kind)


def _unpack_to(out: Tensor, blocks: Tensor, kind: TensorType) -> Tensor:
    """Unpack to `out`, contiguous [rows, width] in float32 or bfloat16, and return it."""
    as_bfloat16 = out.dtype is torch.bfloat16
    if not as_bfloat16 and out.dtype is not torch.float32:
        raise ValueError(f"blocks unpack to float32 or bfloat16, not to {out.dtype}")
    rows, width = out.shape
    unpack_rows(kind, blocks.data_ptr(), out.data_ptr(), rows, width, bfloat16=as_bfloat16)
    return out


class _PackedProduct(torch.autograd.Function):
    """y = x Wᵀ + b with W packed: saves the blocks, unpacks them again for the gradient of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, blocks: Tensor, weight: PackedWeight, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(blocks)
        ctx.weight = weight
        return functional.linear(x, weight.lend(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        weight: PackedWeight = ctx.weight
        return gradient @ weight.lend(gradient.dtype), None, None, None


class PackedLinear(nn.Linear):
    """A frozen linear layer over packed blocks; PEFT takes it for an `nn.Linear`.

    Input of shape [..., in_features] is computed in `compute_dtype` and comes out in it.
    """

    qweight: Tensor
    """The packed blocks, under the name by which PEFT knows a quantised layer."""

    def __init__(
        self, weight: PackedWeight, bias: Tensor | None, compute_dtype: torch.dtype
    ) -> None:
        nn.Module.__init__(self)
        self.in_features = weight.width
        self.out_features = weight.rows
        self.packed = weight
        self.compute_dtype = compute_dtype
        self.register_buffer("qweight", weight.blocks, persistent=False)
        self.register_parameter("weight", None)
        self.bias = None if bias is None else nn.Parameter(bias.to(compute_dtype), False)  # type: ignore[assignment]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Linear's argument
        """Return x Wᵀ + b, shape [..., out_features]."""
        x = input.to(self.compute_dtype)
        return cast(
            "Tensor",
            _PackedProduct.apply(x, self.qweight, self.packed, self.bias),  # type: ignore[no-untyped-call]
        )


class PackedEmbedding(nn.Module):
    """A frozen token embedding over packed blocks: only the rows that occur are unpacked."""

    blocks: Tensor

    def __init__(self, weight: PackedWeight, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings = weight.rows
        self.embedding_dim = weight.width
        self.packed = weight
        self.compute_dtype = compute_dtype
        self.register_buffer("blocks", weight.blocks, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings of `input_ids` [b, s], shape [b, s, embedding_dim]."""
        return self.packed.gather(input_ids, self.compute_dtype)
