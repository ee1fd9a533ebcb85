"""Whether what is served is what was trained: the same rows through torch and llama.cpp.

llama.cpp rounds activations to eight bits where weights are quantised, so even the untouched base
model differs between the two. That difference is measured on the same rows, and the tuned model is
judged against it and against how much the adapter changes at all. Where training was on weights as
they were before they were packed, what packing takes is a part of that difference.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from llamaforge.evaluation.pair import Served

Array = npt.NDArray[np.float32]

_NOISE_FACTOR: Final = 4.0
"""The tuned model may differ by this many times what the base model differs by."""
_WEAKER: Final = 0.9
"""And by what an adapter of this strength would differ from the whole one: an adapter that is
lost, halved or laid on the wrong rows misses by far more."""
_FLOOR_NATS: Final = 1e-5
"""Differences of this size are float arithmetic, whatever the model."""
_LOSS_NATS: Final = 0.01
_LOSS_PART: Final = 0.03
_MAX_POSITIONS: Final = 128
"""Tokens of one row that are compared: each costs a whole vocabulary of logits."""


class TrainedModel(Protocol):
    """The model as it was trained, in torch."""

    def log_probabilities(
        self, ids: Sequence[int], positions: Sequence[int], *, strength: float
    ) -> Array:
        """Return log P(next token) at `positions`, shape [positions, vocabulary].

        `strength` is 1 for the adapter as it was trained, 0 for none, and scales it between.
        """


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """One row to compare on."""

    ids: Sequence[int]
    trained: Sequence[bool]
    """For each id, whether it is a target of training."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The content of `verify.json`. Divergences and losses are means a token, in nats."""

    kl_mean: float
    """KL(trained ‖ served), both with the adapter."""
    kl_max: float
    """The largest of any token."""
    kl_base_mean: float
    """The same without the adapter: what llama.cpp's rounding alone makes."""
    kl_effect_mean: float
    """KL(tuned ‖ base) in torch: how much the adapter changes."""
    kl_weaker_mean: float
    """KL(tuned ‖ tuned with nine tenths of the adapter) in torch."""
    kl_limit: float
    """What `kl_mean` may be at most."""
    loss_trained: float
    """Loss in torch with the adapter."""
    loss_served: float
    """Loss in llama.cpp with the adapter."""
    loss_base: float
    """Loss in llama.cpp without it."""
    loss_plain: float
    """Loss in torch without it."""
    loss_tolerance: float
    """What `loss_trained` and `loss_served` may differ by at most."""
    rows: int
    tokens: int
    passed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a dictionary; what is not a number becomes None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


class _Sums:
    """Sums over tokens, with their number."""

    def __init__(self) -> None:
        self.kl = self.kl_base = self.kl_effect = self.kl_weaker = 0.0
        self.kl_max = 0.0
        self.trained = self.served = self.base = self.plain = 0.0
        self.tokens = 0

    def add(
        self,
        trained: TrainedModel,
        served: tuple[Array, Array],
        row: "FidelityRow",
        positions: Sequence[int],
    ) -> None:
        tuned, plain, weaker = (
            trained.log_probabilities(row.ids, positions, strength=strength)
            for strength in (1.0, 0.0, _WEAKER)
        )
        targets = [row.ids[place + 1] for place in positions]
        kl = _divergence(tuned, served[0])
        self.kl += float(kl.sum())
        self.kl_max = max(self.kl_max, float(kl.max()))
        self.kl_base += float(_divergence(plain, served[1]).sum())
        self.kl_effect += float(_divergence(tuned, plain).sum())
        self.kl_weaker += float(_divergence(tuned, weaker).sum())
        places = np.arange(len(targets)), np.asarray(targets)
        self.trained -= float(tuned[places].astype(np.float64).sum())
        self.served -= float(served[0][places].astype(np.float64).sum())
        self.base -= float(served[1][places].astype(np.float64).sum())
        self.plain -= float(plain[places].astype(np.float64).sum())
        self.tokens += len(targets)


def measure_fidelity(
    trained: TrainedModel,
    server: Served,
    rows: Sequence[FidelityRow],
    on_row: Callable[[int], None],
) -> Fidelity:
    """Compare the trained model with the served one on `rows` and judge.

    Args:
        trained: the torch model, with its adapter as it was trained.
        server: llama.cpp with the exported adapter over the same file.
        rows: rows that were not trained on; at least one.
        on_row: takes the number of rows done.
    """
    sums = _Sums()
    for number, row in enumerate(rows, start=1):
        targets = [place for place in range(1, len(row.ids)) if row.trained[place]]
        positions = [place - 1 for place in targets[:_MAX_POSITIONS]]
        served = []
        for with_adapter in (True, False):
            server.use_adapter(with_adapter)
            served.append(server.log_probabilities(row.ids, positions))
        sums.add(trained, (served[0], served[1]), row, positions)
        on_row(number)
    return _judge(sums, len(rows))


def measure_distance(
    trained: TrainedModel, server: Served, rows: Sequence[FidelityRow]
) -> dict[str, float | int]:
    """Return how far the served model, and the one before, are from the trained one.

    `kl_mean` and `kl_base_mean` are KL(trained ‖ either), means in nats a token.
    """
    sums, tokens = [0.0, 0.0], 0
    for row in rows:
        targets = [place for place in range(1, len(row.ids)) if row.trained[place]]
        positions = [place - 1 for place in targets[:_MAX_POSITIONS]]
        tuned = trained.log_probabilities(row.ids, positions, strength=1.0)
        for place, with_adapter in enumerate((True, False)):
            server.use_adapter(with_adapter)
            found = server.log_probabilities(row.ids, positions)
            sums[place] += float(_divergence(tuned, found).sum())
        tokens += len(positions)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "kl_mean": sums[0] / tokens,
        "kl_base_mean": sums[1] / tokens,
    }


def _judge(sums: _Sums, rows: int) -> Fidelity:
    tokens = sums.tokens
    kl, kl_base, effect = sums.kl / tokens, sums.kl_base / tokens, sums.kl_effect / tokens
    loss_trained, loss_served = sums.trained / tokens, sums.served / tokens
    weaker = sums.kl_weaker / tokens
    limit = _NOISE_FACTOR * kl_base + weaker + _FLOOR_NATS
    loss_base, loss_plain = sums.base / tokens, sums.plain / tokens
    # Over weights that were trained on as they were before they were packed, the model without
    # the adapter has another loss too.
    tolerance = _LOSS_NATS + _LOSS_PART * loss_trained + _NOISE_FACTOR * abs(loss_base - loss_plain)
    gap = abs(loss_trained - loss_served)
    if not all(map(math.isfinite, (kl, kl_base, effect, loss_trained, loss_served, tolerance))):
        reason = "the comparison gave values that are no numbers"
    elif kl > limit:
        reason = f"the served model differs from the trained one by {kl:.2g} nats a token"
        reason += f", and {limit:.2g} is allowed"
    elif gap > tolerance:
        reason = f"the loss is {loss_trained:.4f} as trained and {loss_served:.4f} as served"
    else:
        reason = ""
    return Fidelity(
        kl_mean=kl,
        kl_max=sums.kl_max,
        kl_base_mean=kl_base,
        kl_effect_mean=effect,
        kl_weaker_mean=weaker,
        kl_limit=limit,
        loss_trained=loss_trained,
        loss_served=loss_served,
        loss_base=loss_base,
        loss_plain=loss_plain,
        loss_tolerance=tolerance,
        rows=rows,
        tokens=tokens,
        passed=not reason,
        reason=reason,
    )


def _divergence(p: Array, q: Array) -> npt.NDArray[np.float64]:
    """Return KL(p ‖ q) of each row of log probabilities, in nats."""
    wide = p.astype(np.float64)
    return np.asarray((np.exp(wide) * (wide - q)).sum(axis=-1))
