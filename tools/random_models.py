"""Random models as GGUF files, for tests and benchmarks: real layouts, meaningless weights.

The tensors are written by gguf-py in llama.cpp's own layout and quantised by llama.cpp itself, so
that nothing here depends on the code under test; `write_packed_model`, for benchmarks alone, does.
"""

import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llamaforge.gguf.ggml import pack_rows
from llamaforge.gguf.types import TensorType

Matrix = Callable[[str, int, int], npt.NDArray[Any]]
"""From a tensor's name, rows and width to its values, [rows, width], or to packed rows in uint8."""

_OWN_ROWS = 256
"""Rows of a packed model's matrices before they repeat."""

FILE_TYPES: dict[str, int] = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
}
"""`llama_ftype` of each quantisation that these models are made in."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a random model."""

    architecture: str = "llama"
    hidden: int = 256
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 64
    feed_forward: int = 512
    context: int = 512
    tied: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: str | None = None
    """`linear`, `yarn` or `factors` (a `rope_freqs` tensor, as Llama 3.1 has it)."""
    attention_bias: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's metadata as it stands in a GGUF file."""

    values: dict[str, Any]
    size: int

    @staticmethod
    def byte_level() -> "Vocabulary":
        """Return a byte-level vocabulary with a few merges and ChatML's control tokens."""
        tokens = [*bytes_to_unicode().values(), "Ġt", "he", "Ġthe", "in", "er", "Ġa"]
        merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a"]
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        first = len(tokens)
        return Vocabulary(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "qwen2",
                "tokenizer.ggml.tokens": tokens + special,
                "tokenizer.ggml.token_type": [1] * first + [3] * len(special),
                "tokenizer.ggml.merges": merges,
                "tokenizer.ggml.eos_token_id": first + 2,
                "tokenizer.ggml.padding_token_id": first,
                "tokenizer.ggml.add_bos_token": False,
                "tokenizer.chat_template": CHATML,
            },
            first + len(special),
        )

    @staticmethod
    def from_file(path: Path) -> "Vocabulary":
        """Return the vocabulary of another GGUF file."""
        reader = gguf.GGUFReader(path)
        values = {
            key: field.contents()
            for key, field in reader.fields.items()
            if key.startswith("tokenizer.")
        }
        return Vocabulary(values, len(values["tokenizer.ggml.tokens"]))


def write_random_model(
    path: Path, shape: Shape, vocabulary: Vocabulary, quantization: str = "F16", seed: int = 0
) -> Path:
    """Write a random model of `shape` to `path` and return it."""
    plain = path.with_suffix(".f32.tmp")
    random = np.random.default_rng(seed)

    def matrix(name: str, rows: int, width: int) -> npt.NDArray[Any]:
        del name
        return _normal(random, rows, width)

    _write(plain, shape, vocabulary, _tensors(shape, vocabulary.size, random, matrix))
    if quantization == "F32":
        plain.replace(path)
    else:
        quantize(plain, path, quantization)
        plain.unlink()
    return path


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> Path:
    """Write a file of metadata alone, and return it: what holds no weights is quickly written."""
    _write(path, Shape(), vocabulary, [])
    return path


def write_packed_model(
    path: Path,
    shape: Shape,
    vocabulary: Vocabulary,
    kind_of: Callable[[str], TensorType],
    seed: int = 0,
) -> Path:
    """Write a random model whose matrices have the types that `kind_of` names, and return `path`.

    Its matrices repeat some rows, so that billions of weights take seconds: for measuring speed.
    """
    random = np.random.default_rng(seed)

    def matrix(name: str, rows: int, width: int) -> npt.NDArray[Any]:
        own = min(rows, _OWN_ROWS)
        packed = pack_rows(kind_of(name), _normal(random, own, width))
        return packed[random.integers(0, own, rows)]

    tensors = _tensors(shape, vocabulary.size, random, matrix)
    _write(path, shape, vocabulary, tensors, kind_of)
    return path


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> None:
    """Quantise a GGUF file with llama.cpp, with an importance matrix by tensor name if given."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[quantization]
    parameters.nthread = 2
    if importance is not None:
        entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        kept = {name: np.ascontiguousarray(values) for name, values in importance.items()}
        for entry, (name, values) in zip(entries, kept.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        parameters.imatrix = entries
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if status != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {quantization}")


def _write(
    path: Path,
    shape: Shape,
    vocabulary: Vocabulary,
    tensors: Iterable[tuple[str, npt.NDArray[Any]]],
    kind_of: Callable[[str], TensorType] | None = None,
) -> None:
    """Write a file; tensors in uint8 are packed rows of the type that `kind_of` names."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    name = shape.architecture
    writer.add_name(f"random-{name}")
    writer.add_file_type(0)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(vocabulary.size)
    if shape.rope_scaling in {"linear", "yarn"}:
        writer.add_rope_scaling_type(gguf.RopeScalingType(shape.rope_scaling))
        writer.add_rope_scaling_factor(4.0)
        if shape.rope_scaling == "yarn":
            writer.add_rope_scaling_orig_ctx_len(shape.context // 4)
    _add_vocabulary(writer, vocabulary)
    for tensor, values in tensors:
        kind = None
        if kind_of is not None and values.dtype == np.uint8:
            kind = gguf.GGMLQuantizationType(int(kind_of(tensor)))
        writer.add_tensor(tensor, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    gc.collect(1)  # what was just made


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    for key, value in vocabulary.values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value if isinstance(value, bytes) else list(value))


def _normal(random: np.random.Generator, rows: int, width: int) -> npt.NDArray[np.float32]:
    """Return values of shape [rows, width] that keep the size of what they are multiplied with."""
    values = random.standard_normal((rows, width), dtype=np.float32)
    return values * np.float32(1.0 / np.sqrt(width))


def _tensors(
    shape: Shape, vocabulary: int, random: np.random.Generator, matrix: Matrix
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    def named(name: str, rows: int, width: int) -> tuple[str, npt.NDArray[Any]]:
        return name, matrix(name, rows, width)

    def near(value: float, size: int) -> npt.NDArray[np.float32]:
        return (value + 0.1 * random.standard_normal(size)).astype(np.float32)

    query, pair = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    yield named("token_embd.weight", vocabulary, shape.hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", near(1.0, shape.hidden)
        yield named(f"{block}.attn_q.weight", query, shape.hidden)
        yield named(f"{block}.attn_k.weight", pair, shape.hidden)
        yield named(f"{block}.attn_v.weight", pair, shape.hidden)
        yield named(f"{block}.attn_output.weight", shape.hidden, query)
        if shape.architecture == "qwen2" or shape.attention_bias:
            yield f"{block}.attn_q.bias", near(0.0, query)
            yield f"{block}.attn_k.bias", near(0.0, pair)
            yield f"{block}.attn_v.bias", near(0.0, pair)
        if shape.attention_bias:
            yield f"{block}.attn_output.bias", near(0.0, shape.hidden)
        if shape.architecture == "qwen3":
            yield f"{block}.attn_q_norm.weight", near(1.0, shape.head_dim)
            yield f"{block}.attn_k_norm.weight", near(1.0, shape.head_dim)
        yield f"{block}.ffn_norm.weight", near(1.0, shape.hidden)
        yield named(f"{block}.ffn_gate.weight", shape.feed_forward, shape.hidden)
        yield named(f"{block}.ffn_up.weight", shape.feed_forward, shape.hidden)
        yield named(f"{block}.ffn_down.weight", shape.hidden, shape.feed_forward)
    yield "output_norm.weight", near(1.0, shape.hidden)
    if not shape.tied:
        yield named("output.weight", vocabulary, shape.hidden)
    if shape.rope_scaling == "factors":
        yield "rope_freqs.weight", np.linspace(1.0, 8.0, shape.head_dim // 2, dtype=np.float32)
