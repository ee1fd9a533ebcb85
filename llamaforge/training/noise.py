"""NEFTune's noise on the embeddings of packed rows: for each as much as it would get alone.

Source: Jain et al., "NEFTune" (2310.05914), and transformers' `neftune_post_forward_hook`, which
takes a batch's width for the length of all of its rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llamaforge.training.lora import Trainable, base_model


def row_lengths(position_ids: Tensor) -> Tensor:
    """Return how many tokens the row of each token has, shape [b, s].

    Args:
        position_ids: positions that begin at 0 with each row, shape [b, s].
    """
    rows = (position_ids == 0).flatten().cumsum(0) - 1
    return torch.bincount(rows)[rows].view_as(position_ids)


@contextmanager
def noisy_embeddings(model: Trainable, alpha: float, position_ids: Tensor | None) -> Iterator[None]:
    """Add noise to the token embeddings of a `model` that trains, for the length of a `with` block.

    It is even between ±alpha / √(tokens of the row × hidden size).

    Args:
        model: the model that is trained.
        alpha: how much noise.
        position_ids: as in `row_lengths`; None where all rows count as long as the batch is wide.
    """

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        del inputs
        if not module.training:
            return None
        width, hidden = output.shape[1:]
        if position_ids is None:
            lengths = torch.full((1, width), width, device=output.device)
        else:
            lengths = row_lengths(position_ids)
        most = alpha / (lengths * hidden).sqrt()
        return output + torch.zeros_like(output).uniform_(-1.0, 1.0) * most[..., None].to(
            output.dtype
        )

    embeddings: Any = base_model(model).get_input_embeddings()
    handle = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
