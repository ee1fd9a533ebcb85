"""LoRA on top of packed or dense layers, through PEFT."""

import difflib
from collections.abc import Iterator
from typing import Any, Final, TypeAlias, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from llamaforge.errors import UsageError
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.model import LoadedModel
from llamaforge.training.packed import PackedLinear
from llamaforge.training.packed_lora import PackedLora

ADAPTER_NAME: Final = "default"
Trainable: TypeAlias = PeftModel | PreTrainedModel
"""A model with LoRA layers, or one of which every weight is trained."""


def attach_lora(packed: LoadedModel, settings: TrainingSettings) -> PeftModel:
    """Put trainable adapters on the layers that `settings.target_modules` names.

    Their weights are float32; A is random by torch's current seed, B is zero.

    Raises:
        UsageError: a name fits no layer.
    """
    targets = settings.target_modules
    if not isinstance(targets, str):
        _check_targets(targets, packed)
    # Whole paths: PEFT itself has other ideas of what is linear in a mixture of experts.
    paths = [
        path
        for path in packed.names
        if isinstance(targets, str) or path.rsplit(".", 1)[-1] in targets
    ]
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # a plain factor, any number
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules=paths,
        bias="none",
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({PackedLinear: PackedLora})  # noqa: SLF001 - PEFT's own way in
    model = get_peft_model(cast("nn.Module", packed.model), config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return cast("PeftModel", model)


def _check_targets(targets: list[str], packed: LoadedModel) -> None:
    known = sorted({path.rsplit(".", 1)[-1] for path in packed.names})
    for target in targets:
        if target not in known:
            near = difflib.get_close_matches(target, known, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"The model has no layer named {target[:40]!r} to train.",
                f"{hint}It has: {', '.join(known)}.",
                code="target_modules",
            )


def lora_layers(model: PeftModel) -> Iterator[tuple[str, LoraLayer]]:
    """Yield each adapted layer with its path in the transformers model."""
    prefix = "base_model.model."
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield path.removeprefix(prefix), module


def factors(layer: LoraLayer) -> tuple[Tensor, Tensor, float]:
    """Return A [r, in_features], B [out_features, r] and the scale: W' = W + scale · B A."""
    pair: Any = layer
    a: Tensor = pair.lora_A[ADAPTER_NAME].weight
    b: Tensor = pair.lora_B[ADAPTER_NAME].weight
    return a.detach(), b.detach(), float(layer.scaling[ADAPTER_NAME])


def base_model(model: Trainable) -> PreTrainedModel:
    """Return the transformers model, which an adapter may be laid over."""
    return cast(
        "PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model
    )


def hidden_states(
    model: Trainable, input_ids: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """Return the last hidden states of right-padded `input_ids` [b, s], shape [b, s, h].

    No mask is needed: attention is causal, so padding behind a row never reaches it. Where several
    rows stand one behind another, `position_ids` [b, s] begin at 0 with each, which keeps them
    apart.
    """
    decoder = base_model(model).base_model  # the model without its head
    # Left out where there is nothing to keep apart: masks of their own cost time.
    places = {} if position_ids is None else {"position_ids": position_ids}
    output = decoder(input_ids=input_ids, use_cache=False, **places)
    return cast("Tensor", output.last_hidden_state)


def trainable_parameters(model: nn.Module) -> int:
    """Return how many weights are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def compute_type(name: str) -> torch.dtype:
    """Return the torch type of a spec's `compute_dtype`."""
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
