"""Cross entropy over a packed output head, in chunks, so that logits never exist whole.

The gradient of the hidden states is worked out together with the loss, chunk by chunk, and is
all that is kept for the backward pass.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llamaforge.recipe.estimate import (
    HEAD_KEPT_BYTES,
    HEAD_PART_WEIGHTS,
    LOGITS_BESIDE_PARTS_BYTES,
    LOGITS_BYTES,
)
from llamaforge.training.packed import PackedWeight

IGNORED_LABEL: Final = -100
_SOFTMAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the float32 logits that are worked on at a time, so that they stay in the cache."""
_SOFTMAX_DEVICE_BYTES: Final = 128 * 1024 * 1024
"""The same on a device, where small pieces cost more in launches than a cache saves."""


def trained_positions(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states that predict a trained token, and those tokens.

    Args:
        hidden: last hidden states, shape [b, s, h].
        labels: token ids, `IGNORED_LABEL` where untrained, shape [b, s].

    Returns:
        States of shape [n, h] and ids of shape [n]: position i predicts label i + 1.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORED_LABEL
    return hidden[:, :-1][chosen], targets[chosen]


@dataclass(frozen=True)
class OutputHead:
    """What makes logits of hidden states: z = scale · h Wᵀ, or c · tanh(z / c) with a softcap."""

    weight: PackedWeight
    """W, [vocabulary, hidden]."""
    scale: float = 1.0
    softcap: float | None = None
    """c, the largest logit."""
    trained: Tensor | None = None
    """W as a parameter that is trained too; None where it is frozen."""

    @property
    def is_plain(self) -> bool:
        """Whether products are logits as they stand."""
        return self.scale == 1.0 and self.softcap is None

    def shape_(self, products: Tensor) -> Tensor:
        """Turn float32 products h Wᵀ into logits in place, and return them."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        if self.softcap is not None:
            products.div_(self.softcap).tanh_().mul_(self.softcap)
        return products

    def unshape_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient of `logits` in place into that of the products, and return it."""
        if self.softcap is not None:
            gradient.mul_(1.0 - (logits / self.softcap).square_())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


class _Head:
    """The output head: kept unpacked where it is small enough, else unpacked in parts.

    A loss needs the whole head in any case, and most memory is taken while it is worked out: to
    keep a small one between losses costs nothing at that peak, and saves the unpacking.
    """

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        self.weight = weight
        self.dtype = dtype
        size = weight.rows * weight.width * dtype.itemsize
        self.kept = weight.kept(dtype) if size <= HEAD_KEPT_BYTES else None
        self.parts = list(weight.parts(HEAD_PART_WEIGHTS)) if self.kept is None else []

    @property
    def chunk(self) -> int:
        """How many positions' logits may exist at a time."""
        room = LOGITS_BESIDE_PARTS_BYTES if self.kept is None else LOGITS_BYTES
        return max(1, room // (4 * self.weight.rows))

    def products(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Write h Wᵀ of states [n, h] to `out` [n, vocabulary], and return it."""
        if self.kept is not None:
            return torch.mm(hidden, self.kept.T, out=out)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            out[:, start:stop] = hidden @ part.T
        return out

    def back(self, gradient: Tensor) -> Tensor:
        """Return the states' gradient [n, h] from that of the products [n, vocabulary]."""
        if self.kept is not None:
            return gradient @ self.kept
        result = torch.zeros(gradient.shape[0], self.weight.width, device=gradient.device)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            result += gradient[:, start:stop] @ part
        return result


def _to_gradient(products: Tensor, targets: Tensor, head: OutputHead) -> Tensor:
    """Turn `products` [n, vocabulary] in place into their gradient; return the losses [n].

    The loss is -log softmax(logits)[target] and its gradient softmax(logits) - onehot(target),
    both worked out in float32, a few positions at a time.
    """
    losses = torch.empty(products.shape[0], device=products.device)
    room = _SOFTMAX_BYTES if products.device.type == "cpu" else _SOFTMAX_DEVICE_BYTES
    step = max(1, room // (4 * products.shape[1]))
    for start in range(0, products.shape[0], step):
        block, wanted = products[start : start + step], targets[start : start + step, None]
        logits = (
            head.shape_(block.float())
            if head.is_plain
            else head.shape_(block.to(torch.float32, copy=True))
        )
        values = torch.log_softmax(logits, dim=-1)
        losses[start : start + step] = -values.gather(1, wanted)[:, 0]
        one = torch.full(wanted.shape, -1.0, device=products.device)
        values.exp_().scatter_add_(1, wanted, one)
        block.copy_(head.unshape_(values, logits))
    return losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, shaped: OutputHead) -> Tensor:
        count = hidden.shape[0]
        losses = torch.empty(count, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight = shaped.weight
        head = _Head(weight, hidden.dtype)
        # One buffer for all chunks: fresh memory costs a page fault every 4 KiB.
        buffer = hidden.new_empty(min(head.chunk, count), weight.rows)
        for start in range(0, count, head.chunk):
            stop = min(start + head.chunk, count)
            products = head.products(hidden[start:stop], buffer[: stop - start])
            losses[start:stop] = _to_gradient(products, targets[start:stop], shaped)
            if gradient is not None:
                gradient[start:stop] = head.back(products)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None


def token_losses(hidden: Tensor, targets: Tensor, head: OutputHead) -> Tensor:
    """Return the cross entropy of each trained token in nats, float32, shape [n].

    Args:
        hidden: states that predict the tokens, shape [n, h].
        targets: the tokens' ids, shape [n].
        head: the output head over [vocabulary, h].
    """
    if head.trained is not None:
        return _trained_head_losses(hidden, targets, head, head.trained)
    return cast("Tensor", _ChunkedCrossEntropy.apply(hidden, targets, head))  # type: ignore[no-untyped-call]


def _trained_head_losses(
    hidden: Tensor, targets: Tensor, head: OutputHead, weight: Tensor
) -> Tensor:
    """Return the losses where W has a gradient too: logits of a chunk are worked out twice.

    Keeping W's gradient from the first time would need to know what each loss counts.
    """

    def losses(states: Tensor, wanted: Tensor) -> Tensor:
        logits = (states @ weight.to(states.dtype).T).float() * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        return functional.cross_entropy(logits, wanted, reduction="none")

    size = max(1, LOGITS_BYTES // (4 * weight.shape[0]))
    parts = [
        cast("Tensor", checkpoint(losses, states, wanted, use_reentrant=False))
        for states, wanted in zip(
            torch.split(hidden, size), torch.split(targets, size), strict=True
        )
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def log_probabilities(hidden: Tensor, head: OutputHead) -> Tensor:
    """Return log P(next token) of states [n, h], float32, shape [n, vocabulary]."""
    if head.trained is not None:  # what is kept of a frozen head would soon be out of date
        products = hidden @ head.trained.detach().to(hidden.dtype).T
    else:
        products = hidden.new_empty(hidden.shape[0], head.weight.rows)
        products = _Head(head.weight, hidden.dtype).products(hidden, products)
    return torch.log_softmax(head.shape_(products.float()), dim=-1)
