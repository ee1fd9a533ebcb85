"""Pairs of a better and a worse answer in batches, and what a model makes of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from llamaforge.data.chat import EncodedRow
from llamaforge.training.batches import Batch, LengthBatches, Loader, collate
from llamaforge.training.lora import Trainable, hidden_states
from llamaforge.training.loss import IGNORED_LABEL, OutputHead, token_losses
from llamaforge.training.objective import computing


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One prompt with its better and its worse answer, which alone are trained."""

    chosen: EncodedRow
    rejected: EncodedRow

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


class PairBatch(TypedDict):
    """Right-padded pairs: all better sides, then all worse ones in the same order."""

    input_ids: Tensor
    """Token ids, int64, shape [2b, s]."""
    labels: Tensor
    """Ids of the answers, `IGNORED_LABEL` elsewhere, shape [2b, s]."""
    lengths: Tensor
    """Tokens of each side, padding not counted, shape [2b]."""
    numbers: Tensor
    """Which pair each is, shape [b]; below zero for one from which nothing is learned."""


Numbered = tuple[int, EncodedPair]


def collate_pairs(pairs: Sequence[Numbered]) -> PairBatch:
    """Return numbered pairs as one batch, both sides padded to one length."""
    sides = [pair.chosen for _, pair in pairs] + [pair.rejected for _, pair in pairs]
    batch: Batch = collate(sides)
    return PairBatch(**batch, numbers=torch.tensor([number for number, _ in pairs]))


class PairLoader(Loader):
    """Batches of pairs."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        batch_size: int,
        seed: int,
        *,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take pairs; the rest is as in `LengthBatches`."""
        lengths = [pair.longest for pair in pairs]
        batches = LengthBatches(
            lengths, batch_size, seed, accumulation=accumulation, rank=rank, world=world
        )
        super().__init__(list(enumerate(pairs)), batches, collate_pairs, _not_learned)


def _not_learned(pair: Numbered) -> Numbered:
    return -1, pair[1]


@dataclass(frozen=True)
class AnswerTokens:
    """Log-probabilities of the tokens of a batch's answers, and where each belongs."""

    values: Tensor
    """log P(token), float32, shape [n]."""
    counts: list[int]
    """How many of them each row of the batch has, in the batch's order; they sum up to n."""

    def sums(self) -> Tensor:
        """Return log P(answer) of each row, shape [2b]."""
        parts = torch.split(self.values, self.counts)
        return torch.stack([part.sum() for part in parts])

    def sizes(self) -> Tensor:
        """Return the tokens of each row's answer, shape [2b]."""
        return torch.tensor(self.counts, device=self.values.device)


def answer_tokens(
    model: Trainable, head: OutputHead, input_ids: Tensor, labels: Tensor, dtype: torch.dtype
) -> AnswerTokens:
    """Return the log-probabilities of the tokens in `labels`.

    Logits are worked out some positions at a time, so memory does not grow with the vocabulary
    times the answers' lengths; what autograd keeps of them is the hidden states' gradient.

    Args:
        model: the model that is trained.
        head: the output head over [vocabulary, hidden].
        input_ids: right-padded ids, shape [b, s].
        labels: ids to look at, `IGNORED_LABEL` elsewhere, shape [b, s].
        dtype: what products are computed in.
    """
    targets = labels[:, 1:]
    looked_at = targets != IGNORED_LABEL
    with computing(model, dtype):
        hidden = hidden_states(model, input_ids)  # [b, s, h]
        losses = token_losses(hidden[:, :-1][looked_at], targets[looked_at], head)
    return AnswerTokens(-losses, looked_at.sum(dim=1).tolist())
