"""A trial before training: some passes of the real model, to know what memory and time they take.

The passes get longer until the time is over or a whole batch has been tried. Nothing that training
depends on is changed: neither weights nor random states.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from llamaforge import hardware
from llamaforge.recipe.batching import PAD_MULTIPLE, padded
from llamaforge.recipe.estimate import Estimator, Trial
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.heap import peak_bytes, release_memory, reset_peak
from llamaforge.training.lora import compute_type
from llamaforge.training.loss import IGNORED_LABEL, OutputHead, token_losses
from llamaforge.training.objective import token_loss

TRIAL_SECONDS: Final = 10.0
"""About how long a trial takes; the two shortest passes are always made."""
_SHORTEST, _PART = 0.3, 0.03
"""Seconds that it may take in any case, and its part of the training where that is short."""
_FIRST_TOKENS: Final = 64
_TRAINED: Final = 8
"""Tokens of a pass whose loss is taken: few, since the loss is measured on its own."""
_LOSS_TOKENS: Final = 256
_REPEATED_SECONDS: Final = 1.0
"""A pass that takes longer is made once: compiling its kernels is then little beside it."""
_GROWTHS: Final = (4, 2)
"""How many times more tokens the next pass has; the first that there is time and memory for."""
_FAR: Final = 3.0
"""Beyond so many times the longest pass, a slope measured on short ones is not trusted alone."""
_LEAST_OF_FORMULA, _MOST_OF_FORMULA = 0.8, 1.6
"""Between which parts of the formula's slope measured ones lie, but for the smallest models."""


@dataclass(frozen=True)
class _Pass:
    rows: int
    length: int
    forward_part: float
    seconds: float
    """By the clock on the wall."""
    own_seconds: float
    """By `clock`."""
    peak_bytes: int
    first_seconds: float | None = None
    """What it took when its shape was new, where it was made again: the matrix library compiles
    kernels then."""

    @property
    def tokens(self) -> int:
        """All of its tokens."""
        return self.rows * self.length


def measure(
    model: "PeftModel | PreTrainedModel",
    head: OutputHead,
    settings: TrainingSettings,
    estimator: Estimator,
    *,
    longest: int,
    room_bytes: int,
    planned_tokens: float = math.inf,
    seconds: float = TRIAL_SECONDS,
) -> Trial:
    """Return what passes of `model` take on this machine, on the device where it lies.

    Args:
        model: the packed model with LoRA layers.
        head: the output head over [vocabulary, hidden].
        settings: of the run; `gradient_checkpointing` says which kind of pass is tried.
        estimator: without a trial; knows what of the peak is logits, and bounds what is measured.
        longest: tokens of the longest row.
        room_bytes: what the process may hold; no pass is tried that would take more.
        planned_tokens: how many the training reads; a trial is never long beside it.
        seconds: about how long it may take on a machine that does nothing else.
    """
    begun = clock()

    def deadline(seconds_a_token: float) -> float:
        """Return when to end, by `clock`, now that a token is known to take so long."""
        return begun + min(seconds, max(_SHORTEST, _PART * planned_tokens * seconds_a_token))

    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    was_training, was_recomputing = model.training, bool(base.is_gradient_checkpointing)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            _recompute(base, settings.gradient_checkpointing)
            model.train()
            return _measured(model, head, settings, estimator, longest, room_bytes, deadline)
        finally:
            model.zero_grad(set_to_none=True)
            _recompute(base, was_recomputing)
            model.train(was_training)
            release_memory()


def clock() -> float:
    """Return seconds of this process on all its cores: those of others are not held against it."""
    return time.process_time() / torch.get_num_threads()


def _recompute(base: Any, wanted: bool) -> None:
    if wanted:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()


def _measured(
    model: "PeftModel | PreTrainedModel",
    head: OutputHead,
    settings: TrainingSettings,
    estimator: Estimator,
    longest: int,
    room_bytes: int,
    deadline: Callable[[float], float],
) -> Trial:
    begun = time.perf_counter()
    longest = padded(longest)
    dtype = compute_type(settings.compute_dtype)
    most = settings.per_device_train_batch_size * longest
    release_memory()
    tokens = min(_FIRST_TOKENS, max(most // _GROWTHS[0], PAD_MULTIPLE))
    _one(model, head, dtype, PAD_MULTIPLE, longest)  # pages, caches, the head
    passes: list[_Pass] = []
    while True:
        passes.append(_calmed(model, head, dtype, tokens, longest))
        end = deadline(passes[-1].own_seconds / passes[-1].tokens)
        if passes[-1].tokens >= most:
            break
        last = passes[-1]
        affordable = [
            larger
            for larger in (min(factor * last.tokens, most) for factor in _GROWTHS)
            if len(passes) < 2
            or (
                clock() + _cost(last.own_seconds * larger / last.tokens) <= end
                and _expected_peak(passes, larger, estimator, settings) <= room_bytes
            )
        ]
        if not affordable:
            break
        tokens = affordable[0]
    fixed, slope = _memory_line(passes, estimator, recomputed=settings.gradient_checkpointing)
    if most > _FAR * passes[-1].tokens:
        usual = estimator.bytes_a_token(recomputed=settings.gradient_checkpointing)
        slope = min(max(slope, _LEAST_OF_FORMULA * usual), _MOST_OF_FORMULA * usual)
    step_seconds = _optimizer_seconds(model, settings)
    model.zero_grad(set_to_none=True)
    loss_seconds = _loss_seconds(model, head, dtype)
    a_pass, a_token = _time_line(_calm(passes))
    return Trial(
        recomputed=settings.gradient_checkpointing,
        fixed_bytes=fixed,
        bytes_a_token=slope,
        seconds_a_pass=a_pass,
        seconds_a_token=a_token,
        seconds_a_shape=_shape_seconds(passes),
        seconds_a_trained_token=loss_seconds,
        seconds_a_step=step_seconds,
        forward_part=passes[-1].forward_part,
        tokens=passes[-1].tokens,
        seconds=round(time.perf_counter() - begun, 3),
    )


def _expected_peak(
    passes: Sequence[_Pass], tokens: int, estimator: Estimator, settings: TrainingSettings
) -> float:
    """Return the peak to expect of a pass over `tokens` tokens."""
    fixed, slope = _memory_line(passes, estimator, recomputed=settings.gradient_checkpointing)
    return fixed + tokens * slope


def _cost(seconds: float) -> float:
    """Return about how long it takes to measure a pass of so many seconds."""
    return seconds * (2.2 if seconds < _REPEATED_SECONDS else 1.1)


def _calmed(
    model: "PeftModel | PreTrainedModel",
    head: OutputHead,
    dtype: torch.dtype,
    tokens: int,
    longest: int,
) -> _Pass:
    """Do a pass whose shape is new; if it is short again, to know it without what that costs."""
    hardware.trim_heap()
    first = _one(model, head, dtype, tokens, longest)
    if first.own_seconds >= _REPEATED_SECONDS:
        return first
    second = _one(model, head, dtype, tokens, longest)
    fast = min(first, second, key=lambda item: item.seconds)
    return replace(
        fast,
        first_seconds=first.seconds,
        peak_bytes=max(first.peak_bytes, second.peak_bytes),
    )


def _one(
    model: "PeftModel | PreTrainedModel",
    head: OutputHead,
    dtype: torch.dtype,
    tokens: int,
    longest: int,
) -> _Pass:
    """Do one forward and backward pass over about `tokens` random tokens."""
    rows = -(-tokens // longest)
    return _pass(model, head, dtype, rows, max(tokens // rows, _TRAINED + 1))


def _pass(
    model: "PeftModel | PreTrainedModel",
    head: OutputHead,
    dtype: torch.dtype,
    rows: int,
    length: int,
) -> _Pass:
    """Do one forward and backward pass over random tokens, shape [rows, length]."""
    place = model.device
    ids = torch.randint(0, head.weight.rows, (rows, length), device=place)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[0, -_TRAINED:] = ids[0, -_TRAINED:]
    reset_peak(place)
    started, own = time.perf_counter(), clock()
    total, count = token_loss(model, head, ids, labels, dtype)
    _wait(place)
    forward = time.perf_counter() - started
    (total / count).backward()  # type: ignore[no-untyped-call]
    _wait(place)
    seconds = time.perf_counter() - started
    own = seconds if place.type == "cuda" else clock() - own
    return _Pass(rows, length, forward / seconds, seconds, own, peak_bytes(place))


def _optimizer_seconds(model: "PeftModel | PreTrainedModel", settings: TrainingSettings) -> float:
    """Return the seconds of a step of the optimizer on the gradients that are there.

    At a learning rate of zero: the weights stay what they are.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        _wait(model.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _loss_seconds(
    model: "PeftModel | PreTrainedModel", head: OutputHead, dtype: torch.dtype
) -> float:
    """Return the seconds that the loss of one trained token takes, and its gradient."""
    place = model.device
    hidden = torch.randn(_LOSS_TOKENS, head.weight.width, device=place).to(dtype)
    targets = torch.randint(0, head.weight.rows, (_LOSS_TOKENS,), device=place)
    seconds = []
    for _ in range(2):
        states: Tensor = hidden.clone().requires_grad_()
        started = time.perf_counter()
        token_losses(states, targets, head).sum().backward()  # type: ignore[no-untyped-call]
        _wait(place)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / _LOSS_TOKENS


def _memory_line(
    passes: Sequence[_Pass], estimator: Estimator, *, recomputed: bool
) -> tuple[int, float]:
    """Return the peak without tokens, and what each token adds.

    The line goes through the longest pass and is as steep as from the one of half that length; a
    slope far from the formula's comes of memory that was there already.
    """
    by_formula = estimator.bytes_a_token(recomputed=recomputed)
    long = passes[-1]
    short = next((item for item in reversed(passes[:-1]) if item.tokens < long.tokens), None)
    slope = by_formula
    if short is not None:
        slope = (long.peak_bytes - short.peak_bytes) / (long.tokens - short.tokens)
    slope = min(max(slope, by_formula / 3), 3 * by_formula)
    return int(long.peak_bytes - slope * long.tokens), slope


def _calm(passes: Sequence[_Pass]) -> list[_Pass]:
    """Return the passes without what other programs took from one of them more than from others.

    How much of the machine this process got is taken from all passes together.
    """
    share = sum(item.seconds for item in passes) / sum(item.own_seconds for item in passes)
    return [replace(item, seconds=min(item.seconds, share * item.own_seconds)) for item in passes]


def _time_line(passes: Sequence[_Pass]) -> tuple[float, float]:
    """Return the seconds of a pass without tokens, and of each token, by least squares.

    Each point counts as its own size, so that the error is relative.
    """
    weights = [1 / item.seconds**2 for item in passes]
    total = sum(weights)
    x = sum(w * item.tokens for w, item in zip(weights, passes, strict=True)) / total
    y = sum(w * item.seconds for w, item in zip(weights, passes, strict=True)) / total
    spread = sum(w * (item.tokens - x) ** 2 for w, item in zip(weights, passes, strict=True))
    moved = sum(
        w * (item.tokens - x) * (item.seconds - y) for w, item in zip(weights, passes, strict=True)
    )
    long = passes[-1]
    slope = moved / spread if spread else 0.0
    slope = min(max(slope, 0.2 * long.seconds / long.tokens), long.seconds / long.tokens)
    return max(0.0, y - slope * x), slope


def _shape_seconds(passes: Sequence[_Pass]) -> float:
    """Return how much longer a pass takes whose shape is new."""
    known = [item.first_seconds - item.seconds for item in passes if item.first_seconds is not None]
    return sum(known) / max(len(known), 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
