"""KTO: learning from answers that are labelled good or bad, each by itself."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.batching import asks_beforehand
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.batches import Loader
from llamaforge.training.labelled import (
    LabelledBatch,
    LabelledLoader,
    LabelledRow,
    collate_labelled,
    matched,
)
from llamaforge.training.lora import Trainable, compute_type
from llamaforge.training.loss import OutputHead
from llamaforge.training.objective import EVAL_ROWS, Measured
from llamaforge.training.pairs import answer_tokens
from llamaforge.training.preference import reference_of
from llamaforge.training.preference_loss import kto_losses
from llamaforge.training.ranks import ALONE, Ranks
from llamaforge.training.reference import (
    TRAIN_TABLE,
    VALIDATION_TABLE,
    Reference,
    reference_table,
)

_SIDES = ("chosen", "rejected")


class LabelFigures:
    """Figures of good and of bad answers as means over them, under TRL's names."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, 3, dtype=torch.float64)
        """Of good and of bad answers: how many, their rewards, their log-probabilities."""
        self.kl = 0.0
        """The last step's."""

    def add(self, good: Tensor, learned: Tensor, rewards: Tensor, logps: Tensor) -> None:
        """Take some answers, each of shape [b]."""
        for side, is_side in enumerate((good, ~good)):
            for place, values in enumerate((torch.ones_like(rewards), rewards, logps)):
                self._sums[side, place] += float(values.detach()[is_side & learned].sum())

    def take(self, device: torch.device, ranks: Ranks = ALONE) -> dict[str, float]:
        """Return the means over the answers of all `ranks`, and begin anew."""
        sums = ranks.total(self._sums.to(device)).cpu()
        self._sums = torch.zeros_like(self._sums)
        found = {"kl": self.kl}
        for side, (count, reward, logp) in zip(_SIDES, sums.tolist(), strict=True):
            if count:
                found |= {f"rewards/{side}": reward / count, f"logps/{side}": logp / count}
        if all(count for count, _, _ in sums.tolist()):
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return found


class LabelledPreference:
    """KTO: makes good answers likelier and bad ones less likely than the reference does, measured
    from how far the model has moved away from it altogether.

    That is told by answers to other questions: the mean log-ratio of a whole step's, not below
    zero. So it is known before the step's first pass, and does not depend on how it is cut.
    """

    measures_start = True

    def __init__(
        self,
        head: OutputHead,
        rows: Sequence[LabelledRow],
        validation: Sequence[LabelledRow],
        settings: TrainingSettings,
        folder: Path,
        *,
        start: dict[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Take what is learned.

        Args:
            head: the output head over [vocabulary, hidden].
            rows: what is trained on.
            validation: rows that are measured; may be empty.
            settings: of method `kto`.
            folder: where what the reference says is kept.
            start: the adapter that training goes on from, as in `Reference`.
            ranks: the processes that train together; of a step's rows each gives its share.
            on_progress: takes how many rows the reference was asked about, of how many.
        """
        self.examples = len(rows)
        self.passes = settings.gradient_accumulation_steps
        self._ranks = ranks
        self._head = head
        self._rows = rows
        held_out = validation[:EVAL_ROWS]
        order = sorted(range(len(held_out)), key=lambda number: len(held_out[number].row.ids))
        self._validation = matched(held_out, order) if held_out else []
        self._settings = settings
        self._beta = settings.beta or 0.1
        self._weights = (settings.desirable_weight or 1.0, settings.undesirable_weight or 1.0)
        self._dtype = compute_type(settings.compute_dtype)
        self._folder = folder
        self._start = start
        self._on_progress = on_progress
        self._figures = LabelFigures()
        self._model: Trainable | None = None
        self._reference: Reference | None = None
        self._known: Tensor | None = None
        self._known_validation: Tensor | None = None

    def get_ready(self, model: Trainable, stopped: Callable[[], bool]) -> bool:
        """Ask the reference about the validation rows and, where it pays, about all others."""
        self._model = model
        reference = self._reference = reference_of(model, self._head, self._dtype, self._start)
        is_asked = asks_beforehand(self._settings, len(self._rows), self._ranks.world)
        beforehand = [(item.row,) for item in self._rows] if is_asked else []
        held_out = [(item.item.row, item.other) for item in self._validation]
        total = len(held_out) + len(beforehand)

        def asked(name: str, items: Sequence[Sequence[EncodedRow]], before: int) -> Tensor | None:
            return reference_table(
                reference,
                items,
                self._settings.per_device_eval_batch_size,
                self._folder / name,
                device=model.device,
                stopped=stopped,
                on_progress=lambda done: self._on_progress(before + done, total),
            )

        self._known_validation = asked(VALIDATION_TABLE, held_out, 0)
        if self._known_validation is not None and beforehand:
            self._known = asked(TRAIN_TABLE, beforehand, len(held_out))
        known = self._known if beforehand else self._known_validation
        return known is not None

    def loader(self) -> Loader:
        """Return the batches of one epoch."""
        settings = self._settings
        return LabelledLoader(
            self._rows,
            settings.per_device_train_batch_size,
            settings.seed,
            accumulation=settings.gradient_accumulation_steps,
            rank=self._ranks.rank,
            world=self._ranks.world,
        )

    def counts(self, batches: Sequence[Any]) -> Tensor:
        """Return the number of rows, and the sum of the borrowed answers' log-ratios, shape [2]."""
        assert self._model is not None  # noqa: S101 - it is there once training is ready
        assert self._reference is not None  # noqa: S101
        rows, moved = 0, 0.0
        for batch in batches:
            learned = _learned(batch)
            rows += int(learned.sum())
            place = self._model.device
            ids, labels = batch["other_ids"].to(place), batch["other_labels"].to(place)
            ratios = self._sums_now(ids, labels) - self._reference.sums(ids, labels)
            moved += float(ratios.cpu()[learned.cpu()].double().sum())
        return torch.tensor([rows, moved], dtype=torch.float64)

    def _sums_now(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Return log P(answer) of each row as the model is, without dropout or gradients."""
        model = self._model
        assert model is not None  # noqa: S101 - it is there once training is ready
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found = answer_tokens(model, self._head, input_ids, labels, self._dtype).sums()
        model.train(was_training)
        return found

    def loss(self, model: Trainable, batch: Any, counts: Tensor) -> Tensor:
        """Return the batch's share of the mean loss per row of its step."""
        assert self._reference is not None  # noqa: S101 - it is there once training is ready
        # The reference first: it switches the adapter, which a graph in the making may not see.
        if self._known is None:
            reference = self._reference.sums(batch["input_ids"], batch["labels"])
        else:
            at = batch["numbers"].cpu().clamp(min=0)
            reference = self._known[at, 0].to(batch["numbers"].device)
        rows, moved = counts.tolist()
        losses = self._losses(model, batch, reference, moved / rows) * _learned(batch)
        return losses.sum() / counts[0].to(losses.dtype)

    def _losses(
        self, model: Trainable, batch: LabelledBatch, reference: Tensor, moved: float
    ) -> Tensor:
        tokens = answer_tokens(model, self._head, batch["input_ids"], batch["labels"], self._dtype)
        logps = tokens.sums()
        ratios = logps - reference
        self._figures.kl = max(0.0, moved)
        self._figures.add(batch["good"], _learned(batch), self._beta * ratios, logps)
        return kto_losses(ratios, batch["good"], self._figures.kl, self._beta, *self._weights)

    def take_metrics(self) -> dict[str, float]:
        """Return rewards and margins of the batches since the last call, and the step's KL."""
        assert self._model is not None  # noqa: S101 - it is there once training is ready
        return self._figures.take(self._model.device, self._ranks)

    def measure(self, model: Trainable) -> Measured | None:
        """Return the mean loss of the validation rows as one step would have it."""
        known = self._known_validation
        if not self._validation or known is None:
            return None
        size, count = self._settings.per_device_eval_batch_size, len(self._validation)
        starts = range(0, count, size)
        with torch.no_grad():
            batches = [
                _on(collate_labelled(self._validation[start : start + size]), model.device)
                for start in starts
            ]
            references = [known[start : start + size].to(model.device) for start in starts]
            moved = 0.0
            for batch, said in zip(batches, references, strict=True):
                now = self._sums_now(batch["other_ids"], batch["other_labels"])
                moved += float((now - said[:, 1]).sum())
            before = self._figures
            self._figures = LabelFigures()
            total = sum(
                float(self._losses(model, batch, said[:, 0], moved / count).sum())
                for batch, said in zip(batches, references, strict=True)
            )
            metrics = self._figures.take(model.device)
            self._figures = before
        return Measured(total / count, count, metrics)


def _learned(batch: LabelledBatch) -> Tensor:
    """Return which rows count, shape [b]."""
    return batch["numbers"] >= 0


def _on(batch: LabelledBatch, device: torch.device) -> LabelledBatch:
    found: Any = {name: value.to(device) for name, value in batch.items()}  # type: ignore[attr-defined]
    return cast("LabelledBatch", found)
