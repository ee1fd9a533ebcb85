"""What training minimises, apart from how: which batches, which loss, which figures.

The loop, its checkpoints and its events are the trainer's, and the same for every objective.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.batches import Loader, RowLoader, collate
from llamaforge.training.lora import Trainable, compute_type, hidden_states
from llamaforge.training.loss import IGNORED_LABEL, OutputHead, token_losses, trained_positions
from llamaforge.training.noise import noisy_embeddings
from llamaforge.training.ranks import ALONE, Ranks

EVAL_ROWS: Final = 256
"""Validation rows at most; the same ones every time."""


@dataclass(frozen=True)
class Measured:
    """What the validation rows show."""

    loss: float
    rows: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further figures by their names in TRL, such as `rewards/margins`."""


class Objective(Protocol):
    """What the trainer needs to know of what it minimises."""

    examples: int
    """What one epoch passes through, once each."""
    passes: int
    """Batches of an optimizer step."""
    measures_start: bool
    """Whether its validation figures are worth knowing before the first step."""

    def get_ready(self, model: Trainable, stopped: Callable[[], bool]) -> bool:
        """Work out what training needs of the model as it is now; False where it was stopped."""

    def loader(self) -> Loader:
        """Return the batches of one epoch; each holds `lengths`, the tokens of its rows."""

    def counts(self, batches: Sequence[Any]) -> Tensor:
        """Return what each batch's loss needs to know of its whole step, as one or more numbers of
        which those of several processes are added up: by what it is divided, first of all."""

    def loss(self, model: Trainable, batch: Any, counts: Tensor) -> Tensor:
        """Return a batch's share of its step's loss."""

    def take_metrics(self) -> dict[str, float]:
        """Return further figures of the batches since the last call."""

    def measure(self, model: Trainable) -> Measured | None:
        """Return what the validation rows show of `model` in eval mode; None without any."""


class Supervised:
    """Learns the trained tokens of each row: the mean cross entropy per token, in nats."""

    measures_start = False

    def __init__(
        self,
        head: OutputHead,
        rows: Sequence[EncodedRow],
        validation: Sequence[EncodedRow],
        settings: TrainingSettings,
        loader: Loader | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Take what is learned.

        Args:
            head: the output head over [vocabulary, hidden].
            rows: what is trained on.
            validation: rows whose loss is measured; may be empty.
            settings: how it is trained.
            loader: the batches of one epoch, if not `rows` in batches of similar length.
            ranks: the processes that train together; of a step's rows each gives its share.
        """
        self.examples = len(rows)
        self.passes = settings.gradient_accumulation_steps if loader is None else loader.passes
        self._head = head
        self._loader = loader or RowLoader(
            rows,
            settings.per_device_train_batch_size,
            settings.seed,
            accumulation=settings.gradient_accumulation_steps,
            rank=ranks.rank,
            world=ranks.world,
        )
        self._validation = sorted(validation[:EVAL_ROWS], key=lambda row: len(row.ids))
        self._settings = settings
        self._dtype = compute_type(settings.compute_dtype)

    def get_ready(self, model: Trainable, stopped: Callable[[], bool]) -> bool:
        """Do nothing: rows say themselves what is right."""
        del model, stopped
        return True

    def loader(self) -> Loader:
        """Return the batches of one epoch."""
        return self._loader

    def counts(self, batches: Sequence[Any]) -> Tensor:
        """Return the number of trained tokens, shape [1]."""
        return torch.stack(
            [(batch["labels"][:, 1:] != IGNORED_LABEL).sum() for batch in batches]
        ).sum()[None]

    def loss(self, model: Trainable, batch: Any, counts: Tensor) -> Tensor:
        """Return the batch's share of the mean loss per trained token of its step."""
        if not batch["input_ids"].numel():  # its rows went along with another batch's
            return torch.zeros((), device=model.device, requires_grad=True)
        positions = batch.get("position_ids")
        with self._noise(model, positions):
            total, _ = token_loss(
                model, self._head, batch["input_ids"], batch["labels"], self._dtype, positions
            )
        return total / counts[0]

    def _noise(self, model: Trainable, positions: Tensor | None) -> AbstractContextManager[None]:
        """Return the context in which packed rows get their noise; others get transformers' own."""
        alpha = self._settings.neftune_noise_alpha
        if alpha is None or not self._settings.packing:
            return nullcontext()
        return noisy_embeddings(model, alpha, positions)

    def take_metrics(self) -> dict[str, float]:
        """Return nothing: the loss says it all."""
        return {}

    def measure(self, model: Trainable) -> Measured | None:
        """Return the loss per trained token of the validation rows."""
        if not self._validation:
            return None
        size = self._settings.per_device_eval_batch_size
        total, count = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self._validation), size):
                batch = collate(self._validation[start : start + size])
                place = model.device
                part, tokens = token_loss(
                    model,
                    self._head,
                    batch["input_ids"].to(place),
                    batch["labels"].to(place),
                    self._dtype,
                )
                total += float(part)
                count += tokens
        return Measured(total / count, len(self._validation))


def token_loss(
    model: Trainable,
    head: OutputHead,
    input_ids: Tensor,
    labels: Tensor,
    dtype: torch.dtype,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Return the summed cross entropy of the trained tokens in nats, and their number.

    Args:
        model: the model that is trained.
        head: the output head over [vocabulary, hidden].
        input_ids: right-padded ids, shape [b, s].
        labels: ids to train, `IGNORED_LABEL` elsewhere, shape [b, s].
        dtype: what products are computed in; the adapter's weights stay float32.
        position_ids: of packed rows, positions that begin anew with each, shape [b, s].
    """
    with computing(model, dtype):
        states, targets = trained_positions(hidden_states(model, input_ids, position_ids), labels)
        losses = token_losses(states, targets, head)
    return losses.sum(), int(targets.numel())


def computing(model: Trainable, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which `model` computes in `dtype`.

    Autocast casts the small adapter matrices for their products; blocks unpack to `dtype` as is.
    """
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
