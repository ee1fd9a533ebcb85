"""Every architecture of the table learns: the loss falls, and every adapter has a gradient."""

from pathlib import Path

import pytest
import torch

from llamaforge.gguf.header import read_header
from llamaforge.training.batches import collate
from llamaforge.training.lora import lora_layers
from llamaforge.training.objective import token_loss
from tests.contract.engine.engine_bench import VOCABULARY, make_lora, make_rows
from tools.architecture_models import RECIPES, write_architecture_model

LEARNING_RATE = 5e-3
STEPS = 3


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_every_matrix_has_a_gradient(name: str, tmp_path: Path) -> None:
    header = read_header(
        write_architecture_model(tmp_path / "model.gguf", name, VOCABULARY, "Q8_0", seed=1)
    )
    packed, model = make_lora(header)
    model.train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    batch = collate(make_rows(4, seed=3))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total, count = token_loss(
            model, packed.head, batch["input_ids"], batch["labels"], torch.float32
        )
        loss = total / count
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses == sorted(losses, reverse=True), losses
    # B begins at zero, so that A has a gradient from the second step on.
    without = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert without == []
    assert len(list(lora_layers(model))) == len(packed.names)
