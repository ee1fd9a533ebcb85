"""Learning from pairs: DPO, with the sigmoid or the IPO loss, and ORPO."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor

from llamaforge.recipe.batching import asks_beforehand
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.batches import Loader
from llamaforge.training.lora import Trainable, compute_type
from llamaforge.training.loss import IGNORED_LABEL, OutputHead
from llamaforge.training.objective import EVAL_ROWS, Measured
from llamaforge.training.pairs import (
    AnswerTokens,
    EncodedPair,
    PairBatch,
    PairLoader,
    answer_tokens,
    collate_pairs,
)
from llamaforge.training.preference_loss import (
    PairScores,
    ipo_losses,
    odds_ratio_losses,
    sigmoid_losses,
)
from llamaforge.training.ranks import ALONE, Ranks
from llamaforge.training.reference import (
    TRAIN_TABLE,
    VALIDATION_TABLE,
    Reference,
    reference_table,
)


class PairFigures:
    """Figures of pairs as means over them, under TRL's names."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._pairs = 0
        self._device = torch.device("cpu")

    def add(self, counted: Tensor, rewards: PairScores, logps: PairScores, **more: Tensor) -> None:
        """Take some pairs: which of them count, and figures of all, each of shape [b]."""
        found = {
            "rewards/chosen": rewards.chosen,
            "rewards/rejected": rewards.rejected,
            "rewards/accuracies": (rewards.chosen > rewards.rejected).float(),
            "rewards/margins": rewards.chosen - rewards.rejected,
            "logps/chosen": logps.chosen,
            "logps/rejected": logps.rejected,
            # How often the better answer is the likelier one, whatever the reference says.
            "logps/accuracies": (logps.chosen > logps.rejected).float(),
        } | more
        self._device = counted.device
        self._pairs += int(counted.sum())
        for name, values in found.items():
            total = float(values.detach()[counted].sum())
            self._sums[name] = self._sums.get(name, 0.0) + total

    def take(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Return the means over the pairs of all `ranks`, and begin anew."""
        own = torch.tensor([*self._sums.values(), self._pairs], dtype=torch.float64)
        *sums, pairs = ranks.total(own.to(self._device)).tolist()
        means = {name: total / pairs for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._pairs = {}, 0
        return means


class DirectPreference:
    """DPO: raises the odds of better answers over worse ones, measured from a reference."""

    measures_start = True

    def __init__(
        self,
        head: OutputHead,
        pairs: Sequence[EncodedPair],
        validation: Sequence[EncodedPair],
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
            pairs: what is trained on.
            validation: pairs that are measured; may be empty.
            settings: of method `dpo`.
            folder: where what the reference says is kept.
            start: the adapter that training goes on from, as in `Reference`.
            ranks: the processes that train together; of a step's pairs each gives its share.
            on_progress: takes how many pairs the reference was asked about, of how many.
        """
        self.examples = len(pairs)
        self.passes = settings.gradient_accumulation_steps
        self._ranks = ranks
        self._head = head
        self._pairs = pairs
        self._validation = validation[:EVAL_ROWS]
        self._settings = settings
        self._beta = settings.beta or 0.1
        self._dtype = compute_type(settings.compute_dtype)
        self._folder = folder
        self._start = start
        self._on_progress = on_progress
        self._figures = PairFigures()
        self._reference: Reference | None = None
        self._known: PairScores | None = None
        self._known_validation: PairScores | None = None

    def get_ready(self, model: Trainable, stopped: Callable[[], bool]) -> bool:
        """Ask the reference about the validation pairs and, where it pays, about all others.

        What the reference says of a pair never changes. Where training comes to a pair more than
        once, it is asked beforehand; where not, that would cost as much and delay the first step.
        """
        settings = self._settings
        reference = self._reference = reference_of(model, self._head, self._dtype, self._start)
        beforehand = (
            self._pairs if asks_beforehand(settings, len(self._pairs), self._ranks.world) else []
        )
        total = len(self._validation) + len(beforehand)

        def asked(name: str, pairs: Sequence[EncodedPair], before: int) -> PairScores | None:
            table = reference_table(
                reference,
                [(pair.chosen, pair.rejected) for pair in pairs],
                self._settings.per_device_eval_batch_size,
                self._folder / name,
                device=model.device,
                stopped=stopped,
                on_progress=lambda done: self._on_progress(before + done, total),
            )
            return None if table is None else PairScores.of(table.T.flatten())

        self._known_validation = asked(VALIDATION_TABLE, self._validation, 0)
        if self._known_validation is not None and beforehand:
            self._known = asked(TRAIN_TABLE, beforehand, len(self._validation))
        known = self._known if beforehand else self._known_validation
        return known is not None

    def loader(self) -> Loader:
        """Return the batches of one epoch."""
        settings = self._settings
        return PairLoader(
            self._pairs,
            settings.per_device_train_batch_size,
            settings.seed,
            accumulation=settings.gradient_accumulation_steps,
            rank=self._ranks.rank,
            world=self._ranks.world,
        )

    def counts(self, batches: Sequence[Any]) -> Tensor:
        """Return the number of pairs, shape [1]."""
        return torch.tensor([sum(int(_learned(batch).sum()) for batch in batches)])

    def loss(self, model: Trainable, batch: Any, counts: Tensor) -> Tensor:
        """Return the batch's share of the mean loss per pair of its step."""
        # The reference first: it switches the adapter, which a graph in the making may not see.
        if self._known is None:
            reference = PairScores.of(self._asked().sums(batch["input_ids"], batch["labels"]))
        else:
            reference = _rows_of(self._known, batch["numbers"])
        losses = self._losses(model, batch, reference)
        return (losses * _learned(batch)).sum() / counts[0]

    def _losses(self, model: Trainable, batch: PairBatch, reference: PairScores) -> Tensor:
        tokens = answer_tokens(model, self._head, batch["input_ids"], batch["labels"], self._dtype)
        policy = PairScores.of(tokens.sums())
        ratios = policy.minus(reference)
        rewards = PairScores(self._beta * ratios.chosen, self._beta * ratios.rejected)
        self._figures.add(_learned(batch), rewards, policy)
        if self._settings.loss_type == "ipo":
            return ipo_losses(ratios, tokens.sizes(), self._beta)
        return sigmoid_losses(ratios, self._beta)

    def take_metrics(self) -> dict[str, float]:
        """Return rewards, margins and accuracies of the batches since the last call."""
        return self._figures.take(self._ranks)

    def measure(self, model: Trainable) -> Measured | None:
        """Return the mean loss of the validation pairs, with their rewards."""
        known = self._known_validation
        if not self._validation or known is None:
            return None
        total = 0.0
        for batch in _eval_batches(self._validation, self._settings, model.device):
            with torch.no_grad():
                losses = self._losses(model, batch, _rows_of(known, batch["numbers"]))
            total += float(losses.sum())
        count = len(self._validation)
        return Measured(total / count, count, self._figures.take())

    def _asked(self) -> Reference:
        return cast("Reference", self._reference)  # it is there once training is ready


def reference_of(
    model: Trainable, head: OutputHead, dtype: torch.dtype, start: dict[str, Tensor] | None
) -> Reference:
    """Return what `model` was when training began; `start` is as in `Reference`, on any device."""
    if start is not None:
        start = {name: value.to(model.device) for name, value in start.items()}
    return Reference(cast("PeftModel", model), head, dtype, start)


class OddsRatio:
    """ORPO: learns the better answers and the odds of them over the worse ones, in one loss.

    There is no reference. The first part of the loss counts every token of the better side, its
    prompt too, as the authors' own code and TRL's do.
    """

    measures_start = True

    def __init__(
        self,
        head: OutputHead,
        pairs: Sequence[EncodedPair],
        validation: Sequence[EncodedPair],
        settings: TrainingSettings,
        ranks: Ranks = ALONE,
    ) -> None:
        """Take the output head over [vocabulary, hidden], pairs and settings of `orpo`."""
        self.examples = len(pairs)
        self.passes = settings.gradient_accumulation_steps
        self._ranks = ranks
        self._head = head
        self._pairs = pairs
        self._validation = validation[:EVAL_ROWS]
        self._settings = settings
        self._beta = settings.beta or 0.1
        self._dtype = compute_type(settings.compute_dtype)
        self._figures = PairFigures()

    def get_ready(self, model: Trainable, stopped: Callable[[], bool]) -> bool:
        """Do nothing: there is no reference to ask."""
        del model, stopped
        return True

    def loader(self) -> Loader:
        """Return the batches of one epoch."""
        settings = self._settings
        return PairLoader(
            self._pairs,
            settings.per_device_train_batch_size,
            settings.seed,
            accumulation=settings.gradient_accumulation_steps,
            rank=self._ranks.rank,
            world=self._ranks.world,
        )

    def counts(self, batches: Sequence[Any]) -> Tensor:
        """Return the number of pairs, and of tokens that the better sides predict, shape [2]."""
        pairs = sum(int(_learned(batch).sum()) for batch in batches)
        tokens = sum(int((_better_lengths(batch) - 1)[_learned(batch)].sum()) for batch in batches)
        return torch.tensor([pairs, tokens])

    def loss(self, model: Trainable, batch: Any, counts: Tensor) -> Tensor:
        """Return the batch's share of its step's loss: -log P(better) a token + β · odds ratio."""
        likelihood, ratios = self._losses(model, batch)
        return likelihood / counts[1] + self._beta * ratios / counts[0]

    def _losses(self, model: Trainable, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Return the summed cross entropy of the better sides, and of the odds ratios."""
        labels = batch["labels"]
        pairs = labels.shape[0] // 2
        places = torch.arange(labels.shape[1], device=labels.device)
        wanted = labels.clone()
        is_text = places < _better_lengths(batch)[:, None]
        wanted[:pairs][is_text] = batch["input_ids"][:pairs][is_text]
        tokens = answer_tokens(model, self._head, batch["input_ids"], wanted, self._dtype)
        looked_at = wanted[:, 1:] != IGNORED_LABEL
        is_answer = (labels[:, 1:] != IGNORED_LABEL)[looked_at]  # [n], of the tokens looked at
        answers = AnswerTokens(
            tokens.values[is_answer], (labels[:, 1:] != IGNORED_LABEL).sum(dim=1).tolist()
        )
        means = PairScores.of(answers.sums() / answers.sizes())
        ratios = odds_ratio_losses(means)
        rewards = PairScores(self._beta * means.chosen, self._beta * means.rejected)
        self._figures.add(_learned(batch), rewards, means, log_odds_ratio=-ratios)
        learned = _learned(batch)
        return -tokens.sums()[:pairs][learned].sum(), ratios[learned].sum()

    def take_metrics(self) -> dict[str, float]:
        """Return rewards, margins and accuracies of the batches since the last call."""
        return self._figures.take(self._ranks)

    def measure(self, model: Trainable) -> Measured | None:
        """Return the loss of the validation pairs as one step would have it."""
        if not self._validation:
            return None
        likelihood = ratios = 0.0
        batches = list(_eval_batches(self._validation, self._settings, model.device))
        with torch.no_grad():
            for batch in batches:
                part, odds = self._losses(model, batch)
                likelihood += float(part)
                ratios += float(odds)
        pairs, tokens = self.counts(batches).tolist()
        loss = likelihood / tokens + self._beta * ratios / pairs
        return Measured(loss, pairs, self._figures.take())


def _rows_of(table: PairScores, numbers: Tensor) -> PairScores:
    """Return what a table on the CPU says of some pairs, on their device."""
    at = numbers.cpu().clamp(min=0)
    return PairScores(table.chosen[at].to(numbers.device), table.rejected[at].to(numbers.device))


def _learned(batch: PairBatch) -> Tensor:
    """Return which pairs count, shape [b]."""
    return batch["numbers"] >= 0


def _better_lengths(batch: PairBatch) -> Tensor:
    """Return the tokens of each better side, shape [b]."""
    return batch["lengths"].chunk(2)[0]


def _eval_batches(
    pairs: Sequence[EncodedPair], settings: TrainingSettings, device: torch.device
) -> list[PairBatch]:
    """Return all `pairs` in batches of similar length, on `device`."""
    size = settings.per_device_eval_batch_size
    order = sorted(enumerate(pairs), key=lambda item: item[1].longest)
    batches = [collate_pairs(order[start : start + size]) for start in range(0, len(order), size)]
    return [
        PairBatch(**{name: value.to(device) for name, value in batch.items()})  # type: ignore[typeddict-item, attr-defined]
        for batch in batches
    ]
