"""What differs between the architectures that can be trained: one entry each.

An entry says which transformers model computes what the file holds, which of its attributes come
from which keys, and what is stored otherwise than transformers has it. Names of tensors are
gguf-py's own. To add an architecture: add an entry here and a row to the engine's test, which
holds it against llama.cpp.

Sources: `conversion/` and `src/models/` of llama.cpp, and the transformers models' own sources.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf import gemma4
from llamaforge.gguf.header import Header
from llamaforge.gguf.keys import (
    YARN_DETAILS,
    has,
    head_counts,
    head_sizes,
    layer_count,
    real,
    recurrent_layers,
    rope,
    sliding_layers,
    still_frequencies,
    variant,
    whole,
    words,
)

Reader = Callable[[Header], Any]
"""Reads the value of one attribute of the transformers configuration."""


@dataclass(frozen=True)
class Architecture:
    """How one `general.architecture` maps to its transformers model."""

    name: str
    model_type: str
    """The `model_type` of the transformers configuration."""
    attributes: Mapping[str, Reader] = field(default_factory=dict)
    """Attributes besides those that every model has; None leaves one out."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Attributes that this configuration calls otherwise; an empty name leaves one out."""
    epsilon_key: str = "attention.layer_norm_rms_epsilon"
    epsilon: str = "rms_norm_eps"
    """The attribute that takes the norms' epsilon."""
    rows: Literal["plain", "paired", "grouped", "tiled"] = "plain"
    """How the rows of some matrices lie. Paired: the halves of each head of queries and keys are
    interleaved for llama.cpp's rotary embedding. Grouped: one fused matrix is sorted into queries,
    keys and values where transformers has them group by group. Tiled: the value heads of linear
    attention go round the key heads, where transformers has those of one key head together."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """GGUF names of single parameters that gguf-py's table lacks, by the parameter's last names."""
    logarithms: frozenset[str] = frozenset()
    """Parameters x of which the file holds -exp(x)."""
    norm_offset: float = 0.0
    """What the file's norm weights have added to those of transformers."""
    head_dim: bool = True
    """Whether the configuration has `head_dim` of its own."""
    partial_rotary: bool = False
    """Whether the rotary embedding may turn a part of each head only."""
    refused: tuple[str, ...] = ()
    """Keys that only files of another variant have."""
    experts: bool = False
    """Whether it is a mixture of experts; they stay packed and take no adapter."""
    chosen: Callable[[Header], bool] | None = None
    """Whether it is the entry for a file, where an architecture has several of them."""
    still: Callable[[Header], list[int]] | None = None
    """Which rotary frequencies turn nothing in a text."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Eager where scores are changed before the softmax, which fused attention cannot do."""
    frozen: frozenset[str] = frozenset()
    """Last names of matrices that llama.cpp multiplies without looking for an adapter."""
    ones: frozenset[str] = frozenset()
    """Parameters and buffers that are one where the file does not hold them."""
    configure: Callable[[Header], dict[str, Any]] | None = None
    """Reads the whole configuration, where layers differ too much for the common keys."""
    ignored: Callable[[Header, str], bool] | None = None
    """Whether a tensor that the file holds is used by nobody."""
    logit_scale: Reader | None = None
    """The factor of the logits."""
    softcap: Reader | None = None
    """c, where the logits are c · tanh(logits / c)."""


def _tensor(name: str) -> Reader:
    return lambda header: has(header, name)


def _absent(name: str) -> Reader:
    return lambda header: not has(header, name)


def _constant(value: Any) -> Reader:
    return lambda header: value


def _whole(key: str, default: int | None = None) -> Reader:
    return lambda header: whole(header, key, default)


def _real(key: str, default: float | None = None) -> Reader:
    return lambda header: real(header, key, default)


def _own(key: str) -> Reader:
    return lambda header: header.own(key)


_BIASES: Final[dict[str, Reader]] = {
    "attention_bias": _tensor("blk.0.attn_q.bias"),
    "mlp_bias": _tensor("blk.0.ffn_up.bias"),
}


def _gemma_scale(layers_of_27b: int) -> Reader:
    """Queries are scaled by one over the root of a head, in the largest model of hidden/heads."""

    def read(header: Header) -> float:
        heads, _ = head_counts(header)
        if layer_count(header) == layers_of_27b:
            return whole(header, "embedding_length") // heads
        return head_sizes(header)[0]

    return read


def _gemma3_rope(header: Header) -> dict[str, Any]:
    """Layers with a window turn by a base of their own, and are never scaled."""
    near = {"rope_type": "default", "rope_theta": real(header, "rope.freq_base_swa", 10_000.0)}
    return {"sliding_attention": near, "full_attention": rope(header)}


def _gemma3_softcap(header: Header) -> float | None:
    key = "final_logit_softcapping"
    return real(header, key) if header.own(key) else None


def _full_layers(header: Header) -> list[str]:
    return ["full_attention"] * layer_count(header)


def _has_window(header: Header) -> bool:
    return bool(header.own("attention.sliding_window", 0))


def _olmo3_rope(header: Header) -> dict[str, Any]:
    """Layers with a window turn by a base of their own, if the file has one, and are not scaled."""
    far = rope(header)
    near = real(header, "rope.freq_base_swa", far["rope_theta"])
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": near},
        "full_attention": far,
    }


def _has_temperature(header: Header) -> bool:
    return bool(header.own("attention.temperature_scale", 0.0))


def _mistral3_rope(header: Header) -> dict[str, Any]:
    return rope(header, YARN_DETAILS)


def _tempered_rope(header: Header) -> dict[str, Any]:
    """Scores far into a text are scaled up."""
    original = whole(header, "rope.scaling.original_context_length")
    return _mistral3_rope(header) | {
        "llama_4_scaling_beta": real(header, "attention.temperature_scale"),
        "original_max_position_embeddings": original,
    }


def _still(*, interleaved: bool) -> Callable[[Header], list[int]]:
    return lambda header: still_frequencies(header, interleaved=interleaved)


def _no_rope_layers(header: Header) -> list[int]:
    """Every fourth layer turns nothing; 1 stands for those that do."""
    return [int((number + 1) % 4 != 0) for number in range(layer_count(header))]


def _value_head(header: Header) -> int:
    inner, heads = whole(header, "ssm.inner_size"), whole(header, "ssm.time_step_rank")
    if inner % heads:
        raise variant(header, f"has {heads} value heads in a width of {inner}")
    return inner // heads


def _sectioned_rope(header: Header) -> dict[str, Any]:
    """Time, height and width turn parts of a head of their own; in a text all three are one."""
    sections = header.numbers(f"{header.architecture}.rope.dimension_sections")[:3]
    return rope(header) | ({"mrope_section": sections} if sections else {})


_LINEAR_ATTENTION: Final[dict[str, Reader]] = {
    "layer_types": recurrent_layers,
    "linear_conv_kernel_dim": _whole("ssm.conv_kernel"),
    "linear_num_key_heads": _whole("ssm.group_count"),
    "linear_num_value_heads": _whole("ssm.time_step_rank"),
    "linear_key_head_dim": _whole("ssm.state_size"),
    "linear_value_head_dim": _value_head,
    "rope_parameters": _sectioned_rope,
}
_TILED: Final[dict[str, Any]] = {
    "rows": "tiled",
    "parameters": {"linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.A_log": "ssm_a"},
    "logarithms": frozenset({"A_log"}),
    "norm_offset": 1.0,
    "partial_rotary": True,
}


_GRANITE: Final[dict[str, Reader]] = {
    "embedding_multiplier": _real("embedding_scale", 1.0),
    "residual_multiplier": _real("residual_scale", 1.0),
    "attention_multiplier": lambda header: real(
        header, "attention.scale", 1.0 / math.sqrt(head_sizes(header)[0])
    ),
    "logits_scaling": _real("logit_scale"),
}

_GEMMA4: Final[dict[str, Any]] = {
    "configure": gemma4.configuration,
    "ignored": gemma4.is_unused,
    "softcap": gemma4.softcap,
    "frozen": frozenset({"per_layer_model_proj", "ffn_gate_inp"}),
    "ones": frozenset({"layer_scalar", "per_expert_scale"}),
    "parameters": {
        "layer_scalar": "layer_output_scale.weight",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
    },
}


def _inverse(key: str) -> Reader:
    return lambda header: 1.0 / real(header, key)


_ENTRIES: Final = (
    Architecture("llama", "llama", _BIASES, rows="paired"),
    Architecture(
        "llama",
        "mixtral",
        {
            "num_local_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
        },
        rows="paired",
        experts=True,
    ),
    Architecture(
        "mistral3",
        "mistral",
        {"sliding_window": _constant(None), "rope_parameters": _mistral3_rope},
        rows="paired",
        chosen=lambda header: not _has_temperature(header),
    ),
    Architecture(
        "mistral3",
        "ministral3",
        {"sliding_window": _constant(None), "rope_parameters": _tempered_rope},
        rows="paired",
        chosen=_has_temperature,
    ),
    Architecture("qwen2", "qwen2"),
    Architecture("qwen2vl", "qwen2", still=_still(interleaved=False)),
    Architecture(
        "qwen2moe",
        "qwen2_moe",
        {
            "num_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "moe_intermediate_size": _whole("expert_feed_forward_length"),
            "shared_expert_intermediate_size": _whole("expert_shared_feed_forward_length"),
            "norm_topk_prob": _constant(False),
        },
        head_dim=False,
        experts=True,
    ),
    Architecture("qwen3", "qwen3"),
    Architecture("qwen3vl", "qwen3", still=_still(interleaved=True)),
    Architecture(
        "qwen3moe",
        "qwen3_moe",
        {
            "num_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "moe_intermediate_size": _whole("expert_feed_forward_length"),
            "norm_topk_prob": _constant(True),
        },
        experts=True,
    ),
    Architecture(
        "qwen3vlmoe",
        "qwen3_moe",
        {
            "num_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "moe_intermediate_size": _whole("expert_feed_forward_length"),
            "norm_topk_prob": _constant(True),
        },
        experts=True,
        still=_still(interleaved=True),
    ),
    Architecture("qwen35", "qwen3_5_text", _LINEAR_ATTENTION, **_TILED),
    Architecture(
        "qwen35moe",
        "qwen3_5_moe_text",
        _LINEAR_ATTENTION
        | {
            "num_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "moe_intermediate_size": _whole("expert_feed_forward_length"),
            "shared_expert_intermediate_size": _whole("expert_shared_feed_forward_length"),
        },
        experts=True,
        **_TILED,
    ),
    Architecture("gemma", "gemma", norm_offset=1.0),
    Architecture(
        "gemma2",
        "gemma2",
        {
            "query_pre_attn_scalar": _gemma_scale(46),
            "sliding_window": _whole("attention.sliding_window", 4096),
            "layer_types": lambda header: sliding_layers(header, 2, default_window=4096),
            "attn_logit_softcapping": _real("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": _real("final_logit_softcapping", 30.0),
        },
        norm_offset=1.0,
        attention="eager",
        softcap=_real("final_logit_softcapping", 30.0),
    ),
    Architecture(
        "gemma3",
        "gemma3_text",
        {
            "query_pre_attn_scalar": _gemma_scale(62),
            "sliding_window": _whole("attention.sliding_window", 4096),
            "layer_types": lambda header: sliding_layers(header, 6),
            "rope_parameters": _gemma3_rope,
            "final_logit_softcapping": _gemma3_softcap,
        },
        norm_offset=1.0,
        softcap=_gemma3_softcap,
    ),
    Architecture("gemma4", "gemma4_text", **_GEMMA4),
    Architecture("gemma4", "gemma4_text", experts=True, **_GEMMA4),
    Architecture("phi3", "phi3", head_dim=False, partial_rotary=True),
    Architecture(
        "starcoder2",
        "starcoder2",
        {"use_bias": _tensor("blk.0.attn_q.bias"), "sliding_window": _constant(None)},
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="norm_epsilon",
        head_dim=False,
    ),
    Architecture(
        "stablelm",
        "stablelm",
        {
            "use_qkv_bias": _tensor("blk.0.attn_q.bias"),
            "use_parallel_residual": _absent("blk.0.ffn_norm.weight"),
        },
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="layer_norm_eps",
        head_dim=False,
        partial_rotary=True,
    ),
    Architecture(
        "falcon",
        "falcon",
        {
            "new_decoder_architecture": lambda header: head_counts(header)[1] > 1,
            "num_ln_in_parallel_attn": lambda header: (
                2 if has(header, "blk.0.attn_norm_2.weight") else 1
            ),
            "multi_query": _constant(True),
            "parallel_attn": _constant(True),
            "bias": _constant(False),
            "alibi": _constant(False),
        },
        renamed={"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"},
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="layer_norm_epsilon",
        rows="grouped",
        head_dim=False,
    ),
    Architecture("olmo2", "olmo2", head_dim=False, chosen=lambda header: not _has_window(header)),
    Architecture(
        "olmo2",
        "olmo3",
        {
            "sliding_window": _whole("attention.sliding_window"),
            "layer_types": lambda header: sliding_layers(header, 4),
            "rope_parameters": _olmo3_rope,
        },
        head_dim=False,
        chosen=_has_window,
    ),
    Architecture(
        "olmoe",
        "olmoe",
        {
            "num_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "norm_topk_prob": _constant(False),
        },
        head_dim=False,
        experts=True,
    ),
    Architecture(
        "granite",
        "granite",
        _BIASES | _GRANITE,
        rows="paired",
        head_dim=False,
        logit_scale=_inverse("logit_scale"),
    ),
    Architecture(
        "granitemoe",
        "granitemoe",
        {
            **_GRANITE,
            "num_local_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
        },
        rows="paired",
        parameters={"block_sparse_moe.router.weight": "ffn_gate_inp.weight"},
        head_dim=False,
        experts=True,
        logit_scale=_inverse("logit_scale"),
    ),
    Architecture(
        "command-r",
        "cohere",
        {
            "logit_scale": _real("logit_scale", 1.0),
            "use_qk_norm": _tensor("blk.0.attn_q_norm.weight"),
            "attention_bias": _tensor("blk.0.attn_q.bias"),
        },
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="layer_norm_eps",
        head_dim=False,
        logit_scale=_real("logit_scale", 1.0),
    ),
    Architecture(
        "cohere2",
        "cohere2",
        {
            "logit_scale": _real("logit_scale"),
            "sliding_window": _whole("attention.sliding_window"),
            "layer_types": lambda header: sliding_layers(header, 4),
            "attention_bias": _tensor("blk.0.attn_q.bias"),
        },
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="layer_norm_eps",
        head_dim=False,
        logit_scale=_real("logit_scale"),
    ),
    Architecture(
        "glm4",
        "glm4",
        {"attention_bias": _tensor("blk.0.attn_q.bias")},
        partial_rotary=True,
        refused=("rope.dimension_sections",),
    ),
    Architecture(
        "exaone4",
        "exaone4",
        {"sliding_window": _constant(None), "layer_types": _full_layers},
        refused=("attention.sliding_window",),
    ),
    Architecture(
        "smollm3",
        "smollm3",
        _BIASES | {"no_rope_layers": _no_rope_layers},
        rows="paired",
        head_dim=False,
    ),
    Architecture(
        "gpt-oss",
        "gpt_oss",
        {
            "num_local_experts": _whole("expert_count"),
            "num_experts_per_tok": _whole("expert_used_count"),
            "intermediate_size": _whole("expert_feed_forward_length"),
            "sliding_window": _whole("attention.sliding_window"),
            "layer_types": lambda header: sliding_layers(header, 2),
            "attention_bias": _tensor("blk.0.attn_q.bias"),
        },
        experts=True,
        attention="eager",
    ),
    Architecture(
        "nemotron",
        "nemotron",
        _BIASES,
        epsilon_key="attention.layer_norm_epsilon",
        epsilon="norm_eps",
        norm_offset=1.0,
        partial_rotary=True,
    ),
)

ARCHITECTURES: Final[Mapping[str, tuple[Architecture, ...]]] = {
    name: tuple(entry for entry in _ENTRIES if entry.name == name)
    for name in dict.fromkeys(entry.name for entry in _ENTRIES)
}
"""The entries by `general.architecture`: a dense one, one with experts, or both."""


def architecture_of(header: Header) -> Architecture:
    """Return the entry for a file.

    Raises:
        RefusedError: the architecture, or a variant of it, cannot be trained yet; it is named.
    """
    entries = ARCHITECTURES.get(header.architecture)
    if not entries:
        raise RefusedError(
            f"Models of the architecture {header.architecture[:40]!r} cannot be trained yet.",
            f"Choose a model of one of: {', '.join(ARCHITECTURES)}.",
            code="unsupported_architecture",
        )
    experts = bool(header.metadata.get(f"{header.architecture}.expert_count", 0))
    for entry in entries:
        if entry.experts == experts and (entry.chosen is None or entry.chosen(header)):
            for key in entry.refused:
                if f"{entry.name}.{key}" in header.metadata:
                    raise variant(header, f"has {words(key)}")
            return entry
    kind = "a mixture of experts" if experts else "a dense model"
    raise RefusedError(
        f"This {header.architecture} model is {kind}, which cannot be trained yet.",
        f"Choose {'a dense model' if experts else 'another model'}.",
        code="unsupported_architecture",
    )


def configuration(header: Header) -> dict[str, Any]:
    """Return the transformers configuration of the model in a file, as plain values.

    Raises:
        RefusedError: the architecture is not known, or a key is absent, of a wrong type, or that
            of a variant.
        InvalidFileError: the tensors are not of the sizes that the keys promise.
    """
    entry = architecture_of(header)
    # No token is given a meaning here: where answers end is the tokenizer's affair.
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    if entry.configure is not None:
        return {"model_type": entry.model_type} | entry.configure(header) | tokens
    heads, key_value_heads = head_counts(header)
    hidden = whole(header, "embedding_length")
    head_dim, turned = head_sizes(header)
    if turned != head_dim and not entry.partial_rotary:
        raise variant(header, f"turns {turned} of a head's {head_dim}")
    if not entry.head_dim and head_dim * heads != hidden:
        raise variant(header, f"has {heads} heads of {head_dim} in a width of {hidden}")
    vocabulary = header.tensors["token_embd.weight"].rows if has(header, "token_embd.weight") else 0
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layer_count(header),
        "intermediate_size": _feed_forward(header, entry),
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim if entry.head_dim else None,
        entry.epsilon: real(header, entry.epsilon_key, 1e-6),
        "max_position_embeddings": whole(header, "context_length"),
        "vocab_size": vocabulary,
        "tie_word_embeddings": not has(header, "output.weight"),
    }
    attributes = {"rope_parameters": rope, **entry.attributes}
    config |= {name: read(header) for name, read in attributes.items()}
    _check_sizes(header, config, head_dim)
    config = {entry.renamed.get(name, name): value for name, value in config.items()}
    absent_allowed = {"sliding_window"}
    kept = {
        name: value
        for name, value in config.items()
        if name and (value is not None or name in absent_allowed)
    }
    return {"model_type": entry.model_type} | kept | tokens


def _feed_forward(header: Header, entry: Architecture) -> int:
    default = (
        whole(header, "expert_feed_forward_length")
        if entry.experts
        and not has(header, "blk.0.ffn_up.weight")
        and header.own("feed_forward_length") in (None, 0)
        else None
    )
    return whole(header, "feed_forward_length", default)


def _check_sizes(header: Header, config: Mapping[str, Any], head_dim: int) -> None:
    """Hold the keys against the tensors, before anything is built in their sizes."""
    expected = {
        "token_embd.weight": config["vocab_size"],
        "blk.0.attn_q.weight": config["num_attention_heads"] * head_dim,
        "blk.0.attn_k.weight": config["num_key_value_heads"] * head_dim,
    }
    for name, count in expected.items():
        info = header.tensors.get(name)
        if info is not None and (info.width, info.rows) != (config["hidden_size"], count):
            raise InvalidFileError(
                f"The tensor {name} of {header.path.name} is {info.rows:,} × {info.width:,}, and "
                f"its keys say {count:,} × {config['hidden_size']:,}.",
                "Pull the model again; the file contradicts itself.",
                code="wrong_shape",
            )
    _check_feed_forward(header, config)


def _check_feed_forward(header: Header, config: Mapping[str, Any]) -> None:
    info = header.tensors.get("blk.0.ffn_down.weight")
    if info is not None and info.width != config["intermediate_size"]:
        raise InvalidFileError(
            f"The tensor blk.0.ffn_down.weight of {header.path.name} is {info.width:,} wide, and "
            f"its keys say {config['intermediate_size']:,}.",
            "Pull the model again; the file contradicts itself.",
            code="wrong_shape",
        )
