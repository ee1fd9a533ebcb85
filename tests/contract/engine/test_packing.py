"""Rows one behind another are learned exactly as rows in batches of their own."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations.neftune import activate_neftune

from llamaforge.data.chat import EncodedRow
from llamaforge.gguf.header import read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.batches import LengthBatches, collate
from llamaforge.training.lora import attach_lora, hidden_states
from llamaforge.training.loss import token_losses, trained_positions
from llamaforge.training.model import load_packed_model
from llamaforge.training.noise import noisy_embeddings, row_lengths
from llamaforge.training.objective import Supervised
from llamaforge.training.packing import (
    PackedBatches,
    PackedLoader,
    collate_packed,
    keeps_apart,
    layout,
)
from llamaforge.training.trainer import Wishes, train
from tests.contract.engine.engine_bench import (
    SETTINGS,
    VOCABULARY,
    make_lora,
    make_model,
    make_rows,
)
from tests.contract.engine.test_preference_equals_trl import move_adapter
from tests.contract.engine.test_training_trajectory import NEVER
from tools.architecture_models import RECIPES, write_architecture_model

SEEN = {"qwen35", "qwen35moe", "falcon", "falcon-40b", "gpt-oss"}
"""Rows see each other here: layers pass a state on, or transformers gives their mask no positions.
A newer transformers may do so."""


def losses_by_row(packed: Any, model: Any, batch: Any, rows: list[EncodedRow]) -> list[list[float]]:
    """Return the loss of every trained token, row by row, found by the tokens' own ids."""
    with torch.no_grad():
        hidden = hidden_states(model, batch["input_ids"], batch.get("position_ids"))
        states, targets = trained_positions(hidden, batch["labels"])
        values = token_losses(states, targets, packed.head).tolist()
    ids = targets.tolist()
    found = []
    for row in rows:
        wanted = [number for number, mark in zip(row.ids, row.trained, strict=True) if mark]
        place = next(p for p in range(len(ids)) if ids[p : p + len(wanted)] == wanted)
        found.append(values[place : place + len(wanted)])
    assert sum(map(len, found)) == len(values)
    return found


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_token_has_the_loss_that_it_has_alone(name: str, tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, "Q8_0")
    packed = load_packed_model(read_header(path), torch.float32)
    torch.manual_seed(0)
    model = attach_lora(packed, SETTINGS)
    move_adapter(model)
    model.eval()
    rows = make_rows(5, longest=40)
    batch = collate_packed(rows)
    assert len(batch["input_ids"]) < len(rows), "several rows must share a sequence"
    together = losses_by_row(packed, model, batch, rows)
    alone = [losses_by_row(packed, model, collate([row]), [row])[0] for row in rows]
    equal = all(
        found == pytest.approx(wanted, abs=2e-4)
        for found, wanted in zip(together, alone, strict=True)
    )
    assert keeps_apart(model, torch.float32) == equal, "what is tried must be what is so"
    assert equal == (name not in SEEN)


def test_packed_training_takes_the_very_same_steps(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_rows(22, longest=60)
    rows[3] = make_rows(1, seed=8, longest=240)[0]
    settings = SETTINGS.model_copy(
        update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 7}
    )
    found = []
    for packing in (False, True):
        packed, model = make_lora(header)
        loader = PackedLoader(rows, 2, settings.seed, accumulation=4) if packing else None
        objective = Supervised(packed.head, rows, [], settings, loader)
        seen: list[Any] = []
        folder = tmp_path / str(packing)
        train(model, objective, settings, folder, emit=seen.append, wishes=NEVER)
        steps = [event for event in seen if event.type == "step"]
        found.append([(step.step, step.total, step.epoch, step.loss) for step in steps])
    plain, packed_steps = found
    assert [step[:3] for step in plain] == [step[:3] for step in packed_steps]
    assert [step[3] for step in plain] == pytest.approx(
        [step[3] for step in packed_steps], abs=5e-5
    )
    assert plain[-1][3] < plain[0][3] - 0.05


def test_a_step_has_the_rows_that_it_has_without_packing() -> None:
    lengths = [8 + (37 * row) % 90 for row in range(99)] + [400, 420]
    plain = LengthBatches(lengths, 4, 3, accumulation=4)
    packed = PackedBatches(lengths, 4, 3, accumulation=4)
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        packed.set_epoch(epoch)
        ones, others = list(plain), list(packed)
        assert len(others) == len(packed) == len(ones) == len(plain)
        for start in range(0, len(ones), 4):
            step, again = ones[start : start + 4], others[start : start + 4]
            assert sorted(chain(*step)) == sorted(chain(*again))
        assert sum(map(bool, others)) < len(ones) / 2, "most steps need one pass"
        assert all(sum(lengths[row] for row in batch) <= 4 * 424 for batch in others)


def test_processes_share_the_rows_of_a_step_evenly() -> None:
    lengths = [8 + (37 * row) % 90 for row in range(99)] + [400, 420]
    alone = PackedBatches(lengths, 4, 3, accumulation=4)
    halves = [PackedBatches(lengths, 4, 3, accumulation=2, rank=rank, world=2) for rank in (0, 1)]
    steps, shares = list(alone), [list(half) for half in halves]
    assert [len(half) for half in halves] == list(map(len, shares)) == [13, 13]
    for number in range(6):
        rows = sorted(chain(*steps[4 * number : 4 * number + 4]))
        ours = [list(chain(*share[2 * number : 2 * number + 2])) for share in shares]
        assert sorted(chain(*ours)) == rows
        tokens = [sum(lengths[row] for row in own) for own in ours]
        assert max(tokens) - min(tokens) <= max(lengths[row] for row in rows)
        assert all(ours)
    assert sorted(chain(*(share[-1] for share in shares))) == sorted(chain(*steps[24:]))


def test_noise_is_measured_out_by_each_rows_own_length(tmp_path: Path) -> None:
    """With one row a sequence it is transformers' own noise; beside others it stays the same."""
    packed, model = make_lora(make_model(tmp_path))
    embeddings = packed.model.get_input_embeddings()
    rows = [EncodedRow(list(range(5, 5 + n)), [True] * n, terminated=True) for n in (40, 16, 8)]
    batch = collate_packed(rows)
    ids, positions = batch["input_ids"], batch["position_ids"]
    model.train()
    clean = embeddings(ids)
    hidden = clean.shape[-1]
    torch.manual_seed(3)
    with noisy_embeddings(model, 5.0, positions):
        noise = (embeddings(ids) - clean).detach()
    lengths = row_lengths(positions)
    assert ids.shape[0] < len(rows), "some rows share a sequence"
    for row in rows:
        mine = noise[(ids == row.ids[0]) & (lengths == len(row.ids))]
        assert len(mine) == 1
        size = len(row.ids)
        of_row = noise[lengths == size].abs().max().item()
        assert of_row == pytest.approx(5.0 / (size * hidden) ** 0.5, rel=0.02)
    alone = collate_packed(rows[:1])
    torch.manual_seed(4)
    with noisy_embeddings(model, 5.0, alone["position_ids"]):
        ours = embeddings(alone["input_ids"])
    handle = activate_neftune(model, 5.0)
    torch.manual_seed(4)
    theirs = embeddings(alone["input_ids"])
    handle.remove()
    assert torch.allclose(ours, theirs, atol=1e-6)
    model.eval()
    with noisy_embeddings(model, 5.0, positions):
        assert torch.equal(embeddings(ids), clean), "nothing is added where nothing is trained"


def test_packed_training_with_noise_goes_on_bit_for_bit(tmp_path: Path) -> None:
    header = make_model(tmp_path)
    rows = make_rows(12)
    losses: dict[str, list[float]] = {}

    def run(name: str, folder: str, stop_after: int = 99, **changes: Any) -> None:
        settings = SETTINGS.model_copy(update={"max_steps": 4, "packing": True} | changes)
        packed, model = make_lora(header)
        loader = PackedLoader(rows, 4, settings.seed, accumulation=1)
        objective = Supervised(packed.head, rows, [], settings, loader)
        found = losses.setdefault(name, [])
        stop = len(found) + stop_after
        train(
            model,
            objective,
            settings,
            tmp_path / folder,
            emit=lambda event: found.append(event.loss) if event.type == "step" else None,  # type: ignore[attr-defined]
            wishes=Wishes(stop=lambda: len(found) >= stop, save=lambda: False),
        )

    noise: dict[str, Any] = {"neftune_noise_alpha": 20.0}
    run("clean", "a")
    run("noisy", "b", **noise)
    run("stopped", "c", 2, **noise)
    run("stopped", "c", **noise)
    assert losses["stopped"] == losses["noisy"]
    assert all(abs(a - b) > 1e-4 for a, b in zip(losses["clean"], losses["noisy"], strict=True))


@pytest.mark.parametrize(
    ("lengths", "sequences"),
    [
        ([500] * 8, 8),  # nothing is gained
        ([40] * 8, 8),
        ([1000, 100, 100, 100, 100, 100], 1),
        ([2000, 2000, 100, 100], 2),
        ([9] * 8, 1),  # alone each would be padded to 16
        ([7], 1),
    ],
)
def test_rows_are_laid_out_so_that_least_is_computed(lengths: list[int], sequences: int) -> None:
    found = layout(lengths)
    assert len(found) == sequences
    assert sorted(chain(*found)) == list(range(len(lengths)))


def test_the_first_token_of_a_row_is_predicted_by_no_other_row() -> None:
    rows = [EncodedRow([5, 6, 7], [True] * 3, terminated=True) for _ in range(3)]
    batch = collate_packed(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 5, 6, 7, 0, 0], [5, 6, 7, 0, 0, 0, 0, 0]]
    labels = [[-100, 6, 7, -100, 6, 7, -100, -100], [-100, 6, 7, *[-100] * 5]]
    assert batch["labels"].tolist() == labels
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch["lengths"].tolist() == [3, 3, 3]


def test_packing_is_for_answers() -> None:
    with pytest.raises(ValueError, match="packing is a setting of the method sft"):
        TrainingSettings.model_validate({"method": "dpo", "packing": True})
