"""The trained model read back from its last checkpoint, in float32: what export and proof use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from llamaforge.errors import LlamaForgeError
from llamaforge.export.adapter import Factors
from llamaforge.gguf.header import Header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.lora import ADAPTER_NAME, attach_lora, factors, hidden_states, lora_layers
from llamaforge.training.loss import log_probabilities
from llamaforge.training.model import PackedModel, load_packed_model

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A packed model with the trained adapter on it."""

    packed: PackedModel
    model: PeftModel

    def layers(self) -> dict[str, Factors]:
        """Return the adapter's matrices by GGUF tensor name."""
        found = {}
        for path, layer in lora_layers(self.model):
            a, b, scale = factors(layer)
            found[self.packed.names[path]] = Factors(a.numpy(), b.numpy(), scale)
        return found

    def log_probabilities(
        self, ids: Sequence[int], positions: Sequence[int], *, strength: float
    ) -> Array:
        """Return log P(next token) at `positions`, shape [positions, vocabulary].

        `strength` is 1 for the adapter as it was trained, 0 for none, and scales it between.
        """
        for _, layer in lora_layers(self.model):
            layer.set_scale(ADAPTER_NAME, strength)
        with torch.no_grad():
            states = hidden_states(self.model, torch.tensor([list(ids)]))[0, list(positions)]
            return cast("Array", log_probabilities(states, self.packed.head).numpy())


def load_trained(header: Header, settings: TrainingSettings, checkpoint: Path) -> Trained:
    """Return the model of `header` with the adapter of `checkpoint`, computed in float32.

    Raises:
        LlamaForgeError: the checkpoint holds other weights than the settings make.
    """
    packed = load_packed_model(header, torch.float32)
    model = attach_lora(packed, settings)
    weights = load_file(checkpoint / "adapter_model.safetensors")
    expected = sum(parameter.requires_grad for parameter in model.parameters())
    result: Any = set_peft_model_state_dict(model, weights)
    if result.unexpected_keys or len(weights) != expected:
        raise LlamaForgeError(
            f"The checkpoint {checkpoint.name} does not fit the run's settings.",
            "Start a new run.",
            code="bad_checkpoint",
        )
    return Trained(packed, model.eval())


def lay_over(header: Header, settings: TrainingSettings, layers: Mapping[str, Factors]) -> Trained:
    """Return the model of `header` with an adapter that was trained elsewhere, in float32.

    Args:
        header: the file that the adapter is served over.
        settings: how it was trained.
        layers: its matrices by GGUF tensor name, columns as in the file.

    Raises:
        LlamaForgeError: the adapter has other layers than the settings make.
    """
    packed = load_packed_model(header, torch.float32)
    model = attach_lora(packed, settings)
    left = dict(layers)
    for path, layer in lora_layers(model):
        found = left.pop(packed.names[path], None)
        a, b, _ = factors(layer)
        if found is None or found.a.shape != a.shape or found.b.shape != b.shape:
            raise _unfit(packed.names[path])
        a.copy_(torch.from_numpy(found.a))
        b.copy_(torch.from_numpy(found.b))
    if left:
        raise _unfit(next(iter(left)))
    return Trained(packed, model.eval())


def _unfit(tensor: str) -> LlamaForgeError:
    return LlamaForgeError(
        f"What was trained for {tensor} does not fit the model's file.",
        "Start a new run.",
        code="bad_checkpoint",
    )
