"""LoRA over a packed matrix in one operation computes what PEFT's layer computes."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear

from llamaforge.gguf.types import TensorType
from llamaforge.training.packed import PackedLinear, PackedWeight
from llamaforge.training.packed_lora import PackedLora

ROWS, WIDTH, RANK = 96, 64, 4


def weights(made: PackedLora) -> tuple[torch.Tensor, torch.Tensor]:
    pair: Any = made
    return pair.lora_A["default"].weight, pair.lora_B["default"].weight


def layer(dtype: torch.dtype, *, dropout: float = 0.0, bias: bool = False) -> PackedLora:
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    weight = PackedWeight(torch.from_numpy(blocks), TensorType.Q8_0, ROWS, WIDTH)
    base = PackedLinear(weight, torch.linspace(-1, 1, ROWS) if bias else None, dtype)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=8, lora_dropout=dropout)
    made = PackedLora(base, "default", config, r=RANK, lora_alpha=8)
    torch.nn.init.normal_(weights(made)[1])
    return made


def both(
    made: PackedLora, dtype: torch.dtype
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return output and the gradients of x, A and B, in one operation and through PEFT's layer."""
    found = []
    for forward in (made.forward, lambda x: LoraLinear.forward(made, x)):
        torch.manual_seed(1)
        x = torch.randn(2, 5, WIDTH).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            y = forward(x)
        y.float().square().sum().backward()  # type: ignore[no-untyped-call]
        a, b = weights(made)
        assert x.grad is not None
        assert a.grad is not None
        assert b.grad is not None
        found.append((y.detach(), x.grad, a.grad, b.grad))
        a.grad = b.grad = None
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_computes_what_peft_computes(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    ours, theirs = both(layer(dtype, bias=bias), dtype)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype is other.dtype
        assert one.shape == other.shape
        apart = (one.float() - other.float()).norm() / other.float().norm()
        assert float(apart) < tolerance


def test_an_adapter_that_is_off_or_scaled_is_so_here_too() -> None:
    made = layer(torch.float32)
    x = torch.randn(3, WIDTH)
    made.set_scale("default", 0.5)
    torch.testing.assert_close(made(x), LoraLinear.forward(made, x))
    made.enable_adapters(False)
    torch.testing.assert_close(made(x), made.base_layer(x), rtol=0, atol=0)


def test_dropout_is_left_to_peft() -> None:
    made = layer(torch.float32, dropout=0.5).train()
    x = torch.randn(3, WIDTH)
    torch.manual_seed(5)
    ours = made(x)
    torch.manual_seed(5)
    torch.testing.assert_close(ours, LoraLinear.forward(made, x), rtol=0, atol=0)
    made.eval()
    assert not torch.equal(ours, made(x))
