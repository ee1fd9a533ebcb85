"""KTO on packed blocks is TRL's on the same weights, and does not depend on how a step is cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel

from llamaforge.gguf.header import Header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.kto import LabelledPreference
from llamaforge.training.labelled import LabelledLoader, LabelledRow
from llamaforge.training.lora import factors, lora_layers
from llamaforge.training.reference import TRAIN_TABLE
from llamaforge.training.trainer import Outcome, Wishes, train
from tests.contract.engine.engine_bench import SETTINGS, make_lora, make_model, unpack_in_place
from tests.contract.engine.test_preference_equals_trl import (
    gradients,
    make_pairs,
    move_adapter,
    tokenizer,
)
from tests.contract.engine.test_training_trajectory import NEVER

trl = pytest.importorskip("trl")

KTO = TrainingSettings.model_validate(
    SETTINGS.model_dump()
    | {
        "method": "kto",
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "desirable_weight": 1.3,
        "undesirable_weight": 0.7,
        "per_device_train_batch_size": 6,
    }
)


def make_labelled(count: int, *, seed: int = 0) -> list[LabelledRow]:
    """Return rows of random ids, no two of one length, the shortest first."""
    found = {
        len(row.ids): LabelledRow(row, number % 3 != 0)
        for number, pair in enumerate(make_pairs(4 * count, seed=seed))
        for row in (pair.chosen,)
    }
    return [found[length] for length in sorted(found)][:count]


def in_columns(rows: Sequence[LabelledRow]) -> Dataset:
    """Return rows of one batch as TRL has them after tokenising."""
    split = [
        (item.row.ids[:size], item.row.ids[size:], item.good)
        for item in rows
        for size in [item.row.trained.index(True)]
    ]
    return Dataset.from_list(
        [
            {
                "prompt_ids": prompt,
                "completion_ids": answer,
                "KL_completion_ids": split[place - 1][1],
                "label": good,
            }
            for place, (prompt, answer, good) in enumerate(split)
        ]
    )


def trl_trainer(
    model: PeftModel, rows: Sequence[LabelledRow], folder: Path, settings: TrainingSettings
) -> Any:
    """Return TRL's trainer on tokenised rows, which are one batch, with the base as reference."""

    class OfTokens(trl.KTOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    arguments = trl.KTOConfig(
        output_dir=str(folder),
        use_cpu=True,
        beta=settings.beta,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
        per_device_train_batch_size=len(rows),
        gradient_accumulation_steps=1,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=max(len(item.row.ids) for item in rows),
        router_aux_loss_coef=0.0,
    )
    trainer = OfTokens(
        model=model, args=arguments, train_dataset=in_columns(rows), processing_class=tokenizer()
    )
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    return trainer


def test_loss_gradients_and_figures_are_those_of_trl(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_labelled(6)
    packed, model = make_lora(header)
    move_adapter(model)
    model.train()
    objective = LabelledPreference(packed.head, rows, [], KTO, tmp_path)
    assert objective.get_ready(model, lambda: False)
    [batch] = objective.loader()
    ours = objective.loss(model, batch, objective.counts([batch]))
    ours.backward()  # type: ignore[no-untyped-call]

    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    move_adapter(dense)
    trainer = trl_trainer(dense, rows, tmp_path / "trl", KTO)
    dense.train()
    theirs = trainer.compute_loss(dense, trainer.data_collator(list(in_columns(rows))))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    mine, other = gradients(model), gradients(dense)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-6), name
    figures = objective.take_metrics()
    known = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    for name in ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"):
        assert figures[name] == pytest.approx(known[name], rel=1e-4, abs=1e-4), name
    assert figures["kl"] > 0.01, "the adapter must have moved the model"


class Session:
    """One training on labelled rows, with what it reported."""

    def __init__(self, header: Header, folder: Path, **changes: Any) -> None:
        self.settings = TrainingSettings.model_validate(KTO.model_dump() | changes)
        self.folder = folder
        self.packed, self.model = make_lora(header, self.settings)
        self.steps: list[events.Step] = []
        self.evals: list[events.Eval] = []

    def run(self, rows: list[LabelledRow], wishes: Wishes = NEVER) -> Outcome:
        objective = LabelledPreference(
            self.packed.head, rows, make_labelled(5, seed=3), self.settings, self.folder
        )
        return train(
            self.model, objective, self.settings, self.folder, emit=self._take, wishes=wishes
        )

    def _take(self, event: events.Event) -> None:
        match event:
            case events.Step():
                self.steps.append(event)
            case events.Eval():
                self.evals.append(event)

    def weights(self) -> list[torch.Tensor]:
        return [part for _, layer in lora_layers(self.model) for part in factors(layer)[:2]]


def test_training_takes_the_steps_of_trl_however_a_step_is_cut(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_labelled(6)
    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    trainer = trl_trainer(dense, rows, tmp_path / "trl", KTO)
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for batch, accumulation in ((6, 1), (2, 3), (1, 6)):
        session = Session(
            header,
            tmp_path / f"{batch}",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            precompute_ref_log_probs=batch == 2,
        )
        session.run(rows)
        assert [step.loss for step in session.steps] == pytest.approx(
            [entry["loss"] for entry in theirs], abs=2e-4
        )
        for name in ("kl", "rewards/margins"):
            found = [step.metrics[name] for step in session.steps]
            assert found == pytest.approx([entry[name] for entry in theirs], abs=5e-4), name
        assert session.steps[0].loss == pytest.approx((1.3 * 4 + 0.7 * 2) / 12, abs=1e-6)
        assert (session.steps[-1].metrics["rewards/margins"] or 0.0) > 0.1
        assert [event.step for event in session.evals] == [0, 6]
        assert session.evals[0].metrics["kl"] == 0.0


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_labelled(9)
    changes: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lora_dropout": 0.1,
    }
    through = Session(header, tmp_path / "a", **changes)
    assert through.run(rows) == Outcome(6, 6, stopped=False)
    first = Session(header, tmp_path / "b", **changes)
    assert first.run(rows, Wishes(lambda: len(first.steps) >= 4, lambda: False)).stopped
    second = Session(header, tmp_path / "b", **changes)
    second.run(rows)
    both = [*first.steps, *second.steps]
    assert [step.loss for step in both] == [step.loss for step in through.steps]
    assert [step.metrics for step in both] == [step.metrics for step in through.steps]
    assert all(torch.equal(*two) for two in zip(second.weights(), through.weights(), strict=True))
    assert (tmp_path / "b" / TRAIN_TABLE).exists(), "rows come again, so they were asked beforehand"


def test_processes_borrow_the_answers_that_one_would() -> None:
    rows = make_labelled(11)

    def learned(world: int, rank: int) -> list[set[tuple[int, tuple[int, ...]]]]:
        loader = LabelledLoader(rows, 2, 0, accumulation=4 // world, rank=rank, world=world)
        found: list[set[tuple[int, tuple[int, ...]]]] = [set(), set()]
        for place, batch in enumerate(loader):
            step = found[place // (4 // world)]
            pairs = zip(batch["numbers"].tolist(), batch["other_ids"].tolist(), strict=True)
            step |= {(number, tuple(filter(None, ids))) for number, ids in pairs if number >= 0}
        return found

    alone, halves = learned(1, 0), [learned(2, rank) for rank in (0, 1)]
    assert [len(step) for step in alone] == [8, 3]
    for step, one, other in zip(alone, *halves, strict=True):
        assert step == one | other
        assert not one & other


def test_one_row_a_step_has_nothing_to_borrow() -> None:
    with pytest.raises(ValueError, match="a step needs two rows"):
        TrainingSettings.model_validate(
            {"method": "kto", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
        )
    with pytest.raises(ValueError, match="a second copy of all weights"):
        TrainingSettings.model_validate({"method": "kto", "base": "hub", "use_peft": False})
