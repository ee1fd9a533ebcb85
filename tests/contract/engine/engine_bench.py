"""Tiny random models and rows for the tests of the engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from llamaforge.data.chat import EncodedRow
from llamaforge.evaluation.fidelity import FidelityRow
from llamaforge.export.adapter import Factors
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.lora import attach_lora, factors, lora_layers
from llamaforge.training.model import PackedModel, load_packed_model
from llamaforge.training.packed import PackedEmbedding, PackedLinear
from llamaforge.worker.trained import Trained
from tools.random_models import Shape, Vocabulary, write_random_model

VOCABULARY = Vocabulary.byte_level()
SMALL = Shape(hidden=256, layers=2, heads=4, key_value_heads=2, head_dim=64, feed_forward=256)
SETTINGS = TrainingSettings(
    lora_r=8,
    lora_alpha=16,
    learning_rate=5e-3,
    max_steps=6,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    compute_dtype="float32",
    save_steps=100,
    warmup_ratio=0.0,
)


def make_model(folder: Path, quantization: str = "Q4_K_M", shape: Shape = SMALL) -> Header:
    """Write a random model into `folder` and return its header."""
    return read_header(
        write_random_model(folder / "model.gguf", shape, VOCABULARY, quantization, seed=1)
    )


def make_rows(count: int, *, seed: int = 0, longest: int = 40) -> list[EncodedRow]:
    """Return rows of random ids whose second half is trained."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(random.integers(12, longest))
        ids = random.integers(0, VOCABULARY.size - 3, length).tolist()
        half = length // 2
        rows.append(EncodedRow(ids, [False] * half + [True] * (length - half), terminated=True))
    return rows


def make_lora(
    header: Header, settings: TrainingSettings = SETTINGS, *, seed: int = 0
) -> tuple[PackedModel, PeftModel]:
    """Return the packed model with an untouched adapter on it."""
    packed = load_packed_model(header, torch.float32)
    torch.manual_seed(seed)
    return packed, attach_lora(packed, settings)


def make_trained(header: Header, settings: TrainingSettings = SETTINGS) -> Trained:
    """Return a model whose adapter holds random numbers, as large as training makes them."""
    packed, model = make_lora(header, settings)
    torch.manual_seed(7)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            factors(layer)[1].normal_(0.0, 0.05)
    return Trained(packed, model.eval())


def fidelity_rows(count: int = 4) -> list[FidelityRow]:
    """Return rows to compare torch and llama.cpp on."""
    return [FidelityRow(row.ids, row.trained) for row in make_rows(count, seed=9)]


def unpack_in_place(packed: PackedModel) -> None:
    """Replace every packed layer of the model by a plain one with the same weights."""
    for path, module in list(packed.model.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(module, PackedLinear):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight = nn.Parameter(module.packed.unpack(torch.float32), requires_grad=False)
            if module.bias is not None:
                plain.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
            setattr(packed.model.get_submodule(parent), name, plain)
        elif isinstance(module, PackedEmbedding):
            table = nn.Embedding(module.num_embeddings, module.embedding_dim)
            table.weight = nn.Parameter(module.packed.unpack(torch.float32), requires_grad=False)
            setattr(packed.model.get_submodule(parent), name, table)


def scaled(layers: dict[str, Factors], part: float) -> dict[str, Factors]:
    """Return the adapter at another strength."""
    return {name: replace(item, scale=item.scale * part) for name, item in layers.items()}
