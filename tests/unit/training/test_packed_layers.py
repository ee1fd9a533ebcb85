"""Packed layers give what unpacked ones give, and keep only packed bytes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llamaforge.gguf.ggml import pack_rows
from llamaforge.gguf.types import BLOCK_SIZES, FLOAT_TYPES, TensorType
from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight

QUANTIZED = [TensorType.Q4_0, TensorType.Q5_0, TensorType.Q8_0, TensorType.Q4_K, TensorType.Q5_K,
             TensorType.Q6_K]  # fmt: skip


def packed_weight(kind: TensorType, rows: int = 6, width: int = 512) -> PackedWeight:
    values = np.random.default_rng(3).standard_normal((rows, width), dtype=np.float32)
    if kind in FLOAT_TYPES:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
        blocks = torch.from_numpy(values).to(dtype).view(torch.uint8).reshape(rows, -1)
    else:
        blocks = torch.from_numpy(pack_rows(kind, values))
    return PackedWeight(blocks, kind, rows, width)


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOAT_TYPES])
def test_one_hot_gradients_decode_every_weight_exactly(kind: TensorType) -> None:
    weight = packed_weight(kind)
    layer = PackedLinear(weight, None, torch.float32)
    x = torch.zeros(weight.rows, weight.width, requires_grad=True)
    layer(x).backward(torch.eye(weight.rows))
    assert x.grad is not None
    assert torch.equal(x.grad, weight.unpack(torch.float32))


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOAT_TYPES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_input_gradient_equal_those_of_the_unpacked_layer(
    kind: TensorType, dtype: torch.dtype
) -> None:
    weight = packed_weight(kind)
    bias = torch.randn(weight.rows)
    packed = PackedLinear(weight, bias, dtype)
    plain = nn.Linear(weight.width, weight.rows, dtype=dtype)
    plain.weight = nn.Parameter(weight.unpack(dtype), requires_grad=False)
    plain.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 5, weight.width, generator=generator).to(dtype)
    gradient = torch.randn(2, 5, weight.rows, generator=generator).to(dtype)
    results = []
    for layer in (packed, plain):
        x = given.clone().requires_grad_()
        y = layer(x)
        (x_gradient,) = torch.autograd.grad(y, x, gradient)
        results.append((y.float(), x_gradient.float()))
    tolerance = 1e-6 if dtype is torch.float32 else 5e-3  # of bfloat16's eight bits
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_autograd_keeps_only_the_packed_bytes() -> None:
    weight = packed_weight(TensorType.Q4_K, rows=64)
    layer = PackedLinear(weight, None, torch.float32)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(3, weight.width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    block, size = BLOCK_SIZES[TensorType.Q4_K]
    assert [tensor.dtype for tensor in saved] == [torch.uint8]
    assert saved[0].data_ptr() == weight.blocks.data_ptr()
    assert saved[0].numel() == 64 * 512 // block * size


def test_the_blocks_get_no_gradient_and_are_no_part_of_a_checkpoint() -> None:
    layer = PackedLinear(packed_weight(TensorType.Q8_0), None, torch.float32)
    layer(torch.randn(1, 512, requires_grad=True)).sum().backward()
    assert layer.qweight.grad is None
    assert not layer.state_dict()
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("kind", [TensorType.Q4_K, TensorType.F16])
def test_embedding_rows_equal_the_unpacked_table(kind: TensorType) -> None:
    weight = packed_weight(kind, rows=9)
    ids = torch.tensor([[0, 8, 8], [3, 0, 1]])
    rows = PackedEmbedding(weight, torch.float32)(ids)
    assert torch.equal(rows, weight.unpack(torch.float32)[ids])
