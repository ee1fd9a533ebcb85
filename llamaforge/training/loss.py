"""Cross entropy over a packed output head, in chunks, so that logits never exist whole.

The gradient of the hidden states is worked out together with the loss, chunk by chunk, and is
all that is kept for the backward pass.
"""

from typing import Any, Final, cast

import torch
from torch import Tensor

from llamaforge.training.packed import PackedWeight

IGNORED_LABEL: Final = -100
_LOGITS_BYTES: Final = 128 * 1024 * 1024
"""Bytes that one chunk's logits may take if float32, half as much in bfloat16."""
_SOFTMAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the float32 logits that are worked on at a time, so that they stay in the cache."""
_HEAD_KEPT_BYTES: Final = 512 * 1024 * 1024
"""A head that unpacks to at most this is unpacked once for good, a larger one part by part."""
_LOGITS_BESIDE_PARTS_BYTES: Final = 512 * 1024 * 1024
"""As `_LOGITS_BYTES` for a head in parts: every chunk unpacks all of them twice, so few chunks."""
_HEAD_PART_WEIGHTS: Final = 8 * 1024 * 1024
"""Weights of the head that are unpacked at a time where it is not kept whole."""


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


class _Head:
    """The output head: kept unpacked where it is small enough, else unpacked in parts.

    A loss needs the whole head in any case, and most memory is taken while it is worked out: to
    keep a small one between losses costs nothing at that peak, and saves the unpacking.
    """

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        self.weight = weight
        self.dtype = dtype
        size = weight.rows * weight.width * dtype.itemsize
        self.kept = weight.kept(dtype) if size <= _HEAD_KEPT_BYTES else None
        self.parts = list(weight.parts(_HEAD_PART_WEIGHTS)) if self.kept is None else []

    @property
    def chunk(self) -> int:
        """How many positions' logits may exist at a time."""
        room = _LOGITS_BESIDE_PARTS_BYTES if self.kept is None else _LOGITS_BYTES
        return max(1, room // (4 * self.weight.rows))

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Write the logits of states [n, h] to `out` [n, vocabulary], and return it."""
        if self.kept is not None:
            return torch.mm(hidden, self.kept.T, out=out)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            out[:, start:stop] = hidden @ part.T
        return out

    def back(self, gradient: Tensor) -> Tensor:
        """Return the states' gradient [n, h] from that of the logits [n, vocabulary]."""
        if self.kept is not None:
            return gradient @ self.kept
        result = torch.zeros(gradient.shape[0], self.weight.width)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            result += gradient[:, start:stop] @ part
        return result


def _to_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Turn `logits` [n, vocabulary] in place into their gradient; return the losses [n].

    The loss is -log softmax(logits)[target] and its gradient softmax(logits) - onehot(target),
    both worked out in float32, a few positions at a time.
    """
    losses = torch.empty(logits.shape[0])
    step = max(1, _SOFTMAX_BYTES // (4 * logits.shape[1]))
    for start in range(0, logits.shape[0], step):
        block, wanted = logits[start : start + step], targets[start : start + step, None]
        values = torch.log_softmax(block.float(), dim=-1)
        losses[start : start + step] = -values.gather(1, wanted)[:, 0]
        values.exp_().scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
        block.copy_(values)
    return losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: PackedWeight) -> Tensor:
        count = hidden.shape[0]
        losses = torch.empty(count)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        head = _Head(weight, hidden.dtype)
        # One buffer for all chunks: fresh memory costs a page fault every 4 KiB.
        buffer = torch.empty(min(head.chunk, count), weight.rows, dtype=hidden.dtype)
        for start in range(0, count, head.chunk):
            stop = min(start + head.chunk, count)
            logits = head.logits(hidden[start:stop], buffer[: stop - start])
            losses[start:stop] = _to_gradient(logits, targets[start:stop])
            if gradient is not None:
                gradient[start:stop] = head.back(logits)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None


def token_losses(hidden: Tensor, targets: Tensor, head: PackedWeight) -> Tensor:
    """Return the cross entropy of each trained token in nats, float32, shape [n].

    Args:
        hidden: states that predict the tokens, shape [n, h].
        targets: the tokens' ids, shape [n].
        head: the output head, [vocabulary, h].
    """
    return cast("Tensor", _ChunkedCrossEntropy.apply(hidden, targets, head))  # type: ignore[no-untyped-call]


def log_probabilities(hidden: Tensor, head: PackedWeight) -> Tensor:
    """Return log P(next token) of states [n, h], float32, shape [n, vocabulary]."""
    logits = torch.empty(hidden.shape[0], head.rows, dtype=hidden.dtype)
    return torch.log_softmax(_Head(head, hidden.dtype).logits(hidden, logits).float(), dim=-1)
