"""LoRA steps on a device: packed blocks, and the same model dense or in bitsandbytes' NF4."""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from peft import get_peft_model
from torch import Tensor, nn

from benchmarks.common import BenchmarkModel, qwen2
from benchmarks.step_arms import lora_config, settings_of, unpacked
from llamaforge.gguf.header import Header
from llamaforge.gguf.types import TensorType
from llamaforge.training.lora import attach_lora
from llamaforge.training.model import PackedModel, load_packed_model
from llamaforge.training.objective import token_loss

MODEL: Final = BenchmarkModel("qwen2-1300m-packed", qwen2(2048, 16, 32, 8, 8192))
"""1.28 G weights with Qwen2's vocabulary; layers as Llama 3.2 1B has them."""
LENGTH: Final = 1024
"""Tokens a row."""
_WARM_STEPS, _MEASURED_STEPS = 3, 5
_DTYPE: Final = torch.bfloat16

Loss = Callable[[Tensor], Tensor]
"""From token ids [b, s] to the mean cross entropy of predicting them."""


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    key: str
    words: str
    build: Callable[[Header, torch.device], tuple[nn.Module, Loss]]


@dataclass(frozen=True)
class Measured:
    """What steps of one arm and batch took."""

    tokens_per_second: float
    peak_bytes: int
    """The most that was allocated on the device during the steps, the model included."""
    first_loss: float


def kind_of(layers: int) -> Callable[[str], TensorType]:
    """Return which type a tensor has in a file like llama.cpp's Q4_K_M."""

    def of(name: str) -> TensorType:
        if name in {"token_embd.weight", "output.weight"}:
            return TensorType.Q6_K
        number = int(name.split(".")[1])
        eighth = layers // 8
        better = number < eighth or number >= 7 * eighth or (number - eighth) % 3 == 2
        is_sensitive = name.endswith(("attn_v.weight", "ffn_down.weight"))
        return TensorType.Q6_K if better and is_sensitive else TensorType.Q4_K

    return of


def has_bitsandbytes() -> bool:
    """Return whether bitsandbytes can be imported."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _ours(source: PackedModel, device: torch.device) -> tuple[nn.Module, Loss]:
    settings = settings_of(1, "bfloat16")
    torch.manual_seed(settings.seed)
    model = attach_lora(source, settings)
    model.to(device)

    def loss_of(ids: Tensor) -> Tensor:
        total, count = token_loss(model, source.head, ids, ids, _DTYPE)
        return total / count

    return cast("nn.Module", model), loss_of


def _packed(header: Header, device: torch.device) -> tuple[nn.Module, Loss]:
    return _ours(load_packed_model(header, _DTYPE), device)


def _on_device(header: Header, device: torch.device) -> PackedModel:
    source = load_packed_model(header, _DTYPE)
    cast("Any", source.model).to(device)
    return source


def _dense(header: Header, device: torch.device) -> tuple[nn.Module, Loss]:
    return _ours(unpacked(_on_device(header, device), _DTYPE, whole=False), device)


def _with_peft(model: nn.Module, device: torch.device) -> tuple[nn.Module, Loss]:
    """Put PEFT's LoRA on a transformers model, and take the model's own loss."""
    settings = settings_of(1, "bfloat16")
    torch.manual_seed(settings.seed)
    adapted = get_peft_model(cast("Any", model), lora_config(settings)).to(device)

    def loss_of(ids: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=_DTYPE):
            return cast("Tensor", adapted(input_ids=ids, labels=ids).loss)

    return cast("nn.Module", adapted), loss_of


def _peft(header: Header, device: torch.device) -> tuple[nn.Module, Loss]:
    whole = unpacked(_on_device(header, device), _DTYPE, whole=True)
    return _with_peft(cast("nn.Module", whole.model), device)


def _nf4(header: Header, device: torch.device) -> tuple[nn.Module, Loss]:
    """QLoRA as it is usually set up: NF4, doubly quantised scales, the head in bfloat16."""
    import bitsandbytes

    model: Any = unpacked(_on_device(header, device), _DTYPE, whole=True).model
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or path == "lm_head":
            continue
        layer = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=_DTYPE,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            module.weight.data.cpu(),  # it is packed when it moves to the device
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
        )
        layer.bias = module.bias
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer.to(device))
    model.is_loaded_in_4bit = True  # as from_pretrained says it; PEFT looks for it
    return _with_peft(model, device)


ARMS: Final = {
    arm.key: arm
    for arm in (
        Arm("packed", "packed LoRA", _packed),
        Arm("dense", "the same, dense bf16", _dense),
        Arm("nf4", "bitsandbytes NF4 QLoRA", _nf4),
        Arm("peft", "bf16 PEFT LoRA", _peft),
    )
}


def measure(
    arm: Arm, header: Header, device: torch.device, batches: tuple[int, ...], deadline: float
) -> dict[int, Measured | str]:
    """Return what steps of `arm` took by batch size, or in words why they were not measured.

    Args:
        arm: what is measured; its model lives only as long as this call.
        header: the model's file.
        device: a CUDA device.
        batches: rows of `LENGTH` tokens a step.
        deadline: on `time.monotonic`; no batch is begun after it.
    """
    found: dict[int, Measured | str] = dict.fromkeys(batches, "left out for time")
    if time.monotonic() > deadline:
        return found
    try:
        model, loss_of = arm.build(header, device)
    except torch.OutOfMemoryError:
        return dict.fromkeys(batches, "out of memory")
    for batch in batches:
        if time.monotonic() > deadline:
            break
        _forget(device)
        try:
            found[batch] = _steps(model, loss_of, header, device, batch)
        except torch.OutOfMemoryError:
            found[batch] = "out of memory"
    del model, loss_of
    _forget(device)
    return found


def _steps(
    model: nn.Module, loss_of: Loss, header: Header, device: torch.device, batch: int
) -> Measured:
    """Do some steps of a bare loop: forward, loss, backward, clipping, AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    vocabulary = header.length("tokenizer.ggml.tokens")
    rows = torch.randint(0, vocabulary, (batch, LENGTH), generator=generator).to(device)
    seconds, losses = [], []
    for _ in range(_WARM_STEPS + _MEASURED_STEPS):
        _wait(device)
        started = time.perf_counter()
        loss = loss_of(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)
        seconds.append(time.perf_counter() - started)
        losses.append(loss.detach())
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    speed = batch * LENGTH / statistics.median(seconds[_WARM_STEPS:])
    return Measured(speed, peak, float(losses[0]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    """Give back what was freed, so that the next peak is the next measurement's own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
