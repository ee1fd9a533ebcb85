"""What differs between the architectures that can be trained: one entry each.

Source of the permutations and of what a file leaves out: `convert_hf_to_gguf.py` of llama.cpp.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.header import Header

_MOST: Final = 1 << 27
_MOST_LAYERS: Final = 1024
_SCALING_DETAILS: Final[Mapping[str, float]] = {
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
"""Refinements of a rotary scaling, and the values at which both sides compute the same."""


@dataclass(frozen=True)
class Architecture:
    """How one `general.architecture` maps to its transformers model."""

    name: str
    model_type: str
    """The `model_type` of the transformers configuration."""
    query_key_permuted: bool = False
    """Whether the rows of attn_q and attn_k are interleaved for llama.cpp's rotary embedding."""
    query_key_value_bias: bool = False
    """Whether the transformers model has these biases whatever its configuration says."""
    has_bias_switch: bool = False
    """Whether the transformers configuration has `attention_bias` and `mlp_bias`."""


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    entry.name: entry
    for entry in (
        Architecture("llama", "llama", query_key_permuted=True, has_bias_switch=True),
        Architecture("qwen2", "qwen2", query_key_value_bias=True),
        Architecture("qwen3", "qwen3"),
    )
}


def architecture_of(header: Header) -> Architecture:
    """Return the entry for a file.

    Raises:
        RefusedError: the architecture, or a variant of it, cannot be trained yet; it is named.
    """
    entry = ARCHITECTURES.get(header.architecture)
    if entry is None:
        raise RefusedError(
            f"Models of the architecture {header.architecture[:40]!r} cannot be trained yet.",
            f"Choose a model of one of: {', '.join(ARCHITECTURES)}.",
            code="unsupported_architecture",
        )
    if header.metadata.get(f"{entry.name}.expert_count", 0):
        raise RefusedError(
            f"This {entry.name} model is a mixture of experts, which cannot be trained yet.",
            "Choose a dense model.",
            code="unsupported_architecture",
        )
    return entry


def configuration(header: Header) -> dict[str, Any]:
    """Return the transformers configuration of the model in a file, as plain values.

    Raises:
        RefusedError: the architecture is not known, or a key is absent, of a wrong type, or that
            of a variant.
        InvalidFileError: the tensors are not of the sizes that the keys promise.
    """
    entry = architecture_of(header)
    heads, key_value_heads = head_counts(header)
    hidden = _whole(header, "embedding_length")
    head_dim = _head_dim(header, hidden // heads)
    feed_forward = _whole(header, "feed_forward_length")
    tensors = header.tensors
    vocabulary = tensors["token_embd.weight"].rows if "token_embd.weight" in tensors else 0
    _check_sizes(
        header,
        hidden,
        {
            "token_embd.weight": vocabulary,
            "blk.0.attn_q.weight": heads * head_dim,
            "blk.0.attn_k.weight": key_value_heads * head_dim,
            "blk.0.ffn_up.weight": feed_forward,
        },
    )
    config: dict[str, Any] = {
        "model_type": entry.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layer_count(header),
        "intermediate_size": feed_forward,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "rms_norm_eps": _real(header, "attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": _whole(header, "context_length"),
        "vocab_size": vocabulary,
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if entry.has_bias_switch:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    return config


def layer_count(header: Header) -> int:
    """Return how many layers the model has.

    Raises:
        RefusedError: the file does not say it, or says a number that no model has.
    """
    layers = _whole(header, "block_count")
    if layers > _MOST_LAYERS:  # each one is built before the first missing tensor is noticed
        raise _variant(header, f"claims {layers:,} layers")
    return layers


def head_counts(header: Header) -> tuple[int, int]:
    """Return how many heads queries have, and how many keys and values have.

    Raises:
        RefusedError: they differ from layer to layer, or do not fit each other.
    """
    heads = _whole(header, "attention.head_count")
    key_value_heads = _whole(header, "attention.head_count_kv", heads)
    if heads % key_value_heads:
        raise _variant(header, f"has {heads} query heads over {key_value_heads} key heads")
    return heads, key_value_heads


def _check_sizes(header: Header, hidden: int, rows: Mapping[str, int]) -> None:
    """Hold the keys against the tensors, before anything is built in their sizes."""
    for name, count in rows.items():
        info = header.tensors.get(name)
        if info is not None and (info.width, info.rows) != (hidden, count):
            raise InvalidFileError(
                f"The tensor {name} of {header.path.name} is {info.rows:,} × {info.width:,}, and "
                f"its keys say {count:,} × {hidden:,}.",
                "Pull the model again; the file contradicts itself.",
                code="wrong_shape",
            )


def _head_dim(header: Header, default: int) -> int:
    size = _whole(header, "attention.key_length", default)
    if size % 2:
        raise _variant(header, f"has heads of the odd size {size}")
    for key in ("attention.value_length", "rope.dimension_count"):
        other = _whole(header, key, size)
        if other != size:
            raise _variant(header, f"has heads of {size} and {_words(key)} of {other}")
    return size


def _whole(header: Header, key: str, default: int | None = None) -> int:
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
        raise _variant(header, f"does not say its {_words(key)} as one number")
    return value


def _real(header: Header, key: str, default: float) -> float:
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _variant(header, f"does not say its {_words(key)} as one number")
    return float(value)


def _words(key: str) -> str:
    return key.replace(".", " ").replace("_", " ")


def _variant(header: Header, what: str) -> RefusedError:
    return RefusedError(
        f"{header.path.name} {what}.",
        "The file is incomplete, or of a variant that cannot be trained yet.",
        code="unsupported_variant",
    )


def _rope(header: Header) -> dict[str, Any]:
    """Return the rotary embedding's parameters as transformers names them."""
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": _real(header, "rope.freq_base", 10_000.0),
    }
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "linear")
    if kind == "none":
        return rope
    factor = _scaling_factor(header)
    if kind in {"linear", "yarn"} and factor == 1.0:
        return rope
    for key, usual in _SCALING_DETAILS.items():
        if header.own(key, usual) != usual:
            raise _variant(header, f"has a {_words(key)} of its own")
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        context = _whole(header, "context_length")
        original = _whole(header, "rope.scaling.original_context_length", context)
        return rope | {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise _variant(header, f"has the rotary scaling {str(kind)[:40]!r}")


def _scaling_factor(header: Header) -> float:
    """Return the factor as llama.cpp reads it: an older name counts, and zero means none."""
    key = "rope.scaling.factor"
    if f"{header.architecture}.{key}" not in header.metadata:
        key = "rope.scale_linear"
    return 1.0 if header.own(key) == 0 else _real(header, key, 1.0)
