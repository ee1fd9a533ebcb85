"""How a step is cut up so that it fits into memory; what it computes stays the same.

Rows of one step may pass through the model together or one after the other, with activations kept
or worked out again: the gradient is the same, only time and memory differ.
"""

from dataclasses import dataclass
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.architectures import configuration
from llamaforge.gguf.header import Header
from llamaforge.recipe.spec import TrainingSettings

_PART: Final = 0.7
"""Of the memory that is available now; the rest is for other programs and for what is not
counted."""
_FIXED_BYTES: Final = 1_200_000_000
"""Libraries, chunks of logits and weights while they are unpacked."""
_BYTES_A_TRAINED_WEIGHT: Final = 16  # float32 weight, gradient and Adam's two moments
_KEPT_HIDDEN, _KEPT_INTERMEDIATE = 14, 6
"""Activations a token and layer that the backward pass needs, in units of the two sizes."""


@dataclass(frozen=True)
class Fit:
    """How a step is cut up."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    needed_bytes: int = 0
    """What training takes beside the mapped file, by the formula of `activation_bytes`; 0 where
    memory ran out and told more than a formula."""

    def applied(self, settings: TrainingSettings) -> TrainingSettings:
        """Return `settings` with this cut."""
        return settings.model_copy(
            update={
                "per_device_train_batch_size": self.per_device_train_batch_size,
                "gradient_accumulation_steps": self.gradient_accumulation_steps,
                "gradient_checkpointing": self.gradient_checkpointing,
            }
        )


def smaller(settings: TrainingSettings) -> TrainingSettings | None:
    """Return `settings` with the batch at most half as large, for a step of as many rows.

    At batches of one row activations are worked out again. None where nothing is left to try.
    """
    batch = settings.per_device_train_batch_size
    rows = batch * settings.gradient_accumulation_steps
    if batch == 1:
        if settings.gradient_checkpointing:
            return None
        return settings.model_copy(update={"gradient_checkpointing": True})
    half = next(size for size in range(batch // 2, 0, -1) if rows % size == 0)
    return settings.model_copy(
        update={
            "per_device_train_batch_size": half,
            "gradient_accumulation_steps": rows // half,
        }
    )


def fit_to_memory(
    settings: TrainingSettings,
    header: Header,
    *,
    longest: int,
    trained_weights: int,
    available_bytes: int,
) -> Fit:
    """Return the cut nearest to `settings` that fits.

    Recomputing activations comes first, since it costs less time than small batches save; then
    batches shrink while accumulation grows, so that a step has as many rows as before.

    Args:
        settings: as they were asked for.
        header: the model's file.
        longest: tokens of the longest row.
        trained_weights: how many weights the adapter has.
        available_bytes: memory that can be used without swapping.

    Raises:
        RefusedError: not even one row at a time fits (`no_memory`).
    """
    fixed = _FIXED_BYTES + trained_weights * _BYTES_A_TRAINED_WEIGHT
    room = int(_PART * available_bytes)
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    needed = 0
    for batch, recomputed in _cuts(settings, rows):
        needed = fixed + activation_bytes(
            header, batch * longest, recomputed=recomputed, itemsize=_itemsize(settings)
        )
        if needed <= room:
            return Fit(batch, rows // batch, recomputed, needed)
    raise RefusedError(
        f"A single row of {longest:,} tokens needs about {needed / 1e9:.1f} GB to train on, and "
        f"{room / 1e9:.1f} GB can be used.",
        "Close other programs, choose a smaller model, or allow shorter rows only, for example: "
        f"--set max_length={max(8, longest // 2)}",
        code="no_memory",
    )


def activation_bytes(header: Header, tokens: int, *, recomputed: bool, itemsize: int) -> int:
    """Return the bytes of activations of one forward and backward pass over `tokens` tokens.

    With `recomputed`, each layer keeps its input only, and one layer at a time is whole.
    """
    config = configuration(header)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    layer = (_KEPT_HIDDEN * hidden + _KEPT_INTERMEDIATE * config["intermediate_size"]) * tokens
    kept = layers * hidden * tokens + layer if recomputed else layers * layer
    return int(kept * itemsize)


def _itemsize(settings: TrainingSettings) -> int:
    return 2 if settings.compute_dtype == "bfloat16" else 4


def _cuts(settings: TrainingSettings, rows: int) -> list[tuple[int, bool]]:
    """Return batch sizes and whether to recompute, the wish first."""
    asked = settings.per_device_train_batch_size
    smaller = [size for size in range(asked, 0, -1) if rows % size == 0]
    cuts = [(size, True) for size in smaller]
    return cuts if settings.gradient_checkpointing else [(asked, False), *cuts]
