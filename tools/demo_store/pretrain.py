"""Pre-trains the demo model from scratch on the generated conversations."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from tools.demo_store.corpus import conversations
from tools.demo_store.tokenizer import CONTROL_TOKENS, END, PADDING, chatml

CONTEXT = 1024
"""Tokens; what the model declares. Training rows are shorter, rotary positions carry on."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int = 1700
    rows: int = 16
    """Packed rows per step."""
    length: int = 256
    """Tokens per packed row."""
    peak: float = 4e-3
    """The highest learning rate; it warms up over `warmup` steps and falls by a cosine to 2 %."""
    warmup: int = 60
    context_weight: float = 0.15
    """Loss weight of a token that the assistant did not write; its own tokens weigh 1."""
    seed: int = 20
    compiled: bool = True
    """Whether torch.compile, which needs a C++ compiler, speeds the model up (by about 40 %)."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def new_model(vocabulary: int) -> Any:
    """Return the untrained model; every width is a multiple of 256, as the k-quants need."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=CONTROL_TOKENS.index(END),
        pad_token_id=CONTROL_TOKENS.index(PADDING),
        # At this size the plain form is faster on a CPU than the fused kernel.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def _encoded(
    tokenizer: Tokenizer, schedule: Schedule, count: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the token ids and loss weights of `count` conversations."""
    for _, messages in zip(range(count), conversations(schedule.seed), strict=False):
        ids: list[int] = []
        weights: list[float] = []
        for message in messages:
            turn = tokenizer.encode(chatml([message])).ids
            written = message["role"] == "assistant"
            weight = 1.0 if written else schedule.context_weight
            ids += turn
            # "<|im_start|>assistant\n" is given to the model, and the last "\n" is never sampled.
            head = 3 if written else 1
            weights += [schedule.context_weight] * head + [weight] * (len(turn) - head)
        yield ids, weights


def packed(tokenizer: Tokenizer, schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss weights, each `[steps * rows, length]`, of packed conversations."""
    need = schedule.steps * schedule.rows * schedule.length
    ids: list[int] = []
    weights: list[float] = []
    for some_ids, some_weights in _encoded(tokenizer, schedule, need):
        ids += some_ids
        weights += some_weights
        if len(ids) >= need:
            break
    shape = (schedule.steps * schedule.rows, schedule.length)
    return (
        torch.tensor(ids[:need]).reshape(shape),
        torch.tensor(weights[:need]).reshape(shape),
    )


def _loss(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean cross-entropy of a step's rows, in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
    kept = weights[:, 1:].flatten()
    return (each * kept).sum() / kept.sum()


def _optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the embedding and the norms.

    Muon learns rare words in fewer tokens, and copying rare words is what this model is for.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.dim() == 2 and "embed_tokens" not in name
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=rate, weight_decay=0.05, ns_steps=4, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.97), weight_decay=0.0, fused=True),
    ]


def pretrain(tokenizer: Tokenizer, schedule: Schedule) -> Any:
    """Train a new model by the schedule, printing the loss as it goes, and return it."""
    torch.manual_seed(schedule.seed)
    model = new_model(tokenizer.get_vocab_size())
    ids, weights = packed(tokenizer, schedule)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {ids.numel():,} tokens")
    optimizers = _optimizers(model, schedule.peak)
    runner = torch.compile(model) if schedule.compiled else model
    began, recent = time.monotonic(), 0.0
    for step in range(schedule.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
        rows = slice(step * schedule.rows, (step + 1) * schedule.rows)
        loss = _loss(runner, ids[rows], weights[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent += float(loss.detach())
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - began
            print(f"step {step + 1}/{schedule.steps}  loss {recent / 100:.3f}  {spent:.0f} s",
                  flush=True)  # fmt: skip
            recent = 0.0
    model.eval()
    return model
