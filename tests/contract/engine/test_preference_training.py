"""Training on pairs: the reference is asked rightly, once, and what is learned depends on nothing
else."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llamaforge.gguf.header import Header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training import loss as chunked
from llamaforge.training.lora import factors, lora_layers
from llamaforge.training.pairs import EncodedPair, collate_pairs
from llamaforge.training.preference import DirectPreference, OddsRatio
from llamaforge.training.preference_loss import PairScores
from llamaforge.training.reference import (
    TRAIN_TABLE,
    VALIDATION_TABLE,
    Reference,
    reference_table,
)
from llamaforge.training.trainer import Outcome, train
from tests.contract.engine.engine_bench import SETTINGS, VOCABULARY, make_lora, make_model
from tests.contract.engine.test_preference_equals_trl import make_pairs, move_adapter
from tests.contract.engine.test_training_trajectory import NEVER


def settings_of(method: str = "dpo", **changes: Any) -> TrainingSettings:
    body = SETTINGS.model_dump() | {"method": method, "learning_rate": 2e-3, "max_steps": 4}
    return TrainingSettings.model_validate(body | changes)


class Session:
    """One training on pairs, with what it reported."""

    def __init__(
        self,
        header: Header,
        folder: Path,
        settings: TrainingSettings,
        pairs: list[EncodedPair],
        validation: list[EncodedPair] | None = None,
    ) -> None:
        self.packed, self.model = make_lora(header, settings)
        self.settings = settings
        self.folder = folder
        self.events: list[events.Event] = []
        if settings.method == "orpo":
            self.objective: Any = OddsRatio(self.packed.head, pairs, validation or [], settings)
        else:
            self.objective = DirectPreference(
                self.packed.head, pairs, validation or [], settings, folder
            )

    def run(self, wishes: Any = NEVER) -> Outcome:
        return train(
            self.model,
            self.objective,
            self.settings,
            self.folder,
            emit=self.events.append,
            wishes=wishes,
        )

    @property
    def steps(self) -> list[events.Step]:
        return [event for event in self.events if isinstance(event, events.Step)]

    def weights(self) -> list[torch.Tensor]:
        return [part for _, layer in lora_layers(self.model) for part in factors(layer)[:2]]


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_every_pair_counts_the_same_however_a_step_is_cut_up(method: str, tmp_path: Path) -> None:
    header = make_model(tmp_path)
    pairs = make_pairs(6)
    sizes = ((6, 1), (1, 6), (2, 3))
    losses = []
    for batch, accumulation in sizes:
        session = Session(
            header,
            tmp_path / f"{batch}",
            settings_of(
                method,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
            ),
            pairs,
        )
        session.run()
        losses.append([step.loss for step in session.steps])
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[0] == pytest.approx(losses[2], abs=2e-5)
    assert (losses[0][-1] or 0.0) < (losses[0][0] or 0.0) - 0.01


@pytest.mark.parametrize("beforehand", [True, False])
def test_a_stopped_run_goes_on_bit_for_bit(beforehand: bool, tmp_path: Path) -> None:
    header = make_model(tmp_path)
    pairs, validation = make_pairs(8), make_pairs(3, seed=1)
    settings = settings_of(
        max_steps=6, lora_dropout=0.1, eval_steps=2, precompute_ref_log_probs=beforehand
    )
    through = Session(header, tmp_path / "a", settings, pairs, validation)
    assert through.run() == Outcome(6, 6, stopped=False)
    first = Session(header, tmp_path / "b", settings, pairs, validation)
    stopping = NEVER.__class__(stop=lambda: len(first.steps) >= 3, save=lambda: False)
    assert first.run(stopping).stopped
    second = Session(header, tmp_path / "b", settings, pairs, validation)
    second.run()
    both = [*first.steps, *second.steps]
    assert [step.loss for step in both] == [step.loss for step in through.steps]
    assert [step.metrics for step in both] == [step.metrics for step in through.steps]
    assert all(torch.equal(*two) for two in zip(second.weights(), through.weights(), strict=True))
    assert (tmp_path / "b" / VALIDATION_TABLE).exists()
    assert (tmp_path / "b" / TRAIN_TABLE).exists() == beforehand


def test_the_model_is_measured_on_held_out_pairs_before_and_after(tmp_path: Path) -> None:
    validation = make_pairs(5, seed=3)
    session = Session(
        make_model(tmp_path),
        tmp_path / "a",
        settings_of(eval_steps=2, per_device_eval_batch_size=2),
        make_pairs(8),
        validation,
    )
    session.run()
    found = [event for event in session.events if isinstance(event, events.Eval)]
    assert [(event.step, event.rows) for event in found] == [(0, 5), (2, 5), (4, 5)]
    start, end = found[0], found[-1]
    assert start.loss == pytest.approx(math.log(2), abs=1e-6)
    assert start.metrics["rewards/margins"] == 0.0
    assert end.metrics["rewards/margins"] != 0.0
    # Before training the policy is the reference: what it prefers is what the base prefers.
    packed, base = make_lora(make_model(tmp_path))
    reference = Reference(base, packed.head, torch.float32, None)
    batch = collate_pairs(list(enumerate(validation)))
    both = scores(reference, batch)
    expected = float((both.chosen > both.rejected).float().mean())
    assert start.metrics["logps/accuracies"] == pytest.approx(expected)
    assert start.metrics["logps/chosen"] == pytest.approx(float(both.chosen.mean()), abs=1e-3)


def test_the_reference_is_the_base_whatever_the_adapter_has_become(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    batch = collate_pairs(list(enumerate(make_pairs(3))))
    packed, model = make_lora(header)
    reference = Reference(model, packed.head, torch.float32, None)
    before = scores(reference, batch)
    move_adapter(model)
    model.train()
    after = scores(reference, batch)
    assert torch.equal(before.chosen, after.chosen)
    assert torch.equal(before.rejected, after.rejected)
    assert model.training, "it goes back to training"
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)


def test_the_reference_can_be_an_earlier_adapter(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    batch = collate_pairs(list(enumerate(make_pairs(3))))
    packed, model = make_lora(header)
    move_adapter(model)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    reference = Reference(model, packed.head, torch.float32, start)
    base = Reference(model, packed.head, torch.float32, None)
    before = scores(reference, batch)
    assert not torch.allclose(before.chosen, scores(base, batch).chosen, atol=1e-2)
    move_adapter(model, seed=6)
    moved = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    after = scores(reference, batch)
    assert torch.equal(before.chosen, after.chosen)
    now = [p.detach() for p in model.parameters() if p.requires_grad]
    assert all(torch.equal(*two) for two in zip(moved, now, strict=True))


def scores(reference: Reference, batch: Any) -> PairScores:
    """Return log P of both sides of a batch of pairs."""
    return PairScores.of(reference.sums(batch["input_ids"], batch["labels"]))


def test_what_the_reference_said_is_kept_and_held_against_its_digest(tmp_path: Path) -> None:
    packed, model = make_lora(make_model(tmp_path))
    pairs = make_pairs(9)
    path = tmp_path / "table.safetensors"
    asked: list[int] = []

    class Counting(Reference):
        def sums(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            asked.append(len(input_ids) // 2)
            return super().sums(input_ids, labels)

    def table(given: list[EncodedPair], stop_after: int = 99) -> Any:
        del asked[:]
        return reference_table(
            Counting(model, packed.head, torch.float32, None),
            [(pair.chosen, pair.rejected) for pair in given],
            4,
            path,
            device=torch.device("cpu"),
            stopped=lambda: len(asked) >= stop_after,
            on_progress=lambda done: None,
        )

    assert table(pairs, stop_after=1) is None
    rest = table(pairs)
    assert sum(asked) == 5, "what was known is not asked again"
    again = table(pairs)
    assert not asked
    assert torch.equal(rest, again)
    path.unlink()
    whole = table(pairs)
    assert torch.equal(rest, whole)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    mended = table(pairs)
    assert sum(asked) == 9, "a damaged file is as good as none"
    assert torch.equal(mended, whole)
    table(pairs[1:])
    assert sum(asked) == 8, "a file of other pairs too"


@pytest.mark.parametrize(
    ("changes", "beforehand"),
    [
        ({"max_steps": 2}, False),
        ({"max_steps": 3}, True),
        ({"max_steps": None, "num_train_epochs": 1.0}, False),
        ({"max_steps": None, "num_train_epochs": 2.0}, True),
        ({"max_steps": 3, "precompute_ref_log_probs": False}, False),
    ],
)
def test_the_reference_is_asked_beforehand_where_pairs_come_again(
    changes: dict[str, Any], beforehand: bool, tmp_path: Path
) -> None:
    packed, model = make_lora(make_model(tmp_path))
    settings = settings_of(per_device_train_batch_size=4, **changes)
    objective = DirectPreference(packed.head, make_pairs(8), [], settings, tmp_path)
    assert objective.get_ready(model, lambda: False)
    assert (tmp_path / TRAIN_TABLE).exists() == beforehand


def test_logits_of_two_answers_never_exist_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, model = make_lora(make_model(tmp_path))
    vocabulary = packed.head.weight.rows
    assert vocabulary >= VOCABULARY.size
    monkeypatch.setattr(chunked, "LOGITS_BYTES", 4 * vocabulary * 8)
    pairs = make_pairs(4)
    objective = DirectPreference(packed.head, pairs, [], settings_of(), tmp_path)
    assert objective.get_ready(model, lambda: False)
    batch = collate_pairs(list(enumerate(pairs)))
    with LargestLogits(vocabulary, packed.head.weight.width) as seen:
        loss = objective.loss(model, batch, objective.counts([batch]))
        loss.backward()  # type: ignore[no-untyped-call]
    assert sum(sum(pair.chosen.trained) for pair in pairs) > 20
    assert 0 < seen.most <= 8


class LargestLogits(TorchDispatchMode):
    """Records how many positions' logits each operation holds."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary = vocabulary
        self.weight = (hidden, vocabulary)  # the head itself, the other way round
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else ()
        if shape[-1:] == (self.vocabulary,) and shape != self.weight:
            self.most = max(self.most, result.numel() // self.vocabulary)
        return result
