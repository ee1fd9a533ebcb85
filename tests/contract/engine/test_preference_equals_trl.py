"""DPO and ORPO on packed blocks are TRL's on the same weights: loss, gradients, figures, steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.lora import factors, lora_layers
from llamaforge.training.pairs import EncodedPair, collate_pairs
from llamaforge.training.preference import DirectPreference, OddsRatio
from llamaforge.training.trainer import train
from tests.contract.engine.engine_bench import (
    SETTINGS,
    VOCABULARY,
    make_lora,
    make_model,
    unpack_in_place,
)
from tests.contract.engine.test_training_trajectory import NEVER

trl = pytest.importorskip("trl")

DPO = TrainingSettings.model_validate(
    SETTINGS.model_dump()
    | {"method": "dpo", "learning_rate": 2e-3, "lr_scheduler_type": "constant"}
)


def make_pairs(count: int, *, seed: int = 0) -> list[EncodedPair]:
    """Return pairs of random ids, with prompts and answers of many lengths."""
    random = np.random.default_rng(seed)

    def ids(least: int, most: int) -> list[int]:
        size = int(random.integers(least, most))
        return [int(number) for number in random.integers(0, VOCABULARY.size - 3, size)]

    pairs = []
    for _ in range(count):
        prompt = ids(4, 20)
        sides = [ids(3, 30), ids(3, 30)]
        chosen, rejected = (
            EncodedRow(prompt + side, [False] * len(prompt) + [True] * len(side), terminated=True)
            for side in sides
        )
        pairs.append(EncodedPair(chosen, rejected))
    return pairs


def in_columns(pairs: Sequence[EncodedPair]) -> Dataset:
    """Return pairs as TRL has them after tokenising."""
    rows = []
    for pair in pairs:
        size = pair.chosen.trained.index(True)
        rows.append(
            {
                "prompt_ids": pair.chosen.ids[:size],
                "chosen_ids": pair.chosen.ids[size:],
                "rejected_ids": pair.rejected.ids[size:],
            }
        )
    return Dataset.from_list(rows)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(VOCABULARY.size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), pad_token="w0", eos_token="w1"
    )


def move_adapter(model: PeftModel, *, seed: int = 5) -> None:
    """Give the adapter weights as training makes them."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            factors(layer)[1].normal_(0.0, 0.03)


def trl_trainer(
    model: PeftModel, pairs: Sequence[EncodedPair], folder: Path, settings: TrainingSettings
) -> Any:
    """Return TRL's trainer on tokenised pairs, with the base as its reference."""

    class OfTokens(trl.DPOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    arguments = trl.DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        beta=settings.beta,
        loss_type=settings.loss_type,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
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
        max_length=None,
        router_aux_loss_coef=0.0,
    )
    trainer = OfTokens(
        model=model, args=arguments, train_dataset=in_columns(pairs), processing_class=tokenizer()
    )
    if "ref" in model.peft_config:
        model.delete_adapter("ref")  # the reference is the base then, as here
    return trainer


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name.replace(".default", ""): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_loss_gradients_and_figures_are_those_of_trl(loss_type: Any, tmp_path: Path) -> None:
    header = make_model(tmp_path)
    settings = DPO.model_copy(update={"loss_type": loss_type, "beta": 0.3})
    pairs = make_pairs(5)
    packed, model = make_lora(header)
    move_adapter(model)
    objective = DirectPreference(packed.head, pairs, [], settings, tmp_path)
    assert objective.get_ready(model, lambda: False)
    batch = collate_pairs(list(enumerate(pairs)))
    ours = objective.loss(model, batch, objective.counts([batch]))
    ours.backward()  # type: ignore[no-untyped-call]

    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    move_adapter(dense)
    trainer = trl_trainer(dense, pairs, tmp_path / "trl", settings)
    theirs = trainer.compute_loss(dense, trainer.data_collator(list(in_columns(pairs))))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    mine, other = gradients(model), gradients(dense)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-6), name
    figures = objective.take_metrics()
    known = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    for name in (
        *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
        *("logps/chosen", "logps/rejected"),
    ):
        assert figures[name] == pytest.approx(known[name], rel=1e-4, abs=1e-4), name
    assert abs(figures["rewards/margins"]) > 0.01, "the adapter must have made a difference"


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_training_takes_the_steps_of_trl(loss_type: Any, tmp_path: Path) -> None:
    header = make_model(tmp_path)
    pairs = make_pairs(4)
    settings = DPO.model_copy(update={"loss_type": loss_type, "max_steps": 6})
    packed, model = make_lora(header)
    seen: list[events.Event] = []
    train(
        model,
        DirectPreference(packed.head, pairs, [], settings, tmp_path / "run"),
        settings,
        tmp_path / "run",
        emit=seen.append,
        wishes=NEVER,
    )
    ours = [event for event in seen if isinstance(event, events.Step)]

    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    trainer = trl_trainer(dense, pairs, tmp_path / "trl", settings)
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(ours) == len(theirs) == 6
    assert [step.loss for step in ours] == pytest.approx(
        [entry["loss"] for entry in theirs], abs=2e-4
    )
    margins = [step.metrics["rewards/margins"] for step in ours]
    assert margins == pytest.approx([entry["rewards/margins"] for entry in theirs], abs=2e-4)
    assert margins[0] == 0.0
    assert (margins[-1] or 0.0) > 0.1, "it must have learned which answers are better"
    assert ours[-1].metrics["rewards/accuracies"] == 1.0


def orpo_loss(model: Any, batch: Any, beta: float) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a batch of pairs, and its figures, by TRL's ORPO trainer."""
    from trl.experimental import orpo

    trainer = object.__new__(orpo.ORPOTrainer)
    trainer.beta = beta
    trainer.is_encoder_decoder = trainer.aux_loss_enabled = False
    trainer.max_length = 64
    trainer.padding_value = 0

    class Place:
        device = torch.device("cpu")

        @staticmethod
        def gather_for_metrics(values: torch.Tensor) -> torch.Tensor:
            return values

    trainer.accelerator = Place()
    labels = batch["labels"]
    count = len(labels) // 2
    mask = (torch.arange(labels.shape[1]) < batch["lengths"][:, None]).long()
    sides = {"chosen": slice(None, count), "rejected": slice(count, None)}
    inputs: Any = {}
    for side, part in sides.items():
        inputs |= {
            f"{side}_input_ids": batch["input_ids"][part],
            f"{side}_attention_mask": mask[part],
            f"{side}_labels": labels[part],
        }
    loss, figures = trainer.get_batch_loss_metrics(model, inputs)
    return loss, figures


def test_odds_ratios_are_those_of_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.orpo")
    header = make_model(tmp_path)
    pairs = make_pairs(5)
    settings = TrainingSettings.model_validate(
        SETTINGS.model_dump() | {"method": "orpo", "beta": 0.2}
    )
    packed, model = make_lora(header)
    move_adapter(model)
    objective = OddsRatio(packed.head, pairs, [], settings)
    batch = collate_pairs(list(enumerate(pairs)))
    ours = objective.loss(model, batch, objective.counts([batch]))
    ours.backward()  # type: ignore[no-untyped-call]

    unpacked, dense = make_lora(header)
    unpack_in_place(unpacked)
    move_adapter(dense)
    theirs, known = orpo_loss(dense, batch, 0.2)
    theirs.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    mine, other = gradients(model), gradients(dense)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-6), name
    figures = objective.take_metrics()
    for name, figure in known.items():
        if name in figures:
            assert figures[name] == pytest.approx(figure, rel=1e-4, abs=1e-5), name
    assert {"rewards/margins", "log_odds_ratio", "logps/chosen"} <= known.keys() & figures.keys()
