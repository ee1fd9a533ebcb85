"""Linear layers and embeddings whose weights stay as the file's packed blocks.

A weight is unpacked for the moment of a product and dropped again: forward and backward each
unpack it, and autograd keeps only the packed bytes. Gradients reach the input, never the blocks.

On the CPU ggml's functions unpack. On any other device the packed bytes lie on it and are unpacked
there, and nothing waits for it; only types that it cannot unpack stay with the CPU.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from llamaforge.gguf.ggml import unpack_rows
from llamaforge.gguf.types import FLOAT_TYPES, TensorType
from llamaforge.recipe.estimate import SCRATCH_WEIGHTS
from llamaforge.training import unpack_device

_TORCH_TYPES: Final = {
    TensorType.F32: torch.float32,
    TensorType.F16: torch.float16,
    TensorType.BF16: torch.bfloat16,
}


class _Scratch(threading.local):
    """This thread's memory for unpacked matrices, one stretch for each type."""

    def __init__(self) -> None:
        self.lent: dict[torch.dtype, Tensor] = {}


_scratch = _Scratch()


class PackedWeight:
    """A frozen matrix of shape [rows, width] in the form in which its file holds it."""

    def __init__(self, blocks: Tensor, kind: TensorType, rows: int, width: int) -> None:
        """Take `blocks`, a uint8 tensor of shape [rows, bytes of a row], without a copy."""
        self.kind = kind
        self.rows = rows
        self.width = width
        self.device = blocks.device
        """Where weights come out; the blocks lie there too if they can be unpacked there."""
        self.blocks = _placed(blocks.contiguous(), kind, self.device)
        self._kept: Tensor | None = None

    def halves(self) -> "tuple[PackedWeight, PackedWeight]":
        """Return the first and the second half of the rows, without a copy."""
        middle = self.rows // 2
        return (
            PackedWeight(self.blocks[:middle], self.kind, middle, self.width),
            PackedWeight(self.blocks[middle:], self.kind, self.rows - middle, self.width),
        )

    def move(self, device: torch.device) -> None:
        """Have weights come out on `device` from now on, and take the blocks there."""
        if device != self.device:
            self.device = device
            self.blocks = _placed(self.blocks, self.kind, device)
            self._kept = None

    @property
    def token(self) -> Tensor:
        """The blocks, or an empty tensor on `device` if they had to stay with the CPU.

        It stands for the weight where others look at a layer's buffers for its device.
        """
        if self.blocks.device == self.device:
            return self.blocks
        return torch.empty(0, dtype=torch.uint8, device=self.device)

    def kept(self, dtype: torch.dtype) -> Tensor:
        """Return all rows as `dtype`, shape [rows, width], unpacked once and kept from then on."""
        if self._kept is None or self._kept.dtype is not dtype:
            self._kept = self.unpack(dtype)
        return self._kept

    def unpack(self, dtype: torch.dtype, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop` as `dtype`, shape [stop - start, width]."""
        stop = self.rows if stop is None else stop
        return self._out(_unpack(self.blocks[start:stop], self.kind, self.width, dtype))

    def lend(self, dtype: torch.dtype) -> Tensor:
        """Return all rows as `dtype`, shape [rows, width], until this thread's next `lend`.

        Fresh memory costs a page fault every 4 KiB, which takes longer than unpacking into it.
        """
        size = self.rows * self.width
        # Other devices than the CPU have an allocator that gives the same memory again.
        if self.kind in FLOAT_TYPES or size > SCRATCH_WEIGHTS or not _on_host(self.device):
            return self.unpack(dtype)
        lent = _scratch.lent
        if dtype not in lent or lent[dtype].numel() < size:
            lent[dtype] = torch.empty(size, dtype=dtype)
        out = lent[dtype][:size].view(self.rows, self.width)
        return _unpack_to(out, self.blocks, self.kind)

    def gather(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows numbered in `rows` (any shape) as `dtype`, shape [*rows, width]."""
        if not _on_host(self.blocks.device):
            return unpack_device.gather(self.blocks, rows, self.kind, self.width, dtype)
        unique, places = torch.unique(rows.to(self.blocks.device), return_inverse=True)
        picked = self.blocks.index_select(0, unique)
        return self._out(_unpack(picked, self.kind, self.width, dtype)[places])

    def _out(self, weights: Tensor) -> Tensor:
        return weights if weights.device == self.device else weights.to(self.device)

    def parts(self, weights: int) -> Iterator[tuple[int, int]]:
        """Yield row ranges [start, stop) of at most about `weights` weights each."""
        step = max(1, weights // self.width)
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)


def _on_host(device: torch.device) -> bool:
    """Return whether blocks on `device` are for ggml's functions, which need the CPU's memory."""
    return device.type == "cpu"


_stated: set[TensorType] = set()


def _placed(blocks: Tensor, kind: TensorType, device: torch.device) -> Tensor:
    """Return `blocks` on `device`, or on the CPU if no other device can unpack their type."""
    if _on_host(device) or unpack_device.can_unpack(kind):
        return blocks.to(device)
    if kind not in _stated:
        _stated.add(kind)
        warnings.warn(
            f"{kind.name} blocks cannot be unpacked on {device}: the CPU unpacks them in every "
            "step and sends the weights over, which is slow. Another quantisation of the model "
            "avoids it.",
            RuntimeWarning,
            stacklevel=3,
        )
    return blocks.cpu()


def _unpack(blocks: Tensor, kind: TensorType, width: int, dtype: torch.dtype) -> Tensor:
    if not _on_host(blocks.device):
        return unpack_device.unpack(blocks, kind, width, dtype)
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
        self.register_buffer("qweight", weight.token, persistent=False)
        self.register_parameter("weight", None)
        self.bias = None if bias is None else nn.Parameter(bias.to(compute_dtype), False)  # type: ignore[assignment]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Linear's argument
        """Return x Wᵀ + b, shape [..., out_features]."""
        x = input.to(self.compute_dtype)
        return cast(
            "Tensor",
            _PackedProduct.apply(x, self.packed.blocks, self.packed, self.bias),  # type: ignore[no-untyped-call]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.qweight = _moved(self.packed, fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


class PackedEmbedding(nn.Module):
    """A frozen token embedding over packed blocks: only the rows that occur are unpacked."""

    blocks: Tensor

    def __init__(self, weight: PackedWeight, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings = weight.rows
        self.embedding_dim = weight.width
        self.packed = weight
        self.compute_dtype = compute_dtype
        self.register_buffer("blocks", weight.token, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings of `input_ids` [b, s], shape [b, s, embedding_dim]."""
        return self.packed.gather(input_ids, self.compute_dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.blocks = _moved(self.packed, fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


def _moved(weight: PackedWeight, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Take `weight` to where a module's `to` and the like take tensors; return its token there.

    A weight may be shared by several modules, as that of tied embeddings is: the first one to
    move takes it along, and the others find it there.
    """
    weight.move(fn(torch.empty(0, dtype=torch.uint8, device=weight.device)).device)
    return weight.token
