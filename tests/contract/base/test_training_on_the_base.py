"""Training on a full-precision base follows PEFT and transformers, step by step."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    get_scheduler,
    set_seed,
)

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training import dense
from llamaforge.training.batches import RowLoader
from llamaforge.training.dense import load_dense_model
from llamaforge.training.loss import IGNORED_LABEL
from llamaforge.training.trainer import Outcome, Wishes
from tests.contract.base.base_bench import ON_BASE, Pair, Session, make_pair
from tests.contract.engine.engine_bench import make_rows
from tests.contract.export.hub_bench import answers, largest

has_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_r": 4},
    "dora": {"use_dora": True},
    "full": {"use_peft": False, "learning_rate": 1e-3},
}


def settings_of(way: str, **more: Any) -> TrainingSettings:
    return ON_BASE.model_copy(update=WAYS[way] | more)


def peft_losses(pair: Pair, settings: TrainingSettings) -> list[float]:
    """Return the losses of a plain loop over transformers' own model and PEFT's own adapter."""
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(pair.folder, dtype=torch.float32)
    if settings.use_peft:
        config = LoraConfig(
            r=settings.lora_r,
            lora_alpha=int(settings.lora_alpha),
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    schedule = get_scheduler(settings.lr_scheduler_type, optimizer, 0, settings.max_steps)
    loader = RowLoader(make_rows(16), settings.per_device_train_batch_size, settings.seed)
    losses: list[float] = []
    epoch = 0
    while len(losses) < (settings.max_steps or 0):
        loader.set_epoch(epoch)
        for batch in loader:
            mask = (torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]).long()
            logits = model(input_ids=batch["input_ids"], attention_mask=mask).logits[:, :-1]
            loss = functional.cross_entropy(
                logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED_LABEL
            )
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == settings.max_steps:
                break
        epoch += 1
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_peft_on_the_same_rows(way: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = Session(pair, tmp_path / "run", settings_of(way))
    session.run()
    assert len(session.losses) == 6
    assert session.losses[-1] < session.losses[0] - 0.05, "it must have learned something"
    assert session.losses == pytest.approx(peft_losses(pair, session.settings), abs=2e-4)


@pytest.mark.parametrize("name", ["gemma2", "granite", "falcon", "qwen35"])
def test_heads_and_layers_of_other_kinds_follow_peft_too(name: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, name)
    session = Session(pair, tmp_path / "run", settings_of("full", max_steps=3))
    session.run()
    assert session.losses == pytest.approx(peft_losses(pair, session.settings), abs=5e-4)


@pytest.mark.parametrize("way", ["dora", "full"])
def test_a_stopped_run_goes_on_bit_for_bit(way: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    through = Session(pair, tmp_path / "a", settings_of(way))
    assert through.run() == Outcome(6, 6, stopped=False)
    first = Session(pair, tmp_path / "b", settings_of(way))
    assert first.run(Wishes(stop=lambda: len(first.losses) >= 3, save=lambda: False)).stopped
    second = Session(pair, tmp_path / "b", settings_of(way))
    assert second.run() == Outcome(6, 6, stopped=False)
    assert first.losses + second.losses == through.losses
    ours, theirs = load_file(second.learned), load_file(through.learned)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    plain = Session(pair, tmp_path / "a")
    plain.run()
    recomputed = Session(pair, tmp_path / "b", settings_of("lora", gradient_checkpointing=True))
    recomputed.run()
    assert recomputed.losses == pytest.approx(plain.losses, abs=1e-6)


def test_the_language_model_of_one_that_sees_pictures_is_trained_alone(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32,
            "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 100}  # fmt: skip
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "both")
    alone = dense._load(tmp_path / "both", torch.float32, "cpu", False, "eager").eval()
    assert type(alone).__name__ == "Gemma3ForCausalLM"
    assert largest(answers(whole), answers(alone)) < 1e-6


def spoiled(pair: Pair, folder: Path) -> Path:
    copy = folder / "spoiled"
    shutil.copytree(pair.folder, copy)
    return copy


def test_a_base_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    folder = spoiled(pair, tmp_path)
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(LlamaForgeError) as caught:
        load_dense_model(folder, pair.header, torch.float32)
    assert caught.value.code == "bad_base"
    assert "up_proj" in caught.value.message


def test_a_base_with_more_layers_than_its_configuration_says_is_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    folder = spoiled(pair, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(LlamaForgeError) as caught:
        load_dense_model(folder, pair.header, torch.float32)
    assert caught.value.code == "bad_base"


def test_four_bits_without_a_bitsandbytes_that_works_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(RefusedError) as caught:
        load_dense_model(pair.folder, pair.header, torch.float32, load_in_4bit=True)
    assert caught.value.code == "no_bitsandbytes"
    assert "bitsandbytes" in caught.value.message


@has_bitsandbytes
def test_nf4_learns_as_the_weights_that_it_unpacks_to_also_after_an_evaluation(
    tmp_path: Path,
) -> None:
    from bitsandbytes import functional as bnb
    from bitsandbytes.nn import Linear4bit

    pair = make_pair(tmp_path)
    settings = settings_of("lora", load_in_4bit=True, eval_steps=2)
    packed = Session(pair, tmp_path / "a", settings)
    plain = Session(pair, tmp_path / "b", settings_of("lora", eval_steps=2))
    quantised = 0
    for path, module in packed.loaded.model.named_modules():
        if isinstance(module, Linear4bit):
            weight = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
            target: Any = plain.loaded.model.get_submodule(path)
            target.weight.data.copy_(weight)
            quantised += 1
    assert quantised == len(packed.loaded.names)
    for session in (packed, plain):
        session.run(validation=make_rows(3, seed=5))
        found = [event for event in session.events if isinstance(event, events.Eval)]
        assert [event.step for event in found] == [2, 4, 6]
    assert packed.losses == pytest.approx(plain.losses, abs=1e-3)
    assert packed.losses[-1] < packed.losses[0] - 0.05, "it must have learned something"
