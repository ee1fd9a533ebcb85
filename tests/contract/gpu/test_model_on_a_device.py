"""A whole model on a device learns what it learns on the CPU, and its layers never wait."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from llamaforge.gguf.header import read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training import packed
from llamaforge.training.lora import attach_lora, hidden_states
from llamaforge.training.model import load_packed_model
from llamaforge.training.objective import token_loss
from tools.random_models import Shape, Vocabulary, write_random_model

META = torch.device("meta")
VOCABULARY = Vocabulary.byte_level()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return write_random_model(path, Shape("qwen2", tied=True), VOCABULARY, "Q4_K_M")


def learned(file: Path, dtype: torch.dtype) -> list[Tensor]:
    """Return the loss of some tokens, and the gradient of every adapter."""
    source = load_packed_model(read_header(file), dtype)
    torch.manual_seed(0)
    model = attach_lora(source, TrainingSettings())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    ids = torch.randint(0, VOCABULARY.size, (2, 24))
    total, _ = token_loss(model, source.head, ids, ids, dtype)
    total.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2  # two factors for each of seven layers in two blocks
    return [
        total.detach(),
        *(parameter.grad for parameter in trained if parameter.grad is not None),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_equal_those_on_the_cpu(
    file: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = learned(file, dtype)
    monkeypatch.setattr(packed, "_on_host", lambda _: False)
    found = learned(file, dtype)
    assert len(found) == len(on_cpu) == 29
    for ours, theirs in zip(found, on_cpu, strict=True):
        assert torch.equal(ours, theirs)


def test_forward_and_backward_wait_for_no_value(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers itself looks, once in a forward pass, whether rows hold several sequences.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    source = load_packed_model(read_header(file), torch.bfloat16)
    model = attach_lora(source, TrainingSettings())
    model.to(META)
    assert source.head.weight.blocks.device == META
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = hidden_states(model, torch.empty(2, 24, dtype=torch.int64, device=META))
    states.sum().backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.grad is not None for parameter in trained} == {True}
