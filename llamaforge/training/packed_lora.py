"""LoRA over a packed matrix as one operation, with the arithmetic of PEFT's layer.

PEFT computes y = x Wᵀ + s · (x Aᵀ) Bᵀ in several steps over tensors of the size of y. Here s goes
into B, and the low-rank product is added where x Wᵀ already lies, forward and backward alike.
"""

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from llamaforge.training.packed import PackedLinear, PackedWeight


class _PackedLoraProduct(torch.autograd.Function):
    """y = x Wᵀ + b + s · (x Aᵀ) Bᵀ of x [n, in] with W packed; gradients reach x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        blocks: Tensor,
        weight: PackedWeight,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        low = x @ a.to(x.dtype).T  # [n, r]
        y = functional.linear(x, weight.lend(x.dtype), bias)
        y.addmm_(low, (b * scale).to(x.dtype).T)
        ctx.save_for_backward(x, low, a, b, blocks)
        ctx.weight, ctx.scale = weight, scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, a, b, _ = ctx.saved_tensors
        dy = gradients[0]
        back = dy @ (b * ctx.scale).to(dy.dtype)  # [n, r]
        dx = None
        if ctx.needs_input_grad[0]:
            weight: PackedWeight = ctx.weight
            dx = dy @ weight.lend(dy.dtype)
            dx.addmm_(back, a.to(dy.dtype))
        da = (back.T @ rows).to(a.dtype)
        db = (dy.T @ low).to(b.dtype).mul_(ctx.scale)
        return dx, da, db, None, None, None, None


class PackedLora(LoraLinear):
    """PEFT's LoRA layer over a `PackedLinear`; whatever is no plain LoRA is left to PEFT."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output for `x` [..., in_features], shape [..., out_features]."""
        name = self._plain_adapter(args, kwargs)
        base = self.base_layer
        if name is None or not isinstance(base, PackedLinear):
            return super().forward(x, *args, **kwargs)
        y = cast(
            "Tensor",
            _PackedLoraProduct.apply(  # type: ignore[no-untyped-call]
                x.reshape(-1, x.shape[-1]).to(base.compute_dtype),
                self.lora_A[name].weight,
                self.lora_B[name].weight,
                base.packed.blocks,
                base.packed,
                base.bias,
                self.scaling[name],
            ),
        )
        # Made out here, since models that add into a layer's output may not do so in a view that a
        # function of its own has made.
        return y.view(*x.shape[:-1], -1)

    def _plain_adapter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Return the adapter that is laid over the matrix, if it is one and a plain one."""
        if args or kwargs or self.disable_adapters or self.merged:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or active[0] in self.lora_variant:
            return None
        dropout = self.lora_dropout[active[0]]
        if self.training and not isinstance(dropout, nn.Identity):
            return None
        return str(active[0])
