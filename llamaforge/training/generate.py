"""Answers while training goes on: greedy, one prompt at a time, ended by tokens or by the clock.

Nothing here draws a random number, so training goes on exactly as if nobody had asked.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from llamaforge.training.lora import base_model
from llamaforge.training.loss import OutputHead, log_probabilities


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer."""

    ids: list[int]
    """Without the token that ended it."""
    cut: bool
    """Whether it was ended because it took too many tokens or too long."""


@contextmanager
def answering(model: PeftModel | PreTrainedModel, *, with_adapter: bool) -> Iterator[None]:
    """Put `model` into the state in which it answers, for the length of a `with` block.

    One of which every weight is trained answers as it is now.
    """
    was_training = model.training
    model.eval()
    try:
        if with_adapter or not isinstance(model, PeftModel):
            yield
        else:
            with model.disable_adapter():
                yield
    finally:
        model.train(was_training)


def greedy_answer(
    model: PeftModel | PreTrainedModel,
    head: OutputHead,
    prompt: Sequence[int],
    *,
    dtype: torch.dtype,
    end_ids: Collection[int],
    max_new_tokens: int,
    seconds: float,
) -> Generated:
    """Return the likeliest answer to `prompt`, token by token.

    Args:
        model: inside `answering`.
        head: the output head over [vocabulary, hidden].
        prompt: ids up to where the answer begins, at least one.
        dtype: what products are computed in.
        end_ids: tokens that end an answer.
        max_new_tokens: tokens that it may have.
        seconds: how long it may take; the token that is being computed then is still waited for.
    """
    base: Any = base_model(model)
    place = model.device
    deadline = time.monotonic() + seconds
    ids: list[int] = []
    next_ids = torch.tensor([list(prompt)], device=place)  # [1, s]
    cache: Any = None
    # As in training: blocks unpack to `dtype`, the adapter's small matrices are cast.
    reduced = torch.autocast(place.type, torch.bfloat16, enabled=dtype is torch.bfloat16)
    with torch.no_grad(), reduced:
        while len(ids) < max_new_tokens and time.monotonic() < deadline:
            output = base.base_model(input_ids=next_ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            last = output.last_hidden_state[:, -1]  # [1, h]
            token = int(log_probabilities(last, head).argmax())
            if token in end_ids:
                return Generated(ids, cut=False)
            ids.append(token)
            next_ids = torch.tensor([[token]], device=place)
    return Generated(ids, cut=True)
