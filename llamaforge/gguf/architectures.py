"""What differs between the architectures that can be trained: one entry each.

Source of the permutations and of what a file leaves out: `convert_hf_to_gguf.py` of llama.cpp.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header

_MOST: Final = 1 << 31


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
    if header.own("expert_count", 0):
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
    """
    entry = architecture_of(header)
    heads, key_value_heads = head_counts(header)
    hidden = _whole(header, "embedding_length")
    tensors = header.tensors
    config: dict[str, Any] = {
        "model_type": entry.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": _whole(header, "block_count"),
        "intermediate_size": _whole(header, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": _head_dim(header, hidden // heads),
        "rms_norm_eps": _real(header, "attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": _whole(header, "context_length"),
        "vocab_size": tensors["token_embd.weight"].rows if "token_embd.weight" in tensors else 0,
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if entry.has_bias_switch:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    return config


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


def _head_dim(header: Header, default: int) -> int:
    size = _whole(header, "attention.key_length", default)
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
    kind = header.own("rope.scaling.type", "none")
    if kind in {"none", ""}:
        return rope
    factor = _real(header, "rope.scaling.factor", 1.0)
    if factor == 1.0:
        return rope
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
