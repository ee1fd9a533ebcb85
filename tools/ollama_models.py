"""Models as Ollama's own converter writes them, made of models as llama.cpp has them.

Source of the forms: `convert/` of Ollama, as its `llama/compat` describes them.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tools.architecture_models import write_architecture_model
from tools.random_models import Vocabulary


@dataclass(frozen=True)
class Form:
    """How Ollama's file differs from one that llama.cpp takes."""

    recipe: str
    """One of `architecture_models.RECIPES`, which has the same weights."""
    architecture: str = ""
    """Its own name, where it has one."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys below `<architecture>.` that are added or replaced; None leaves one out."""
    renamed_keys: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    """New endings of names by the old ones."""
    encoders: tuple[str, ...] = ()
    """Tensors that no text passes through."""
    more_tokens: int = 0
    """Tokens of the vocabulary that have no row in the embedding."""
    equivalent_keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys that llama.cpp's file has otherwise than the recipe."""


_VISION: Final = ("v.blk.0.attn_q.weight", "v.patch_embedding.weight", "mm.0.weight")

_ALL_EXPERTS: Final[dict[str, Any]] = {"expert_used_count": 4}
"""Which of two nearly equal ones a random router takes hangs on how products are rounded."""

FORMS: Final[Mapping[str, Form]] = {
    "gemma3": Form(
        "gemma3",
        keys={"mm.tokens_per_image": 256, "vision.block_count": 1},
        renamed_keys={"rope.freq_base": "rope.global.freq_base"},
        encoders=_VISION,
        more_tokens=3,
    ),
    "gptoss": Form(
        "gpt-oss",
        "gptoss",
        keys={"expert_feed_forward_length": None, "rope.scaling.type": None},
        tensors={
            ".attn_output.weight": ".attn_out.weight",
            ".attn_output.bias": ".attn_out.bias",
            ".attn_sinks.weight": ".attn_sinks",
            ".post_attention_norm.weight": ".ffn_norm.weight",
        },
        equivalent_keys=_ALL_EXPERTS,
    ),
    "mistral3": Form(
        "mistral3-tempered",
        keys={"vision.block_count": 1},
        renamed_keys={
            "attention.temperature_scale": "rope.scaling_beta",
            "rope.scaling.yarn_log_multiplier": "rope.scaling.mscale_all_dim",
        },
        encoders=_VISION,
    ),
    "olmo3": Form("olmo3", "olmo3"),
    "qwen25vl": Form(
        "qwen2vl",
        "qwen25vl",
        keys={
            "rope.dimension_sections": None,
            "rope.mrope_section": [8, 12, 12],
            "vision.block_count": 1,
        },
        encoders=_VISION,
    ),
    "qwen3vl": Form(
        "qwen3vl",
        keys={"rope.dimension_sections": None, "n_deepstack_layers": None},
        encoders=_VISION,
        equivalent_keys={"rope.dimension_sections": [24, 20, 20, 0]},
    ),
    "qwen3vlmoe": Form(
        "qwen3vlmoe",
        keys={"rope.dimension_sections": None, "n_deepstack_layers": None},
        encoders=_VISION,
        equivalent_keys=_ALL_EXPERTS | {"rope.dimension_sections": [24, 20, 20, 0]},
    ),
    "qwen35": Form(
        "qwen35",
        keys={
            "attention.head_count_kv": [0, 2],
            "rope.dimension_sections": [3, 3, 2],
            "vision.block_count": 1,
        },
        tensors={".ssm_dt.bias": ".ssm_dt"},
        encoders=(*_VISION, "mtp.fc.weight"),
    ),
    "qwen35moe": Form(
        "qwen35moe",
        keys={"attention.head_count_kv": [0, 2], "rope.dimension_sections": [3, 3, 2]},
        tensors={".ssm_dt.bias": ".ssm_dt"},
        encoders=(*_VISION, "mtp.fc.weight"),
        equivalent_keys=_ALL_EXPERTS,
    ),
    "gemma4": Form("gemma4-e", encoders=(*_VISION, "a.blk.0.attn_q.weight")),
    "gemma4-experts": Form(
        "gemma4-experts",
        tensors={".ffn_down_exps.scale": ".ffn_gate_inp.per_expert_scale"},
        encoders=_VISION,
        equivalent_keys=_ALL_EXPERTS,
    ),
}
"""By a name for people."""


def write_ollama_model(
    folder: Path, name: str, vocabulary: Vocabulary, quantization: str = "F32", seed: int = 0
) -> tuple[Path, Path]:
    """Write the form `name` into `folder`; return its path, and that of llama.cpp's equivalent."""
    form = FORMS[name]
    made = write_architecture_model(
        folder / "made.gguf", form.recipe, vocabulary, quantization, seed
    )
    equivalent = folder / "equivalent.gguf"
    rewrite(made, equivalent, Form(form.recipe, keys=form.equivalent_keys))
    rewrite(equivalent, folder / "ollama.gguf", form)
    made.unlink()
    return folder / "ollama.gguf", equivalent


def rewrite(source: Path, target: Path, form: Form) -> None:
    """Write the model in `source` to `target` in another form."""
    reader = gguf.GGUFReader(source)
    old = reader.fields["general.architecture"].contents()
    new = form.architecture or old
    writer = gguf.GGUFWriter(target, new)
    left = dict(form.keys)
    for key, value in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        own = key.removeprefix(f"{old}.") if key.startswith(f"{old}.") else ""
        if own in form.keys:
            continue
        renamed = f"{new}.{form.renamed_keys.get(own, own)}" if own else key
        _copy(writer, renamed, value, form.more_tokens)
    for key, content in left.items():
        _add(writer, f"{new}.{key}", content)
    for tensor in reader.tensors:
        name = tensor.name
        for ending, instead in form.tensors.items():
            if name.endswith(ending):
                name = name.removesuffix(ending) + instead
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    for name in form.encoders:
        writer.add_tensor(name, np.full((8, 32), 3.0, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    del reader
    gc.collect()


def _copy(writer: gguf.GGUFWriter, key: str, value: gguf.ReaderField, more_tokens: int) -> None:
    kind, content = value.types[0], value.contents()
    if kind is not gguf.GGUFValueType.ARRAY:
        writer.add_key_value(key, content, kind)
        return
    more: dict[str, list[Any]] = {
        "tokenizer.ggml.tokens": [f"<image_{number}>" for number in range(more_tokens)],
        "tokenizer.ggml.token_type": [3] * more_tokens,
    }
    writer.add_key_value(key, [*content, *more.get(key, [])], kind, sub_type=value.types[-1])


def _add(writer: gguf.GGUFWriter, key: str, content: Any) -> None:
    if isinstance(content, int):
        writer.add_uint32(key, content)
    elif content is not None:
        writer.add_key_value(
            key, content, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.INT32
        )
