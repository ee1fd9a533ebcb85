"""The configuration of Gemma 4, whose layers differ in more than their kind of attention.

Layers with a window have heads of their own size, whose keys end in `_swa`; the last layers reuse
keys and values of earlier ones, and may be twice as wide inside; keys and values may be one.
Source: `Gemma4Model` in `conversion/gemma.py` of llama.cpp.
"""

from typing import Any, Final

import numpy as np

from llamaforge.gguf.header import Header
from llamaforge.gguf.keys import first_whole, has, layer_count, real, variant, whole

_PER_LAYER_TABLE: Final = "per_layer_token_embd.weight"
_FREQUENCIES: Final = "rope_freqs.weight"
_UNTURNED: Final = 1e20
"""Frequencies that are divided by more than this turn nothing: the file has 1e30 for them."""


def layer_kinds(header: Header) -> list[str]:
    """Return the kind of attention of each layer, as transformers names it.

    Raises:
        RefusedError: the file does not say it of every layer.
    """
    layers = layer_count(header)
    key = f"{header.architecture}.attention.sliding_window_pattern"
    pattern = header.numbers(key) if header.is_array(key) else []
    if len(pattern) < layers or not all(value in (0, 1) for value in pattern):
        raise variant(header, "does not say which of its layers see a window")
    return ["sliding_attention" if value else "full_attention" for value in pattern[:layers]]


def shared_layers(header: Header) -> int:
    """Return how many of the last layers reuse the keys and values of earlier ones.

    Raises:
        RefusedError: the file says a number that cannot be.
    """
    shared = header.own("attention.shared_kv_layers", 0)
    if not isinstance(shared, int) or not 0 <= shared < layer_count(header):
        raise variant(header, "does not say how many layers share keys and values")
    return shared


def is_unused(header: Header, tensor: str) -> bool:
    """Return whether a tensor is one that is there and not used: keys of a layer that shares."""
    parts = tensor.split(".")
    return (
        len(parts) == 4
        and parts[0] == "blk"
        and parts[1].isdigit()
        and parts[2] in {"attn_k", "attn_v", "attn_k_norm"}
        and int(parts[1]) >= layer_count(header) - shared_layers(header)
    )


def configuration(header: Header) -> dict[str, Any]:
    """Return the values of transformers' `Gemma4TextConfig`, but those of tokens.

    Raises:
        RefusedError: a key is absent, of a wrong type, or that of a variant.
    """
    kinds = layer_kinds(header)
    if kinds[0] != "sliding_attention" or kinds[-1] != "full_attention":
        raise variant(header, "does not begin with a window and end without one")
    full = kinds.index("full_attention")
    layers, shared = layer_count(header), shared_layers(header)
    experts = header.own("expert_count", 0)
    widths = _per_layer(header, "feed_forward_length")
    is_wide = bool(shared) and widths[-1] == 2 * widths[0]
    if any(width != widths[0] for width in widths[: layers - shared]):
        raise variant(header, "has layers of several inner widths")
    hidden_per_layer = header.own("embedding_length_per_layer_input", 0)
    config: dict[str, Any] = {
        "hidden_size": whole(header, "embedding_length"),
        "num_hidden_layers": layers,
        "intermediate_size": widths[0],
        "use_double_wide_mlp": is_wide,
        "num_attention_heads": first_whole(header, "attention.head_count"),
        "num_key_value_heads": _per_layer(header, "attention.head_count_kv")[0],
        "num_global_key_value_heads": _per_layer(header, "attention.head_count_kv")[full],
        "head_dim": whole(header, "attention.key_length_swa"),
        "global_head_dim": whole(header, "attention.key_length"),
        "rms_norm_eps": real(header, "attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": whole(header, "context_length"),
        "vocab_size": header.tensors["token_embd.weight"].rows
        if has(header, "token_embd.weight")
        else 0,
        "tie_word_embeddings": not has(header, "output.weight"),
        "layer_types": kinds,
        "sliding_window": whole(header, "attention.sliding_window"),
        "attention_k_eq_v": not has(header, f"blk.{full}.attn_v.weight"),
        "num_kv_shared_layers": shared,
        "final_logit_softcapping": softcap(header),
        "hidden_size_per_layer_input": hidden_per_layer or 0,
        "vocab_size_per_layer_input": header.tensors[_PER_LAYER_TABLE].rows
        if has(header, _PER_LAYER_TABLE)
        else 1,
        "rope_parameters": {
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": real(header, "rope.freq_base_swa", 10_000.0),
            },
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": real(header, "rope.freq_base", 1_000_000.0),
                "partial_rotary_factor": _turned_part(header),
            },
        },
        "enable_moe_block": bool(experts),
    }
    if not config["attention_k_eq_v"] and (
        config["num_global_key_value_heads"] != config["num_key_value_heads"]
    ):
        raise variant(header, "has fewer keys and values of their own in some layers")
    if experts:
        config |= {
            "num_experts": whole(header, "expert_count"),
            "top_k_experts": whole(header, "expert_used_count"),
            "moe_intermediate_size": first_whole(header, "expert_feed_forward_length"),
        }
    return config


def softcap(header: Header) -> float | None:
    """Return c, where the logits are c · tanh(logits / c); llama.cpp takes 30 for a missing key."""
    key = "final_logit_softcapping"
    return None if header.own(key) == 0 else real(header, key, 30.0)


def _per_layer(header: Header, key: str) -> list[int]:
    """Return a whole number for every layer; the file has one for all, or an array."""
    name, layers = f"{header.architecture}.{key}", layer_count(header)
    if not header.is_array(name):
        return [whole(header, key)] * layers
    values = header.numbers(name)[:layers]
    if len(values) < layers or not all(isinstance(v, int) and v > 0 for v in values):
        raise variant(header, f"does not say its {key.replace('_', ' ')} of every layer")
    return values


def _turned_part(header: Header) -> float:
    """Return which part of a head is turned where there is no window."""
    info = header.tensors.get(_FREQUENCIES)
    if info is None:
        return 1.0
    divisors = np.frombuffer(header.read_tensor(info), dtype="<f4")
    turned = divisors < _UNTURNED
    if not (turned.any() and (divisors[turned] == 1.0).all() and not turned[turned.sum() :].any()):
        raise variant(header, "turns its heads in a way of its own")
    return float(turned.sum() / turned.size)
