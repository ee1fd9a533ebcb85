"""What differs between the architectures that can be trained: one entry each.

Source of the permutations and of what a file leaves out: `convert_hf_to_gguf.py` of llama.cpp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header


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
        RefusedError: the architecture is not known.
        InvalidFileError: a needed key is absent or not a whole number.
    """
    entry = architecture_of(header)
    heads = _whole(header, "attention.head_count")
    hidden = _whole(header, "embedding_length")
    key_value_heads = int(header.own("attention.head_count_kv", heads))
    tensors = header.tensors
    config: dict[str, Any] = {
        "model_type": entry.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": _whole(header, "block_count"),
        "intermediate_size": _whole(header, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": int(
            header.own("attention.key_length", 0)
            or header.own("rope.dimension_count", 0)
            or hidden // heads
        ),
        "rms_norm_eps": float(header.own("attention.layer_norm_rms_epsilon", 1e-6)),
        "max_position_embeddings": _whole(header, "context_length"),
        "vocab_size": tensors["token_embd.weight"].rows if "token_embd.weight" in tensors else 0,
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if entry.has_bias_switch:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    return config


def _whole(header: Header, key: str) -> int:
    value = header.own(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise RefusedError(
            f"{header.path.name} does not say its {key.replace('.', ' ').replace('_', ' ')} "
            "as one number.",
            "The file is incomplete, or of a variant that cannot be trained yet.",
            code="unsupported_variant",
        )
    return value


def _rope(header: Header) -> dict[str, Any]:
    """Return the rotary embedding's parameters as transformers names them."""
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": float(header.own("rope.freq_base", 10_000.0)),
    }
    kind = header.own("rope.scaling.type", "none")
    factor = float(header.own("rope.scaling.factor", 0.0) or 1.0)
    if kind in {"none", ""} or factor == 1.0:
        return rope
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = header.own("rope.scaling.original_context_length")
        return rope | {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": int(original or header.own("context_length")),
        }
    raise RefusedError(
        f"The rotary scaling {str(kind)[:40]!r} of {header.path.name} cannot be trained yet.",
        "Choose another model.",
        code="unsupported_variant",
    )
