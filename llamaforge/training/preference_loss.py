"""The losses of learning from pairs, from log-probabilities alone.

All take sums over the tokens of an answer, in nats, shape [b], and return one loss a pair, or one
an answer.
Names and values are those of TRL's `DPOTrainer`, `ORPOTrainer` and `KTOTrainer`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PairScores:
    """log P(answer | prompt) of both sides of some pairs, each of shape [b]."""

    chosen: Tensor
    rejected: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> "PairScores":
        """Return the halves of `sums` [2b], the better sides first."""
        chosen, rejected = sums.chunk(2)
        return cls(chosen, rejected)

    def minus(self, other: "PairScores") -> "PairScores":
        """Return the log-ratios of these probabilities to others."""
        return PairScores(self.chosen - other.chosen, self.rejected - other.rejected)


def sigmoid_losses(ratios: PairScores, beta: float) -> Tensor:
    """Return -log σ(β (r⁺ - r⁻)) of log-ratios to the reference.

    Source: equation 7 of Rafailov et al., "Direct Preference Optimization" (2305.18290).
    """
    return -functional.logsigmoid(beta * (ratios.chosen - ratios.rejected))


def ipo_losses(ratios: PairScores, sizes: Tensor, tau: float) -> Tensor:
    """Return (r⁺/n⁺ - r⁻/n⁻ - 1/2τ)² of log-ratios to the reference.

    Args:
        ratios: log-ratios, each of shape [b].
        sizes: tokens of the answers, shape [2b], the better sides first. The mean over them is the
            authors' own reading of their formula.
        tau: how strongly the reference is held on to.

    Source: equation 17 of Azar et al., "A General Theoretical Paradigm to Understand Learning from
    Human Preferences" (2310.12036).
    """
    better, worse = sizes.chunk(2)
    difference = ratios.chosen / better - ratios.rejected / worse
    return (difference - 1 / (2 * tau)).square()


def odds_ratio_losses(means: PairScores) -> Tensor:
    """Return -log σ(log odds⁺ - log odds⁻), where odds are p / (1 - p).

    Args:
        means: mean log-probability a token of each answer, below zero.

    Source: equations 4 and 7 of Hong et al., "ORPO" (2403.07691).
    """
    log_odds = (means.chosen - means.rejected) - (
        _log_one_minus_exp(means.chosen) - _log_one_minus_exp(means.rejected)
    )
    return -functional.logsigmoid(log_odds)


def kto_losses(
    ratios: Tensor,
    good: Tensor,
    moved: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Return w⁺ (1 - σ(β (r - z))) of good answers, and w⁻ (1 - σ(β (z - r))) of bad ones.

    Args:
        ratios: r, the log-ratios of answers to the reference, shape [b].
        good: whether each is a good answer, shape [b].
        moved: z, an estimate of how far the model is from the reference, not below zero, in nats.
        beta: how strongly the reference is held on to.
        desirable_weight: w⁺.
        undesirable_weight: w⁻.

    Source: equations 7 and 8 of Ethayarajh et al., "KTO" (2402.01306).
    """
    sign = torch.where(good, 1.0, -1.0)
    weights = torch.where(good, desirable_weight, undesirable_weight)
    return weights * (1.0 - torch.sigmoid(sign * beta * (ratios - moved)))


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """Return log(1 - exp x) for x < 0, exact on both sides of -log 2.

    Source: Mächler, "Accurately Computing log(1 - exp(-|a|))", equation 7.
    """
    # Probabilities of one would have infinite odds.
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    small = x > -0.6931471805599453
    # Each branch is worked out on arguments at which its gradient is finite.
    near = torch.log(-torch.expm1(torch.where(small, x, x.new_tensor(-0.5))))
    far = torch.log1p(-torch.exp(torch.where(small, x.new_tensor(-1.0), x)))
    return torch.where(small, near, far)
