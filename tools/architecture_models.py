"""A tiny random model of every architecture, written tensor by tensor as llama.cpp lays it out.

The lists of tensors are those that `src/models/` of llama.cpp loads, so that nothing here depends
on the code under test.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

from tools.random_models import Vocabulary, quantize

_LAYERS: Final = 2
_SIZES: Final[Mapping[str, int]] = {
    "h": 256,  # hidden
    "q": 256,  # all heads of queries
    "k": 128,  # all heads of keys, or of values
    "d": 64,  # one head
    "n": 4,  # heads
    "f": 512,  # inner width
    "e": 4,  # experts
    "m": 256,  # inner width of an expert
    "s": 512,  # inner width of the shared expert
    "r": 384,  # queries, keys and values of two groups of heads, with four heads of queries
    "F": 1024,  # both halves of the inner width
}
_ATTENTION: Final = "attn_norm:h attn_q:q,h attn_k:k,h attn_v:k,h attn_output:h,q"
_BIASES: Final = "attn_q.bias:q attn_k.bias:k attn_v.bias:k"
_INNER: Final = "ffn_norm:h ffn_gate:f,h ffn_up:f,h ffn_down:h,f"
_HEAD_NORMS: Final = "attn_q_norm:d attn_k_norm:d"
_EXPERTS: Final = (
    "ffn_norm:h ffn_gate_inp:e,h ffn_gate_exps:e,m,h ffn_up_exps:e,m,h ffn_down_exps:e,h,m"
)
_WIDE_EXPERTS: Final = (
    "ffn_norm:h ffn_gate_inp:e,h ffn_gate_exps:e,f,h ffn_up_exps:e,f,h ffn_down_exps:e,h,f"
)
_INNER_PLAIN: Final = "ffn_gate:f,h ffn_up:f,h ffn_down:h,f"
_EXPERTS_PLAIN: Final = (
    "ffn_gate_inp:e,h ffn_gate_exps:e,m,h ffn_up_exps:e,m,h ffn_down_exps:e,h,m "
    "ffn_gate_inp_shexp:h ffn_gate_shexp:s,h ffn_up_shexp:s,h ffn_down_shexp:h,s"
)
_LINEAR_ATTENTION: Final = (
    "attn_norm:h post_attention_norm:h attn_qkv:512,h attn_gate:256,h ssm_conv1d:512,4 "
    "ssm_dt.bias:4 ssm_a:4 ssm_beta:4,h ssm_alpha:4,h ssm_norm:64 ssm_out:h,256"
)
"""Two heads of keys and four of values, 64 wide."""
_GATED_ATTENTION: Final = (
    "attn_norm:h post_attention_norm:h attn_q:512,h attn_k:k,h attn_v:k,h attn_output:h,q "
    "attn_q_norm:d attn_k_norm:d"
)
_LINEAR_KEYS: Final[dict[str, Any]] = {
    "rope.dimension_count": 16,
    "rope.dimension_sections": [3, 3, 2, 0],
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 64,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "full_attention_interval": 2,
}
_RMS: Final = {"attention.layer_norm_rms_epsilon": 1e-5}
_SMALL_RMS: Final = {"attention.layer_norm_rms_epsilon": 1e-7}
"""llama.cpp takes none for Qwen 2 VL, whatever the file says."""
_LAYER_NORM: Final = {"attention.layer_norm_epsilon": 1e-5}
_MOE: Final = {"expert_count": 4, "expert_used_count": 2}
_YARN: Final = _RMS | {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}
_SECTIONS: Final[dict[str, Any]] = {
    "rope.dimension_sections": [12, 10, 10, 0],
    "rope.freq_base": 100.0,
    "n_deepstack_layers": 0,
}
"""Turned fast enough that one frequency that turns nothing is seen."""

_GEMMA4_NEAR: Final = (
    f"{_ATTENTION} attn_q_norm:d*0.125 attn_k_norm:d post_attention_norm:h {_INNER} "
    "post_ffw_norm:h layer_output_scale:1"
)
_GEMMA4_FAR: Final = (
    "attn_norm:h attn_q:512,h attn_k:256,h attn_v:256,h attn_output:h,512 attn_q_norm:128*0.1 "
    f"attn_k_norm:128 post_attention_norm:h {_INNER} post_ffw_norm:h layer_output_scale:1"
)
"""Scores are not divided by the root of a head's width: the norm of the queries learns it."""
_GEMMA4_ONE: Final = _GEMMA4_FAR.replace("attn_k:256,h attn_v:256,h", "attn_k:k,h")
"""Keys and values are one, with one head."""
_GEMMA4_PER_LAYER: Final = " inp_gate:32,h proj:h,32 post_norm:h"
_GEMMA4_EXPERTS: Final = (
    " ffn_gate_inp:e,h ffn_gate_inp.scale:h*16 ffn_gate_up_exps:e,512,h ffn_down_exps:e,h,m "
    "ffn_down_exps.scale:e pre_ffw_norm_2:h post_ffw_norm_1:h post_ffw_norm_2:h"
)
_GEMMA4_TOP: Final = "output_norm:h rope_freqs:64"
_GEMMA4_KEYS: Final[dict[str, Any]] = {
    **_RMS,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "attention.key_length_swa": 64,
    "attention.value_length_swa": 64,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": [True, False] * 3,
    "attention.shared_kv_layers": 0,
    "embedding_length_per_layer_input": 0,
    "rope.dimension_count": 128,
    "rope.dimension_count_swa": 64,
    "rope.freq_base": 1_000_000.0,
    "rope.freq_base_swa": 10_000.0,
}


@dataclass(frozen=True)
class Recipe:
    """What one architecture's file holds."""

    architecture: str
    tensors: str
    """Of every layer: `name:sizes`, `.weight` unless it says `.bias`, sizes by letter; a factor
    may follow after `*`."""
    keys: Mapping[str, Any] = field(default_factory=lambda: dict(_RMS))
    """Further keys below `<architecture>.`."""
    top: str = "output_norm:h"
    tied: bool = False
    layers: int = _LAYERS
    every_second: str = ""
    """The tensors of every second layer, where they differ."""
    last: tuple[str, ...] = ()
    """The tensors of the last layers, where they differ."""


RECIPES: Final[Mapping[str, Recipe]] = {
    "llama": Recipe("llama", f"{_ATTENTION} {_INNER}"),
    "mixtral": Recipe("llama", f"{_ATTENTION} {_WIDE_EXPERTS}", _RMS | _MOE),
    "mistral3": Recipe(
        "mistral3",
        f"{_ATTENTION} {_INNER}",
        _YARN | {"rope.scaling.yarn_log_multiplier": 0.7, "rope.scaling.yarn_beta_fast": 16.0},
    ),
    "mistral3-tempered": Recipe(
        "mistral3",
        f"{_ATTENTION} {_INNER}",
        _YARN
        | {
            "attention.temperature_scale": 0.1,
            "rope.scaling.original_context_length": 8,
            "rope.scaling.yarn_log_multiplier": 1.0,
        },
    ),
    "qwen2": Recipe("qwen2", f"{_ATTENTION} {_BIASES} {_INNER}"),
    "qwen2vl": Recipe(
        "qwen2vl",
        f"{_ATTENTION} {_BIASES} {_INNER}",
        _SMALL_RMS | {"rope.dimension_sections": [8, 12, 12, 0]},
    ),
    "qwen2vl-still": Recipe(
        "qwen2vl",
        f"{_ATTENTION} {_BIASES} {_INNER}",
        _SMALL_RMS | {"rope.dimension_sections": [8, 8, 8, 8]},
    ),
    "qwen2moe": Recipe(
        "qwen2moe",
        f"{_ATTENTION} {_BIASES} {_EXPERTS} ffn_gate_inp_shexp:h ffn_gate_shexp:s,h "
        "ffn_up_shexp:s,h ffn_down_shexp:h,s",
        _RMS | _MOE | {"expert_feed_forward_length": 256, "expert_shared_feed_forward_length": 512},
    ),
    "qwen3": Recipe("qwen3", f"{_ATTENTION} {_HEAD_NORMS} {_INNER}"),
    "qwen3moe": Recipe(
        "qwen3moe",
        f"{_ATTENTION} {_HEAD_NORMS} {_EXPERTS}",
        _RMS | _MOE | {"expert_feed_forward_length": 256},
    ),
    "qwen3vl": Recipe(
        "qwen3vl", f"{_ATTENTION} {_HEAD_NORMS} {_INNER}", _RMS | _SECTIONS, tied=True
    ),
    "qwen3vlmoe": Recipe(
        "qwen3vlmoe",
        f"{_ATTENTION} {_HEAD_NORMS} {_EXPERTS}",
        _RMS | _MOE | _SECTIONS | {"expert_feed_forward_length": 256},
    ),
    "qwen35": Recipe(
        "qwen35",
        f"{_LINEAR_ATTENTION} {_INNER_PLAIN}",
        _RMS | _LINEAR_KEYS,
        every_second=f"{_GATED_ATTENTION} {_INNER_PLAIN}",
    ),
    "qwen35moe": Recipe(
        "qwen35moe",
        f"{_LINEAR_ATTENTION} {_EXPERTS_PLAIN}",
        _RMS
        | _MOE
        | _LINEAR_KEYS
        | {"expert_feed_forward_length": 256, "expert_shared_feed_forward_length": 512},
        every_second=f"{_GATED_ATTENTION} {_EXPERTS_PLAIN}",
    ),
    "gemma": Recipe("gemma", f"{_ATTENTION} {_INNER}", tied=True),
    "gemma2": Recipe(
        "gemma2",
        f"{_ATTENTION} post_attention_norm:h {_INNER} post_ffw_norm:h",
        _RMS
        | {
            "attention.sliding_window": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        tied=True,
    ),
    "gemma3": Recipe(
        "gemma3",
        f"{_ATTENTION} {_HEAD_NORMS} post_attention_norm:h {_INNER} post_ffw_norm:h",
        _RMS
        | {
            "attention.sliding_window": 16,
            "rope.freq_base": 1_000_000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        tied=True,
        layers=7,
    ),
    "gemma4-e": Recipe(
        "gemma4",
        _GEMMA4_NEAR + _GEMMA4_PER_LAYER,
        _GEMMA4_KEYS
        | {
            "attention.shared_kv_layers": 2,
            "embedding_length_per_layer_input": 32,
            "feed_forward_length": [512, 512, 512, 512, 1024, 1024],
            "final_logit_softcapping": 30.0,
        },
        top=f"{_GEMMA4_TOP} per_layer_token_embd:V,192 per_layer_model_proj:192,h "
        "per_layer_proj_norm:32",
        tied=True,
        layers=6,
        every_second=_GEMMA4_FAR + _GEMMA4_PER_LAYER,
        last=(
            _GEMMA4_NEAR.replace(":f", ":F").replace(",f", ",F") + _GEMMA4_PER_LAYER,
            _GEMMA4_FAR.replace(":f", ":F").replace(",f", ",F") + _GEMMA4_PER_LAYER,
        ),
    ),
    "gemma4": Recipe(
        "gemma4",
        _GEMMA4_NEAR,
        _GEMMA4_KEYS | {"attention.head_count_kv": [2, 1] * 3, "final_logit_softcapping": 30.0},
        top=_GEMMA4_TOP,
        tied=True,
        layers=6,
        every_second=_GEMMA4_ONE,
    ),
    "gemma4-experts": Recipe(
        "gemma4",
        _GEMMA4_NEAR + _GEMMA4_EXPERTS,
        _GEMMA4_KEYS
        | _MOE
        | {"attention.head_count_kv": [2, 1] * 3, "expert_feed_forward_length": 256},
        top=_GEMMA4_TOP,
        tied=True,
        layers=6,
        every_second=_GEMMA4_ONE + _GEMMA4_EXPERTS,
    ),
    "phi3": Recipe(
        "phi3",
        "attn_norm:h attn_qkv:r+k,h attn_output:h,q ffn_norm:h ffn_up:F,h ffn_down:h,f",
    ),
    "phi3-long": Recipe(
        "phi3",
        "attn_norm:h attn_qkv:r+k,h attn_output:h,q ffn_norm:h ffn_up:F,h ffn_down:h,f",
        _RMS
        | {
            "rope.dimension_count": 48,
            "rope.scaling.original_context_length": 512,
            "rope.scaling.attn_factor": 1.19,
        },
        top="output_norm:h rope_factors_long:24 rope_factors_short:24",
    ),
    "starcoder2": Recipe(
        "starcoder2",
        f"attn_norm:h attn_norm.bias:h {_ATTENTION.split(' ', 1)[1]} {_BIASES} "
        "attn_output.bias:h ffn_norm:h ffn_norm.bias:h ffn_up:f,h ffn_up.bias:f ffn_down:h,f "
        "ffn_down.bias:h",
        _LAYER_NORM,
        top="output_norm:h output_norm.bias:h",
        tied=True,
    ),
    "stablelm": Recipe(
        "stablelm",
        f"attn_norm.bias:h {_ATTENTION} {_BIASES} {_INNER} ffn_norm.bias:h",
        _LAYER_NORM | {"rope.dimension_count": 16, "use_parallel_residual": False},
        top="output_norm:h output_norm.bias:h",
    ),
    "falcon": Recipe(
        "falcon",
        "attn_norm:h attn_norm.bias:h attn_qkv:q+d+d,h attn_output:h,q ffn_up:f,h ffn_down:h,f",
        _LAYER_NORM | {"attention.head_count_kv": 1},
        top="output_norm:h output_norm.bias:h",
    ),
    "falcon-40b": Recipe(
        "falcon",
        "attn_norm:h attn_norm.bias:h attn_norm_2:h attn_norm_2.bias:h attn_qkv:q+k+k,h "
        "attn_output:h,q ffn_up:f,h ffn_down:h,f",
        _LAYER_NORM,
        top="output_norm:h output_norm.bias:h",
    ),
    "olmo2": Recipe(
        "olmo2",
        f"{_ATTENTION.split(' ', 1)[1]} attn_q_norm:q attn_k_norm:k post_attention_norm:h "
        f"{_INNER.split(' ', 1)[1]} post_ffw_norm:h",
    ),
    "olmo3": Recipe(
        "olmo2",
        f"{_ATTENTION.split(' ', 1)[1]} attn_q_norm:q attn_k_norm:q post_attention_norm:h "
        f"{_INNER.split(' ', 1)[1]} post_ffw_norm:h".replace(":k,h", ":q,h"),
        _RMS
        | {
            "attention.head_count_kv": 4,
            "attention.sliding_window": 16,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 128,
        },
        layers=5,
    ),
    "olmoe": Recipe(
        "olmoe",
        "attn_norm:h attn_q:q,h attn_k:q,h attn_v:q,h attn_output:h,q attn_q_norm:q "
        f"attn_k_norm:q {_WIDE_EXPERTS}",
        _RMS | _MOE | {"attention.head_count_kv": 4},
    ),
    "granitemoe": Recipe(
        "granitemoe",
        f"{_ATTENTION} {_WIDE_EXPERTS}",
        _RMS
        | _MOE
        | {
            "attention.scale": 0.1,
            "embedding_scale": 12.0,
            "residual_scale": 0.22,
            "logit_scale": 8.0,
        },
        tied=True,
    ),
    "cohere2": Recipe(
        "cohere2",
        f"{_ATTENTION} {_INNER.split(' ', 1)[1]}",
        _LAYER_NORM | {"logit_scale": 0.25, "attention.sliding_window": 16},
        tied=True,
        layers=4,
    ),
    "glm4": Recipe(
        "glm4",
        f"{_ATTENTION} {_BIASES} post_attention_norm:h ffn_norm:h ffn_up:F,h ffn_down:h,f "
        "post_ffw_norm:h",
        _RMS | {"rope.dimension_count": 32},
    ),
    "exaone4": Recipe(
        "exaone4",
        f"{_ATTENTION.split(' ', 1)[1]} {_HEAD_NORMS} post_attention_norm:h {_INNER_PLAIN} "
        "post_ffw_norm:h",
        tied=True,
    ),
    "granite": Recipe(
        "granite",
        f"{_ATTENTION} {_INNER}",
        _RMS
        | {
            "attention.scale": 0.1,
            "embedding_scale": 12.0,
            "residual_scale": 0.22,
            "logit_scale": 8.0,
        },
        tied=True,
    ),
    "command-r": Recipe(
        "command-r",
        f"{_ATTENTION} {_INNER.split(' ', 1)[1]}",
        _LAYER_NORM | {"logit_scale": 0.0625},
        tied=True,
    ),
    "smollm3": Recipe("smollm3", f"{_ATTENTION} {_INNER}", layers=5, tied=True),
    "gpt-oss": Recipe(
        "gpt-oss",
        f"{_ATTENTION} {_BIASES} attn_output.bias:h attn_sinks:n post_attention_norm:h "
        f"{_EXPERTS.split(' ', 1)[1]} ffn_gate_inp.bias:e ffn_gate_exps.bias:e,m "
        "ffn_up_exps.bias:e,m ffn_down_exps.bias:e,h",
        _RMS
        | _MOE
        | {
            "expert_feed_forward_length": 256,
            "attention.sliding_window": 16,
            "rope.freq_base": 150_000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 128,
        },
    ),
    "nemotron": Recipe(
        "nemotron",
        f"attn_norm.bias:h {_ATTENTION} ffn_norm:h ffn_norm.bias:h ffn_up:f,h ffn_down:h,f",
        _LAYER_NORM | {"rope.dimension_count": 32},
        top="output_norm:h output_norm.bias:h",
    ),
}
"""By a name for people; the first row of each is what the architecture's models are like."""


def write_architecture_model(
    path: Path, name: str, vocabulary: Vocabulary, quantization: str = "F16", seed: int = 0
) -> Path:
    """Write a random model of the recipe `name` to `path` and return it.

    A quantised mixture sends every token to all of its experts: which of two nearly equal ones a
    random router takes hangs on how products are rounded, and llama.cpp rounds activations.
    """
    recipe = RECIPES[name]
    keys = dict(recipe.keys)
    if quantization != "F32" and "expert_count" in keys:
        keys["expert_used_count"] = keys["expert_count"]
    plain = path.with_suffix(".f32.tmp")
    writer = gguf.GGUFWriter(plain, recipe.architecture)
    writer.add_name("random")  # a name with phi-3 in it makes llama.cpp look for its tokens
    writer.add_file_type(0)
    for key, value in (_common(recipe, vocabulary) | keys).items():
        _add(writer, f"{recipe.architecture}.{key}", value)
    for key, value in vocabulary.values.items():
        _add(writer, key, value)
    random = np.random.default_rng(seed)
    writer.add_tensor("token_embd.weight", _values(random, "token_embd", (vocabulary.size, 256)))
    for layer in range(recipe.layers):
        is_second = recipe.every_second and layer % 2 == 1
        tensors = recipe.every_second if is_second else recipe.tensors
        if layer >= recipe.layers - len(recipe.last):
            tensors = recipe.last[layer - recipe.layers]
        for tensor in tensors.split():
            _add_tensor(writer, f"blk.{layer}.", tensor, random, vocabulary.size)
    for tensor in recipe.top.split():
        _add_tensor(writer, "", tensor, random, vocabulary.size)
    if not recipe.tied:
        writer.add_tensor("output.weight", _values(random, "output", (vocabulary.size, 256)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    gc.collect(1)  # what was just made
    if quantization == "F32":
        plain.replace(path)
    else:
        quantize(plain, path, quantization)
        plain.unlink()
    return path


def _common(recipe: Recipe, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "block_count": recipe.layers,
        "context_length": 512,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 10_000.0,
        "vocab_size": vocabulary.size,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value if isinstance(value, bytes) else list(value))


def _add_tensor(
    writer: gguf.GGUFWriter,
    prefix: str,
    text: str,
    random: np.random.Generator,
    vocabulary_size: int,
) -> None:
    text, _, factor = text.partition("*")
    name, _, sizes = text.partition(":")
    sizes = sizes.replace("V", str(vocabulary_size))
    shape = tuple(sum(_size(part) for part in size.split("+")) for size in sizes.split(","))
    bare = name.endswith((".bias", ".scale")) or name == "ssm_a"
    full = f"{prefix}{name}" if bare else f"{prefix}{name}.weight"
    writer.add_tensor(full, _values(random, name, shape) * np.float32(factor or 1))


def _size(part: str) -> int:
    return int(part) if part.isdigit() else _SIZES[part]


def _values(
    random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    if name.startswith("rope_factors"):
        return np.linspace(1.0, 4.0, shape[0], dtype=np.float32)
    values = random.standard_normal(shape, dtype=np.float32)
    if name == "rope_freqs":
        return np.where(np.arange(shape[0]) < shape[0] // 4, 1.0, 1e30).astype(np.float32)
    if name == "ssm_a":
        return -np.exp(values)
    if name.endswith(".bias") or "sinks" in name:
        return values * np.float32(0.1)
    if "norm" in name or "scale" in name:
        return np.float32(1.0) + np.float32(0.1) * values
    # The recurrence of linear attention would grow what llama.cpp rounds off activations.
    strength = 0.25 if name in {"ssm_out", "ssm_alpha", "ssm_beta"} else 1.0
    return values * np.float32(strength / np.sqrt(shape[-1]))
