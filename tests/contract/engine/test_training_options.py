"""Schedules, noise, early ends and the best checkpoint: each does what its name says."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamaforge.data.chat import EncodedRow
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.arguments import training_arguments
from llamaforge.training.best import BestCheckpoint, best_checkpoint
from llamaforge.training.checkpoints import step_of
from llamaforge.training.finished import finished_checkpoint, note_finished
from llamaforge.training.trainer import Outcome, Wishes
from tests.contract.engine.engine_bench import SETTINGS, make_model, make_rows
from tests.contract.engine.test_training_trajectory import Session


def settings_of(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(SETTINGS.model_dump() | changes)


def rates(settings: TrainingSettings, header: Any, folder: Path) -> list[float]:
    session = Session(header, folder, settings)
    session.run()
    found = [event for event in session.events if isinstance(event, events.Step)]
    return [step.learning_rate for step in found]


def test_the_learning_rate_follows_its_schedule(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    usual = {"max_steps": 10, "learning_rate": 1e-3}

    def of(kind: str, **changes: Any) -> list[float]:
        settings = settings_of(lr_scheduler_type=kind, **usual, **changes)
        return rates(settings, header, tmp_path / f"{kind}{len(changes)}")

    assert of("constant") == [1e-3] * 10
    assert of("linear") == pytest.approx([1e-3 * (1 - n / 10) for n in range(10)])
    warm = of("constant_with_warmup", warmup_steps=4)
    assert warm == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, *[1e-3] * 6])
    session = Session(header, tmp_path / "late", settings_of(max_steps=2, warmup_steps=2))
    session.run()
    told = [event for event in session.events if isinstance(event, events.Warn)]
    assert [event.code for event in told] == ["long_warmup"]
    assert "over 2 steps, and the whole training has 2" in told[0].message
    floor = of("cosine_with_min_lr", min_lr_rate=0.2)
    wanted = [1e-3 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * n / 10))) for n in range(10)]
    assert floor == pytest.approx(wanted)
    stable = of("warmup_stable_decay", decay_ratio=0.5, min_lr_rate=0.1)
    assert stable[:6] == pytest.approx([1e-3] * 6)
    assert stable == sorted(stable, reverse=True)
    assert stable[-1] < 3e-4


def test_what_transformers_is_told(tmp_path: Path) -> None:
    settings = settings_of(
        optim="adafactor",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_steps=None,
        num_train_epochs=2.0,
        warmup_ratio=0.1,
        gradient_accumulation_steps=2,
    )
    found = training_arguments(settings, tmp_path, examples=81, passes=2)
    assert (found.optim, found.weight_decay, found.adam_beta2) == ("adafactor", 0.1, 0.95)
    assert found.warmup_steps == math.ceil(0.1 * 22)


def test_noise_is_added_to_embeddings_in_training_alone(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    validation = make_rows(3, seed=4)
    common = {"max_steps": 4, "eval_steps": 4, "learning_rate": 1e-12}
    plain = Session(header, tmp_path / "a", settings_of(**common))
    plain.run(validation=validation)
    noisy = Session(header, tmp_path / "b", settings_of(neftune_noise_alpha=20.0, **common))
    seen: list[torch.Tensor] = []
    embedding = noisy.packed.model.get_input_embeddings()
    bare = embedding.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    noisy.run(validation=validation)
    bare.remove()
    assert all(abs(a - b) > 1e-4 for a, b in zip(plain.losses, noisy.losses, strict=True))
    evals = [
        [event.loss for event in session.events if isinstance(event, events.Eval)]
        for session in (plain, noisy)
    ]
    assert evals[0] == evals[1]


def test_a_stopped_run_with_noise_goes_on_bit_for_bit(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    settings = settings_of(neftune_noise_alpha=5.0, max_steps=5)
    through = Session(header, tmp_path / "a", settings)
    through.run()
    first = Session(header, tmp_path / "b", settings)
    first.run(Wishes(stop=lambda: len(first.losses) >= 2, save=lambda: False))
    second = Session(header, tmp_path / "b", settings)
    second.run()
    assert first.losses + second.losses == through.losses


def opposite(rows: list[EncodedRow]) -> list[EncodedRow]:
    """Return rows from which what is learned of `rows` leads away."""
    return [replace(row, ids=row.ids[::-1]) for row in rows]


@pytest.fixture
def early() -> dict[str, Any]:
    return {
        "max_steps": 40,
        "eval_steps": 2,
        "learning_rate": 2e-2,
        "early_stopping_patience": 2,
        "lr_scheduler_type": "constant",
    }


def test_training_ends_where_the_validation_loss_falls_no_more(
    tmp_path: Path, early: dict[str, Any]
) -> None:
    header = make_model(tmp_path)
    rows = make_rows(16)
    session = Session(header, tmp_path / "a", settings_of(**early), rows=rows)
    outcome = session.run(validation=opposite(rows))
    assert not outcome.stopped, "nobody asked for it"
    assert outcome.step < 40
    found = [event for event in session.events if isinstance(event, events.Eval)]
    losses = [event.loss for event in found]
    least = found[losses.index(min(losses))]
    assert outcome.step == least.step + 4, "two more measurements, and no better one"
    assert [event.step for event in found if event.best][-1] == least.step
    note_finished(tmp_path / "a", outcome.step, best=True)
    kept = finished_checkpoint(tmp_path / "a")
    assert kept is not None
    assert step_of(kept) == least.step
    again = Session(header, tmp_path / "a", settings_of(**early), rows=rows)
    ended = again.run(validation=opposite(rows))
    assert ended == Outcome(outcome.step, outcome.step, stopped=False), "it stays ended"
    assert not again.losses


def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(
    tmp_path: Path, early: dict[str, Any]
) -> None:
    header = make_model(tmp_path)
    rows = make_rows(16)
    through = Session(header, tmp_path / "a", settings_of(**early), rows=rows)
    whole = through.run(validation=opposite(rows))
    first = Session(header, tmp_path / "b", settings_of(**early), rows=rows)
    first.run(
        Wishes(stop=lambda: len(first.losses) >= 3, save=lambda: False), validation=opposite(rows)
    )
    second = Session(header, tmp_path / "b", settings_of(**early), rows=rows)
    assert second.run(validation=opposite(rows)).step == whole.step
    assert first.losses + second.losses == through.losses
    names = [best_checkpoint(tmp_path / name) for name in "ab"]
    assert names[0] is not None
    assert names[1] is not None
    assert names[0].name == names[1].name
    weights = [path / "adapter_model.safetensors" for path in names if path]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_best_checkpoint_outlives_newer_ones_and_is_verified(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_rows(16)
    settings = settings_of(
        max_steps=12, eval_steps=2, save_steps=2, learning_rate=2e-2, load_best_model_at_end=True
    )
    session = Session(header, tmp_path / "a", settings, rows=rows)
    outcome = session.run(validation=opposite(rows))
    assert outcome == Outcome(12, 12, stopped=False)
    kept = best_checkpoint(tmp_path / "a")
    assert kept is not None
    assert step_of(kept) < 10, "the newest two would not include it"
    note_finished(tmp_path / "a", 12, best=True)
    assert finished_checkpoint(tmp_path / "a") == kept
    (kept / "adapter_model.safetensors").unlink()
    last = finished_checkpoint(tmp_path / "a")
    assert last is not None
    assert step_of(last) == 12, "damaged, it is as good as none"


def test_a_loss_has_to_be_less_by_the_threshold(tmp_path: Path) -> None:
    settings = settings_of(early_stopping_patience=2, early_stopping_threshold=0.1)
    best = BestCheckpoint(tmp_path, settings, step=0)
    measured = enumerate([2.0, 1.95, 1.85, 1.80, 1.80], start=1)
    found = [(best.take(step, loss), best.is_over) for step, loss in measured]
    assert [is_best for is_best, _ in found] == [True, False, True, False, False]
    assert [is_over for _, is_over in found] == [False, False, False, False, True]
    assert (best.step, best.loss) == (3, 1.85)
    resumed = BestCheckpoint(tmp_path, settings, step=4)
    assert not resumed.is_over, "what was measured after the checkpoint is measured again"
    assert json.loads((tmp_path / "evaluations.json").read_text())[-1] == [5, 1.8]


@pytest.mark.parametrize(
    "wrong",
    [
        {"early_stopping_patience": 0},
        {"optim": "adamw_9bit"},
        {"lr_scheduler_type": "cosin"},
        {"min_lr_rate": 1.0},
        {"method": "dpo", "neftune_noise_alpha": 5.0},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TrainingSettings.model_validate(wrong)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_optimizer_of_8_bits_learns_nearly_the_same(optim: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    header = make_model(tmp_path)
    exact = Session(header, tmp_path / "a", settings_of(lora_r=32))
    exact.run()
    small = Session(header, tmp_path / "b", settings_of(lora_r=32, optim=optim))
    small.run()
    assert small.losses == pytest.approx(exact.losses, abs=0.05)
    saved = torch.load(tmp_path / "b" / "step-000006" / "optimizer.pt", weights_only=True)
    moments = [item["__bnb_optimizer_quant_state__"]["state1"] for item in saved["state"].values()]
    assert {moment.dtype for moment in moments} == {torch.uint8}

    first = Session(header, tmp_path / "c", settings_of(lora_r=32, optim=optim))
    first.run(Wishes(stop=lambda: len(first.losses) >= 3, save=lambda: False))
    second = Session(header, tmp_path / "c", settings_of(lora_r=32, optim=optim))
    second.run()
    assert first.losses + second.losses == small.losses
