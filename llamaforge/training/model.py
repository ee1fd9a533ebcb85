"""A transformers model over the packed blocks of a GGUF file.

The file is mapped, not read: its blocks are shared with every other process that maps it. Only
rows that must be put into another order, and the norms, are copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.architectures import Architecture, architecture_of, configuration
from llamaforge.gguf.ggml import is_unpackable
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.keys import layer_count
from llamaforge.gguf.names import column_order, gguf_namer, inverse, row_order
from llamaforge.training.experts import (
    PackedExperts,
    ReorderedInput,
    ScaledEmbedding,
    activation_of,
    is_experts,
)
from llamaforge.training.loss import OutputHead
from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight

HEAD: Final = "lm_head"
"""The path of the output head in every transformers model of the table."""
_EMBEDDING: Final = "token_embd"
_ROPE_TENSORS: Final = ("rope_freqs.weight", "rope_factors_short.weight")
"""By which the rotary frequencies are divided: Llama 3.1's, or Phi-3's for its first tokens."""
_IGNORED: Final = frozenset({*_ROPE_TENSORS, "rope_factors_long.weight"})
"""Tensors that feed no parameter: those of the rotary embedding are read on their own."""


@dataclass(frozen=True)
class LoadedModel:
    """A model to train and what is needed to put its adapter on the file that is served."""

    model: PreTrainedModel
    head: OutputHead
    """Over [vocabulary, hidden]; the embedding's own weights where they are tied."""
    names: dict[str, str]
    """GGUF tensor, without `.weight`, of each module path that may take an adapter."""


@dataclass(frozen=True)
class PackedModel(LoadedModel):
    """One over the packed blocks of the file itself."""


class _Source:
    """Reads tensors of the mapped file, or files, and remembers which ones were used."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.unused = model_tensors(header)
        # Copy on write: torch wants memory that it may write to, and never writes to it.
        self._files = [
            torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c")) for path in header.files
        ]

    def raw(self, name: str) -> tuple[TensorInfo, Tensor]:
        """Return a tensor's place and its bytes, shape [rows, bytes of a row].

        Raises:
            InvalidFileError: the file has no such tensor.
            RefusedError: its type cannot be unpacked.
        """
        info = self.header.tensors.get(name)
        if info is None:
            raise InvalidFileError(
                f"{self.header.path.name} lacks the tensor {name}.",
                "Pull the model again; the file is incomplete.",
                code="missing_tensor",
            )
        if not is_unpackable(info.type):
            raise RefusedError(
                f"The tensor {name} has the type {info.type.name}, which cannot be trained on.",
                "Choose another quantisation of the model.",
                code="unsupported_type",
            )
        self.unused.discard(name)
        rows = self._files[info.file][info.offset : info.offset + info.n_bytes]
        return info, rows.view(info.rows, -1)

    def weight(self, name: str) -> PackedWeight:
        """Return the matrix `name` (without `.weight`), rows in transformers' order."""
        info, blocks = self.raw(f"{name}.weight")
        order = row_order(self.header, name)
        if order is not None:
            blocks = blocks[torch.from_numpy(inverse(order))]
        return PackedWeight(blocks, info.type, info.rows, info.width)

    def sorted_vector(self, name: str) -> Tensor:
        """Return all values of a small tensor as float32, rows in transformers' order."""
        values = self.vector(name)
        stem = name.removesuffix(".weight").removesuffix(".bias")
        order = row_order(self.header, stem)
        if order is None:
            return values
        if values.numel() % len(order):
            raise InvalidFileError(
                f"The tensor {name} has {values.numel()} values in {len(order)} rows.",
                "Pull the model again; the file contradicts itself.",
                code="wrong_shape",
            )
        return values.view(len(order), -1)[torch.from_numpy(inverse(order))].reshape(-1)

    def has(self, name: str) -> bool:
        """Return whether the file holds the tensor."""
        return name in self.header.tensors

    def experts(self, name: str) -> list[PackedWeight]:
        """Return the matrices of all experts, which lie in one tensor one after the other."""
        info, blocks = self.raw(f"{name}.weight")
        if len(info.shape) != 3:
            raise InvalidFileError(
                f"The tensor {name}.weight holds no experts.",
                "It is a variant that cannot be trained yet; choose another model.",
                code="wrong_shape",
            )
        width, rows, count = info.shape
        grouped = blocks.view(count, rows, -1)
        return [PackedWeight(grouped[number], info.type, rows, width) for number in range(count)]

    def expert_biases(self, name: str) -> list[Tensor] | None:
        """Return the biases of all experts, if they have any."""
        if f"{name}.bias" not in self.header.tensors:
            return None
        info = self.header.tensors[f"{name}.bias"]
        return list(self.vector(f"{name}.bias").view(-1, info.width))

    def vector(self, name: str) -> Tensor:
        """Return all values of a small tensor as float32, in one dimension."""
        info, blocks = self.raw(name)
        values = PackedWeight(blocks, info.type, info.rows, info.width).unpack(torch.float32)
        return values.reshape(-1).clone()

    def bias(self, name: str) -> Tensor | None:
        """Return the bias of the matrix `name` in transformers' order, if it has one."""
        if f"{name}.bias" not in self.header.tensors:
            return None
        values = self.vector(f"{name}.bias")
        order = row_order(self.header, name)
        return values if order is None else values[torch.from_numpy(inverse(order))]


def model_tensors(header: Header) -> set[str]:
    """Return the names of the tensors that feed the model's parameters."""
    layers, ignored = layer_count(header), architecture_of(header).ignored
    return {
        name
        for name in set(header.tensors) - _IGNORED
        if not _is_ahead(name, layers) and not (ignored and ignored(header, name))
    }


def _is_ahead(name: str, layers: int) -> bool:
    """Return whether a tensor belongs to layers that only guess tokens ahead: none is trained."""
    block, _, rest = name.partition(".")
    number, _, _ = rest.partition(".")
    return block == "blk" and number.isdigit() and int(number) >= layers


def load_packed_model(header: Header, compute_dtype: torch.dtype) -> PackedModel:
    """Build the transformers model of a GGUF file without unpacking its matrices.

    Args:
        header: the file's header; the file must stay in place while the model lives.
        compute_dtype: the type of activations and of a weight while it is unpacked.

    Raises:
        RefusedError: the architecture or a tensor's type cannot be trained.
        InvalidFileError: a tensor is missing, left over or of a wrong shape.
    """
    entry = architecture_of(header)
    model = empty_model(header, compute_dtype)
    source = _Source(header)
    name_of = gguf_namer(header)
    names: dict[str, str] = {}
    embedding = source.weight(_EMBEDDING)
    head = embedding if model.config.tie_word_embeddings else source.weight("output")
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding):
            table = embedding_name(path, name_of)
            weight = embedding if table == _EMBEDDING else source.weight(table)
            packed = PackedEmbedding(weight, compute_dtype)
            _replace(model, path, _scaled(packed, module, compute_dtype))
        elif path == HEAD:
            _check_shape("output", head, module)
            _replace(model, path, PackedLinear(head, None, compute_dtype))
        elif isinstance(module, nn.Linear):
            name = name_of(path)
            if name is None:
                raise InvalidFileError(f"No tensor is known for the layer {path}.")
            weight = source.weight(name)
            _check_shape(name, weight, module)
            packed_linear = PackedLinear(weight, source.bias(name), compute_dtype)
            columns = column_order(header, name)
            if columns is None:
                _replace(model, path, packed_linear)
                if name.rsplit(".", 1)[-1] not in entry.frozen:
                    names[path] = name
            else:
                _replace(model, path, ReorderedInput(packed_linear, torch.from_numpy(columns)))
                names[f"{path}.{ReorderedInput.INNER}"] = name
        elif is_experts(module):
            _replace(model, path, _experts(module, layer_of(path), source, compute_dtype))
        else:
            _fill(module, path, name_of, source, compute_dtype, entry)
            _fill_buffers(module, path, source, entry)
    _apply_rope_factors(model, header, source)
    _check_complete(model, source)
    model.requires_grad_(False)
    model.config.use_cache = False
    return PackedModel(model.eval(), output_head(header, head), names)


def output_head(header: Header, weight: PackedWeight, trained: Tensor | None = None) -> OutputHead:
    """Return the head that makes logits as the model of `header` does.

    Args:
        header: the model's file.
        weight: W, [vocabulary, hidden].
        trained: the same as a parameter, where it is trained.
    """
    entry = architecture_of(header)
    return OutputHead(
        weight,
        scale=entry.logit_scale(header) if entry.logit_scale else 1.0,
        softcap=entry.softcap(header) if entry.softcap else None,
        trained=trained,
    )


def empty_model(header: Header, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    """Return the transformers model of a GGUF file without its weights.

    Args:
        header: the file's header.
        dtype: the type that the model is to compute in.
        changes: attributes of the configuration that differ from the file's.

    Raises:
        RefusedError: the architecture, or a variant of it, is not known.
    """
    entry = architecture_of(header)
    values = configuration(header) | changes
    kind = values.pop("model_type")
    config = AutoConfig.for_model(kind, **values, dtype=dtype)
    # Buffers such as the rotary frequencies are computed for real; weights get no memory.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=entry.attention)
    return cast("PreTrainedModel", model)


def _scaled(packed: PackedEmbedding, module: nn.Embedding, dtype: torch.dtype) -> nn.Module:
    """Return the embedding with the scale that the model gives it, if it gives one (Gemma)."""
    scale = dict(module.named_buffers(recurse=False)).get("embed_scale")
    # The scale is rounded to the type of the products, as the model itself rounds it.
    return packed if scale is None else ScaledEmbedding(packed, float(scale.to(dtype)))


def embedding_name(path: str, name_of: Callable[[str], str | None]) -> str:
    """Return the GGUF name of the embedding at `path`: the tokens' own, unless it is another."""
    return name_of(path) or _EMBEDDING


def norm_offset(entry: Architecture, module: nn.Module) -> float:
    """Return what the file's weights of `module` have added to those of transformers."""
    kind = type(module).__name__
    return entry.norm_offset if "Norm" in kind and "Gated" not in kind else 0.0


def layer_of(path: str) -> str:
    """Return how the GGUF names begin of what lies in the layer of a module."""
    return f"blk.{next(part for part in path.split('.') if part.isdigit())}."


def parameter_name(
    path: str, key: str, name_of: Callable[[str], str | None], entry: Architecture
) -> str:
    """Return the GGUF name of the parameter `key` of the module at `path`."""
    whole = f"{path}.{key}"
    for ending, name in entry.parameters.items():
        if whole.endswith(ending):
            return f"{layer_of(path)}{name}"
    module = name_of(path)
    return f"{module}.{key}" if module else f"{name_of(whole)}.weight"


def _experts(module: nn.Module, layer: str, source: _Source, dtype: torch.dtype) -> PackedExperts:
    """Return the experts of the layer whose GGUF names begin with `layer`, such as `blk.0.`."""
    if source.has(f"{layer}ffn_gate_up_exps.weight"):
        fused = source.experts(f"{layer}ffn_gate_up_exps")
        halves = zip(*(weight.halves() for weight in fused), strict=True)
        parts = [*map(list, halves), source.experts(f"{layer}ffn_down_exps")]
    else:
        parts = [source.experts(f"{layer}ffn_{part}_exps") for part in ("gate", "up", "down")]
    biases = [source.expert_biases(f"{layer}ffn_{part}_exps") for part in ("gate", "up", "down")]
    return PackedExperts(parts, biases, activation_of(module), dtype)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _check_shape(name: str, weight: PackedWeight, module: nn.Linear) -> None:
    if (weight.rows, weight.width) != (module.out_features, module.in_features):
        raise InvalidFileError(
            f"The tensor {name}.weight is {weight.rows} × {weight.width}, and the model's "
            f"configuration wants {module.out_features} × {module.in_features}.",
            "Pull the model again; the file contradicts itself.",
            code="wrong_shape",
        )


def _fill(
    module: nn.Module,
    path: str,
    name_of: Callable[[str], str | None],
    source: _Source,
    dtype: torch.dtype,
    entry: Architecture,
) -> None:
    """Give a norm, a router or a convolution its weights; they are few, so they are kept unpacked.

    The file's norm weights have the entry's offset added to them; biases have not.
    """
    for key, parameter in list(module.named_parameters(recurse=False)):
        tensor = parameter_name(path, key, name_of, entry)
        if key in entry.ones and not source.has(tensor):
            setattr(
                module,
                key,
                nn.Parameter(
                    torch.ones_like(parameter, dtype=dtype, device="cpu"), requires_grad=False
                ),
            )
            continue
        values = source.sorted_vector(tensor)
        if values.numel() != parameter.numel():
            raise InvalidFileError(
                f"The tensor {tensor} has {values.numel()} values, and the model's "
                f"configuration wants {parameter.numel()}.",
                "Pull the model again; the file contradicts itself.",
                code="wrong_shape",
            )
        if key == "weight":
            values -= norm_offset(entry, module)
        if key in entry.logarithms:
            values = torch.log(-values)
        values = values.to(dtype).reshape(parameter.shape)
        setattr(module, key, nn.Parameter(values, requires_grad=False))


def _fill_buffers(module: nn.Module, path: str, source: _Source, entry: Architecture) -> None:
    """Give a module the buffers that the file holds, such as a layer's own scale."""
    for key in kept_buffers(module, entry):
        tensor = f"{layer_of(path)}{entry.parameters[key]}"
        if source.has(tensor):
            setattr(module, key, source.vector(tensor))


def kept_buffers(module: nn.Module, entry: Architecture) -> list[str]:
    """Return the buffers of a module that a file holds, by the entry's names."""
    return [key for key, _ in module.named_buffers(recurse=False) if key in entry.parameters]


def _apply_rope_factors(model: PreTrainedModel, header: Header, source: _Source) -> None:
    """Divide the rotary frequencies by the file's own factors."""
    entry = architecture_of(header)
    if entry.still is not None and (still := entry.still(header)):
        for frequencies in rotary_frequencies(model):
            frequencies[still] = 0.0
    found = next((name for name in _ROPE_TENSORS if name in header.tensors), None)
    if found is None:
        return
    factors = source.vector(found)
    strength = header.own("rope.scaling.attn_factor", 1.0) if "short" in found else 1.0
    for module in model.modules():
        turned = dict(module.named_buffers(recurse=False)).get("inv_freq")
        if turned is not None:
            turned.div_(factors.to(turned.dtype))
            module.original_inv_freq = turned.clone()
            module.attention_scaling = float(strength)


def rotary_frequencies(model: PreTrainedModel) -> list[Tensor]:
    """Return the rotary frequencies that a model turns by."""
    return [
        values
        for name, values in model.named_buffers()
        if name.rsplit(".", 1)[-1] in {"inv_freq", "original_inv_freq"}
    ]


def _check_complete(model: nn.Module, source: _Source) -> None:
    empty = [name for name, value in model.named_parameters() if value.is_meta]
    if empty:
        raise InvalidFileError(
            f"{source.header.path.name} holds nothing for {empty[0]}.",
            "Pull the model again; the file is incomplete.",
            code="missing_tensor",
        )
    if source.unused:
        raise RefusedError(
            f"{source.header.path.name} has {len(source.unused)} tensors that the model would not "
            f"use, such as {min(source.unused)[:60]}.",
            "It is a variant that cannot be trained yet; choose another model.",
            code="unsupported_variant",
        )
