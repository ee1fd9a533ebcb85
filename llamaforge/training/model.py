"""A transformers model over the packed blocks of a GGUF file.

The file is mapped, not read: its blocks are shared with every other process that maps it. Only
rows that must be put into another order, and the norms, are copied.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.architectures import configuration
from llamaforge.gguf.ggml import is_unpackable
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.names import gguf_namer, inverse, row_order
from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight

_IGNORED: Final = frozenset({"rope_freqs.weight"})
"""Tensors that feed no parameter: `rope_freqs` is read on its own."""


@dataclass(frozen=True)
class PackedModel:
    """The model and what is needed to put its adapter back on the file."""

    model: PreTrainedModel
    head: PackedWeight
    """The output head, [vocabulary, hidden]; the embedding's own blocks where they are tied."""
    names: dict[str, str]
    """GGUF tensor, without `.weight`, of each module path that holds one."""


class _Source:
    """Reads tensors of one mapped file, and remembers which ones were used."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.unused = set(header.tensors) - _IGNORED
        # Copy on write: torch wants memory that it may write to, and never writes to it.
        self._bytes = torch.from_numpy(np.memmap(header.path, dtype=np.uint8, mode="c"))

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
        rows = self._bytes[info.offset : info.offset + info.n_bytes]
        return info, rows.view(info.rows, -1)

    def weight(self, name: str) -> PackedWeight:
        """Return the matrix `name` (without `.weight`), rows in transformers' order."""
        info, blocks = self.raw(f"{name}.weight")
        order = row_order(self.header, name)
        if order is not None:
            blocks = blocks[torch.from_numpy(inverse(order))]
        return PackedWeight(blocks, info.type, info.rows, info.width)

    def vector(self, name: str) -> Tensor:
        """Return a one-dimensional tensor as float32."""
        info, blocks = self.raw(name)
        values = PackedWeight(blocks, info.type, 1, info.elements).unpack(torch.float32)
        return values.reshape(-1).clone()

    def bias(self, name: str) -> Tensor | None:
        """Return the bias of the matrix `name` in transformers' order, if it has one."""
        if f"{name}.bias" not in self.header.tensors:
            return None
        values = self.vector(f"{name}.bias")
        order = row_order(self.header, name)
        return values if order is None else values[torch.from_numpy(inverse(order))]


def load_packed_model(header: Header, compute_dtype: torch.dtype) -> PackedModel:
    """Build the transformers model of a GGUF file without unpacking its matrices.

    Args:
        header: the file's header; the file must stay in place while the model lives.
        compute_dtype: the type of activations and of a weight while it is unpacked.

    Raises:
        RefusedError: the architecture or a tensor's type cannot be trained.
        InvalidFileError: a tensor is missing, left over or of a wrong shape.
    """
    values = configuration(header)
    kind = values.pop("model_type")
    config = AutoConfig.for_model(kind, **values, dtype=compute_dtype)
    # Buffers such as the rotary frequencies are computed for real; weights get no memory.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    source = _Source(header)
    name_of = gguf_namer(header)
    names: dict[str, str] = {}
    embedding = source.weight("token_embd")
    head = embedding if config.tie_word_embeddings else source.weight("output")
    for path, module in list(model.named_modules()):
        name = name_of(path)
        if isinstance(module, nn.Embedding):
            _replace(model, path, PackedEmbedding(embedding, compute_dtype))
        elif isinstance(module, nn.Linear):
            if name is None:
                raise InvalidFileError(f"No tensor is known for the layer {path}.")
            is_head = name == "output"
            weight = head if is_head else source.weight(name)
            _check_shape(name, weight, module)
            _replace(model, path, PackedLinear(weight, source.bias(name), compute_dtype))
            if not is_head:
                names[path] = name
        elif name is not None:
            _fill(module, name, source, compute_dtype)
    _apply_rope_factors(model, header, source)
    _check_complete(model, source)
    model.requires_grad_(False)
    model.config.use_cache = False
    return PackedModel(model.eval(), head, names)


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


def _fill(module: nn.Module, name: str, source: _Source, dtype: torch.dtype) -> None:
    """Give a norm its weight; its values are few, so they are unpacked for good."""
    for key, parameter in list(module.named_parameters(recurse=False)):
        values = source.vector(f"{name}.{key}")
        if values.shape != parameter.shape:
            raise InvalidFileError(
                f"The tensor {name}.{key} has {values.numel()} values, and the model's "
                f"configuration wants {parameter.numel()}.",
                "Pull the model again; the file contradicts itself.",
                code="wrong_shape",
            )
        setattr(module, key, nn.Parameter(values.to(dtype), requires_grad=False))


def _apply_rope_factors(model: PreTrainedModel, header: Header, source: _Source) -> None:
    """Divide the rotary frequencies by the file's own factors (Llama 3.1 and later)."""
    if "rope_freqs.weight" not in header.tensors:
        return
    factors = source.vector("rope_freqs.weight")
    for module in model.modules():
        frequencies = dict(module.named_buffers(recurse=False)).get("inv_freq")
        if frequencies is not None:
            frequencies.div_(factors.to(frequencies.dtype))
            module.original_inv_freq = frequencies.clone()


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
