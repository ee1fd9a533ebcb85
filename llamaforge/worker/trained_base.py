"""A model that was trained on its full-precision base, read back: what proof and checks use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from llamaforge.errors import InvalidFileError
from llamaforge.export.learned import ADAPTER_FILE
from llamaforge.gguf.header import Header
from llamaforge.hardware import available_memory_bytes
from llamaforge.recipe.spec import ResolvedBase
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.dense import load_dense_model
from llamaforge.training.lora import (
    ADAPTER_NAME,
    attach_lora,
    compute_type,
    hidden_states,
    lora_layers,
)
from llamaforge.training.loss import OutputHead, log_probabilities

Array = npt.NDArray[np.float32]
_ROOM: Final = 1.3
"""Memory beside the weights in which they are computed with, as a part of them."""


class TrainedBase:
    """A dense model between what it was before (strength 0) and what was learned (1)."""

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        head: OutputHead,
        set_strength: Callable[[float], None],
    ) -> None:
        """Take a model in which `set_strength` says how much of what was learned counts."""
        self._model = model
        self._head = head
        self._device = model.device
        self._set = set_strength
        self._strength: float | None = None

    def log_probabilities(
        self, ids: Sequence[int], positions: Sequence[int], *, strength: float
    ) -> Array:
        """Return log P(next token) at `positions`, float32 [positions, vocabulary]."""
        with torch.no_grad():
            if strength != self._strength:
                self._set(strength)
                self._strength = strength
            row = torch.tensor([list(ids)], device=self._device)
            states = hidden_states(self._model, row)[0, list(positions)]
            return cast("Array", log_probabilities(states, self._head).cpu().numpy())


def load_trained_base(
    header: Header, full: ResolvedBase, settings: TrainingSettings, learned: Path
) -> TrainedBase:
    """Return the base in `full` with what `learned` holds.

    In float32 on the CPU where its memory has room for that, else in the type that was computed
    in; and over NF4 where it was trained, since not every bitsandbytes knows the CPU.

    Args:
        header: the file that is served.
        full: the base.
        settings: as in the run spec.
        learned: PEFT's `adapter_model.safetensors`, or the model's trained weights.

    Raises:
        LlamaForgeError: the base cannot be loaded, or `learned` does not fit the settings.
    """
    dtype = compute_type(settings.compute_dtype)
    copies = 1 if settings.use_peft else 3
    if available_memory_bytes() > _ROOM * copies * 4 * header.parameters:
        dtype = torch.float32
    loaded = load_dense_model(
        full.folder,
        header,
        dtype,
        device=settings.device if settings.load_in_4bit else "cpu",
        load_in_4bit=settings.load_in_4bit,
    )
    if not settings.use_peft:
        tuned = load_dense_model(learned.parent, header, dtype)
        return TrainedBase(loaded.model, loaded.head, _between(loaded.model, tuned.model))
    model = attach_lora(loaded, settings)
    before = {path: _magnitude(layer) for path, layer in lora_layers(model)}
    _fill(model, learned)
    after = {path: _magnitude(layer) for path, layer in lora_layers(model)}

    def set_strength(strength: float) -> None:
        for path, layer in lora_layers(model):
            layer.set_scale(ADAPTER_NAME, strength)
            magnitude, first, last = _magnitude_of(layer), before[path], after[path]
            if magnitude is not None and first is not None and last is not None:
                magnitude.copy_(torch.lerp(first, last, strength))

    return TrainedBase(model.eval(), loaded.head, set_strength)


def _between(base: nn.Module, tuned: nn.Module) -> Callable[[float], None]:
    """Return what sets the weights of `base` between its own and those of `tuned`."""
    last = dict(tuned.named_parameters())
    first = {name: value.detach().clone() for name, value in base.named_parameters()}

    def set_strength(strength: float) -> None:
        for name, value in base.named_parameters():
            value.copy_(torch.lerp(first[name], last[name], strength))

    return set_strength


def _fill(model: PeftModel, learned: Path) -> None:
    weights = load_file(learned)
    expected = sum(parameter.requires_grad for parameter in model.parameters())
    result: Any = set_peft_model_state_dict(model, weights)
    if result.unexpected_keys or len(weights) != expected:
        raise InvalidFileError(
            f"What was learned ({ADAPTER_FILE}) does not fit the run's settings.",
            "Start a new run.",
            code="bad_checkpoint",
        )


def _magnitude_of(layer: Any) -> Tensor | None:
    """Return the parameter that holds the length of each row of a layer with DoRA."""
    vectors = layer.lora_magnitude_vector
    return cast("Tensor", vectors[ADAPTER_NAME].weight) if ADAPTER_NAME in vectors else None


def _magnitude(layer: Any) -> Tensor | None:
    found = _magnitude_of(layer)
    return None if found is None else found.detach().clone()
