"""Learning from pairs and labels on a full-precision base takes the steps of TRL's trainers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed

from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.dense import load_dense_model
from llamaforge.training.kto import LabelledPreference
from llamaforge.training.lora import attach_lora
from llamaforge.training.pairs import collate_pairs
from llamaforge.training.preference import DirectPreference, OddsRatio
from llamaforge.training.trainer import train
from llamaforge.worker.trained_base import load_trained_base
from tests.contract.base.base_bench import NEVER, ON_BASE, Pair, make_pair
from tests.contract.engine import test_kto_equals_trl as kto
from tests.contract.engine import test_preference_equals_trl as dpo

pytest.importorskip("trl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def settings_of(method: str, **changes: Any) -> TrainingSettings:
    usual = ON_BASE.model_dump() | {
        "method": method,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
    }
    return TrainingSettings.model_validate(usual | changes)


def peft_model(pair: Pair, settings: TrainingSettings) -> PeftModel:
    """Return transformers' own model with PEFT's own adapter, by the run's seed."""
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(pair.folder, dtype=torch.float32)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=int(settings.lora_alpha),
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


@pytest.mark.parametrize("method", ["sigmoid", "ipo", "kto"])
def test_training_takes_the_steps_of_trl(method: str, pair: Pair, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    if method == "kto":
        settings = settings_of("kto", per_device_train_batch_size=5)
    else:
        settings = settings_of("dpo", loss_type=method, per_device_train_batch_size=4)
    set_seed(settings.seed)
    loaded = load_dense_model(pair.folder, pair.header, torch.float32)
    model = attach_lora(loaded, settings)
    folder = tmp_path / "run"
    rows, pairs = kto.make_labelled(5), dpo.make_pairs(4)
    objective: Any = (
        LabelledPreference(loaded.head, rows, [], settings, folder)
        if method == "kto"
        else DirectPreference(loaded.head, pairs, [], settings, folder)
    )
    train(model, objective, settings, folder, emit=seen.append, wishes=NEVER)
    ours = [event for event in seen if isinstance(event, events.Step)]

    theirs = peft_model(pair, settings)
    trainer = (
        kto.trl_trainer(theirs, rows, tmp_path / "trl", settings)
        if method == "kto"
        else dpo.trl_trainer(theirs, pairs, tmp_path / "trl", settings)
    )
    trainer.train()
    known = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(ours) == len(known) == 4
    assert [step.loss for step in ours] == pytest.approx(
        [entry["loss"] for entry in known], abs=2e-4
    )
    margins = [step.metrics["rewards/margins"] for step in ours]
    assert margins == pytest.approx([entry["rewards/margins"] for entry in known], abs=3e-4)
    assert margins[0] == 0.0, "at first the model is its own reference"
    assert (margins[-1] or 0.0) > 0.05, "it must have learned which answers are better"

    # What is read back for the proof is what was trained, and its base what it was before.
    learned = max(folder.glob("step-*")) / "adapter_model.safetensors"
    assert load_file(learned)
    trained = load_trained_base(pair.header, pair.resolved, settings, learned)
    ids = pairs[0].chosen.ids
    with torch.no_grad(), theirs.disable_adapter():
        before = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
    with torch.no_grad():
        after = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
    places = range(len(ids))
    for strength, expected in ((0.0, before), (1.0, after)):
        found = trained.log_probabilities(ids, places, strength=strength)
        assert abs(found - expected).max() < 5e-3, strength
    assert abs(before - after).max() > 0.05


def test_odds_ratios_train_every_weight_as_trl_would(pair: Pair, tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.orpo")
    settings = settings_of("orpo", use_peft=False, beta=0.2)
    loaded = load_dense_model(pair.folder, pair.header, torch.float32, all_trained=True)
    pairs = dpo.make_pairs(4)
    objective = OddsRatio(loaded.head, pairs, [], settings)
    batch = collate_pairs(list(enumerate(pairs)))
    ours = objective.loss(loaded.model, batch, objective.counts([batch]))
    ours.backward()  # type: ignore[no-untyped-call]
    dense = AutoModelForCausalLM.from_pretrained(pair.folder, dtype=torch.float32)
    theirs, _ = dpo.orpo_loss(dense, batch, 0.2)
    theirs.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    other = dict(dense.named_parameters())
    for name, value in loaded.model.named_parameters():
        assert value.grad is not None, name
        wanted = other[name].grad
        assert wanted is not None
        assert torch.allclose(value.grad, wanted, rtol=1e-3, atol=1e-6), name


def test_a_reference_without_an_adapter_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="a second copy of all weights would have to be kept"):
        settings_of("dpo", use_peft=False)
