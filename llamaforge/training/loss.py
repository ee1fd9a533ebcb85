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
"""Bytes that one chunk's float32 logits may take."""
_HEAD_PART_WEIGHTS: Final = 16 * 1024 * 1024
"""Weights of the head that are unpacked at a time where it is not kept whole."""
_HEAD_KEPT_BYTES: Final = 512 * 1024 * 1024
"""A head that unpacks to at most this is unpacked once a step, a larger one part by part."""


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
    """The output head in parts, kept unpacked for a step where it is small enough."""

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        self.weight = weight
        self.dtype = dtype
        size = weight.rows * weight.width * dtype.itemsize
        self.kept = weight.unpack(dtype) if size <= _HEAD_KEPT_BYTES else None
        self.parts = list(weight.parts(_HEAD_PART_WEIGHTS)) if self.kept is None else []

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [n, vocabulary] of states [n, h]."""
        if self.kept is not None:
            return (hidden @ self.kept.T).float()
        result = torch.empty(hidden.shape[0], self.weight.rows)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            result[:, start:stop] = hidden @ part.T
        return result

    def back(self, gradient: Tensor) -> Tensor:
        """Return the states' gradient [n, h] from that of the logits [n, vocabulary]."""
        if self.kept is not None:
            return gradient.to(self.dtype) @ self.kept
        result = torch.zeros(gradient.shape[0], self.weight.width)
        for start, stop in self.parts:
            part = self.weight.unpack(self.dtype, start, stop)
            result += gradient[:, start:stop].to(self.dtype) @ part
        return result


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: PackedWeight) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        losses = torch.empty(hidden.shape[0], dtype=torch.float32)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        head = _Head(weight, hidden.dtype)
        chunk = max(1, _LOGITS_BYTES // (4 * weight.rows))
        for start in range(0, hidden.shape[0], chunk):
            stop = start + chunk
            states, wanted = hidden[start:stop], targets[start:stop, None]
            logits = head.logits(states)
            logits -= torch.logsumexp(logits, dim=-1, keepdim=True)  # log probabilities
            losses[start:stop] = -logits.gather(1, wanted)[:, 0]
            if gradient is not None:
                probabilities = logits.exp_()
                probabilities.scatter_add_(
                    1, wanted, torch.full_like(wanted, -1.0, dtype=torch.float32)
                )
                gradient[start:stop] = head.back(probabilities)
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
    return torch.log_softmax(_Head(head, hidden.dtype).logits(hidden), dim=-1)
