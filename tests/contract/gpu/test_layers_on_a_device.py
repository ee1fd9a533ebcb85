"""Packed layers on a device give what they give on the CPU, keep packed bytes, and never wait.

There is no device here. Torch's operations run on the CPU's tensors in its place; and on `meta`
tensors, which have no values, whatever would wait for a value raises an error.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llamaforge.gguf.ggml import pack_rows
from llamaforge.gguf.types import TensorType
from llamaforge.training import packed, unpack_torch
from llamaforge.training.experts import PackedExperts
from llamaforge.training.loss import OutputHead, token_losses
from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight
from tools.random_blocks import KINDS, random_blocks

META = torch.device("meta")
ROWS, WIDTH = 24, 512
WITHOUT_KERNEL = TensorType.IQ2_XS


def weight_of(kind: TensorType, rows: int = ROWS) -> PackedWeight:
    if kind is WITHOUT_KERNEL:
        raw = torch.zeros(rows, 2 * 74, dtype=torch.uint8)
    else:
        raw = torch.from_numpy(random_blocks(kind, rows, WIDTH))
    return PackedWeight(raw, kind, rows, WIDTH)


def usual(kind: TensorType) -> PackedWeight:
    """Return a weight of random numbers as models have them."""
    values = np.random.default_rng(3).standard_normal((ROWS, WIDTH), dtype=np.float32)
    return PackedWeight(torch.from_numpy(pack_rows(kind, values)), kind, ROWS, WIDTH)


@contextmanager
def on_a_device() -> Iterator[None]:
    """Have the CPU's tensors taken for those of a device that unpacks by torch's operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_on_host", lambda _: False)
        yield


def passed_through(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (back,) = torch.autograd.grad(y, x, gradient)
    return y.detach(), back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradient_of_a_linear_layer_equal_those_on_the_cpu(
    kind: TensorType, dtype: torch.dtype
) -> None:
    layer = PackedLinear(usual(kind), torch.randn(ROWS), dtype)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, WIDTH, generator=generator).to(dtype)
    gradient = torch.randn(2, 3, ROWS, generator=generator).to(dtype)
    on_cpu = passed_through(layer, x, gradient)
    with on_a_device():
        found = passed_through(layer, x, gradient)
    for ours, theirs in zip(found, on_cpu, strict=True):
        assert theirs.isfinite().all()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_gradients_decode_every_weight_exactly(kind: TensorType) -> None:
    weight = weight_of(kind)
    layer = PackedLinear(weight, None, torch.float32)
    with on_a_device():
        _, found = passed_through(layer, torch.zeros(ROWS, WIDTH), torch.eye(ROWS))
    assert torch.equal(found, weight.unpack(torch.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_rows_and_parts_of_a_head_equal_those_on_the_cpu(kind: TensorType) -> None:
    weight = weight_of(kind)
    ids = torch.tensor([[0, 23, 23], [4, 0, 1]])
    embedding = PackedEmbedding(weight, torch.bfloat16)
    on_cpu = embedding(ids), weight.unpack(torch.float32, 5, 9)
    with on_a_device():
        found = embedding(ids), weight.unpack(torch.float32, 5, 9)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, on_cpu, strict=True))


def test_autograd_keeps_only_the_packed_bytes() -> None:
    weight = weight_of(TensorType.Q4_K)
    layer = PackedLinear(weight, None, torch.float32)
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with on_a_device(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(3, WIDTH, requires_grad=True))
    assert [tensor.data_ptr() for tensor in saved] == [weight.blocks.data_ptr()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_waits_for_no_value_of_its_device(kind: TensorType) -> None:
    layer = PackedLinear(weight_of(kind), torch.randn(ROWS), torch.bfloat16).to(META)
    x = torch.randn(2, WIDTH, device=META, dtype=torch.bfloat16)
    output, gradient = passed_through(layer, x, torch.empty(2, ROWS, device=META))
    assert (output.device, output.shape) == (META, (2, ROWS))
    assert (gradient.device, gradient.shape) == (META, (2, WIDTH))


@pytest.mark.parametrize("kept", [True, False])
def test_embedding_and_loss_wait_for_no_value_of_their_device(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr("llamaforge.training.loss.HEAD_KEPT_BYTES", 0)
    weight = weight_of(TensorType.Q6_K)
    ids = torch.empty(2, 5, dtype=torch.int64, device=META)
    hidden = PackedEmbedding(weight, torch.bfloat16).to(META)(ids).flatten(0, 1)
    losses = token_losses(hidden.requires_grad_(), ids.flatten(), OutputHead(weight))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert (losses.device, losses.shape) == (META, (10,))
    assert hidden.grad is not None


def test_tied_layers_share_their_blocks_wherever_they_move() -> None:
    weight = weight_of(TensorType.Q6_K)
    model = nn.ModuleList(
        [PackedEmbedding(weight, torch.bfloat16), PackedLinear(weight, None, torch.bfloat16)]
    )
    model.to(META)
    embedding, head = model
    assert weight.device == weight.blocks.device == META
    assert embedding.blocks is weight.blocks
    assert head.qweight is weight.blocks


def test_a_kept_weight_is_unpacked_again_after_a_move() -> None:
    weight = weight_of(TensorType.Q6_K)
    assert weight.kept(torch.float32).device.type == "cpu"
    weight.move(META)
    assert weight.kept(torch.float32).device == META


def test_experts_move_with_their_layer() -> None:
    parts = [[weight_of(TensorType.Q4_0) for _ in range(2)] for _ in range(3)]
    experts = PackedExperts(parts, [None] * 3, torch.mul, torch.bfloat16)
    experts.to(META)
    assert {weight.blocks.device for part in parts for weight in part} == {META}


def test_a_type_without_operations_stays_with_the_cpu_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "_stated", set())
    first, second = (PackedLinear(weight_of(WITHOUT_KERNEL), None, torch.float32) for _ in "12")
    with pytest.warns(RuntimeWarning, match="IQ2_XS blocks cannot be unpacked on meta"):
        first.to(META)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.to(META)
    assert first.packed.blocks.device.type == "cpu"
    assert first.qweight.device == META
    x = torch.randn(2, WIDTH, device=META)
    output, gradient = passed_through(first, x, torch.empty(2, ROWS, device=META))
    assert output.device == gradient.device == META
    assert first.packed.unpack(torch.float32, 0, 3).device == META


def test_the_table_of_four_bit_values_is_sent_over_once() -> None:
    unpack_torch._table.cache_clear()
    for _ in range(3):
        PackedLinear(weight_of(TensorType.IQ4_NL), None, torch.float32).to(META)(
            torch.empty(1, WIDTH, device=META)
        )
    assert unpack_torch._table.cache_info().misses == 1
