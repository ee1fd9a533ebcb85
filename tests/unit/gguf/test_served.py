"""What Ollama's server changes of a file when it reads it, beside what the engine's tests hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.gguf.architectures import architecture_of, configuration
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.served import as_served

CHAT = "{{ '<|start_header_id|>' }}"


def header_of(
    folder: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    tokens: list[str] | None = None,
) -> Header:
    """Return a file with these keys, those that begin with a dot belonging to its architecture."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
             str: writer.add_string}  # fmt: skip
    for key, value in keys.items():
        kinds[type(value)](f"{architecture}{key}" if key.startswith(".") else key, value)
    if tokens is not None:
        writer.add_token_list(tokens)
        writer.add_token_types([1] * len(tokens))
        writer.add_token_scores([0.0] * len(tokens))
    for name, shape in (tensors or {"token_embd.weight": (4, 32)}).items():
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(path)


def test_what_llama_cpp_wrote_is_left_as_it_is(tmp_path: Path) -> None:
    for architecture, keys in (
        ("llama", {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.eos_token_id": 128_009}),
        ("gemma3", {".attention.layer_norm_rms_epsilon": 1e-6}),
        ("gemma4", {"tokenizer.ggml.model": "gemma4"}),
        ("mistral3", {}),
        ("qwen35", {".attention.head_count_kv": 2}),
        ("qwen2", {}),
    ):
        header = header_of(tmp_path, architecture, keys)
        assert as_served(header) is header, architecture


def test_gemma_3_gets_what_its_first_files_lack(tmp_path: Path) -> None:
    header = header_of(
        tmp_path, "gemma3", {".context_length": 131_072}, tokens=[f"t{n}" for n in range(6)]
    )
    served = as_served(header)
    assert served.stored is header
    assert served.own("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert served.own("rope.freq_base") == 1_000_000.0
    assert served.own("rope.freq_base_swa") == 10_000.0
    assert (served.own("rope.scaling.type"), served.own("rope.scaling.factor")) == ("linear", 8.0)
    # The embedding has four rows: what is left over stands for pictures.
    assert served.strings("tokenizer.ggml.tokens") == ["t0", "t1", "t2", "t3"]
    assert served.numbers("tokenizer.ggml.token_type") == [1] * 4
    assert header.length("tokenizer.ggml.tokens") == 6


def test_the_small_gemma_3_is_not_scaled(tmp_path: Path) -> None:
    served = as_served(header_of(tmp_path, "gemma3", {".context_length": 32_768}))
    assert "gemma3.rope.scaling.type" not in served.metadata


def test_gemma_for_embeddings_is_no_gemma_3(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": (4, 32), "dense.0.weight": (4, 32)}
    served = as_served(header_of(tmp_path, "gemma3", {}, tensors))
    with pytest.raises(RefusedError, match="gemma-embedding"):
        architecture_of(served)


@pytest.fixture(scope="module")
def llama3_tokens() -> list[str]:
    tokens = [f"t{number}" for number in range(128_010)]
    tokens[128_001], tokens[128_009] = "<|end_of_text|>", "<|eot_id|>"
    return tokens


def test_llama_3_ends_its_turns_and_knows_its_pre_tokenizer(
    tmp_path: Path, llama3_tokens: list[str]
) -> None:
    keys = {"tokenizer.ggml.eos_token_id": 128_001, "tokenizer.chat_template": CHAT}
    served = as_served(header_of(tmp_path, "llama", keys, tokens=llama3_tokens))
    assert served.get("tokenizer.ggml.pre") == "llama-bpe"
    assert served.get("tokenizer.ggml.eos_token_id") == 128_009
    assert served.get("tokenizer.ggml.eot_token_id") == 128_009


def test_a_llama_3_that_does_not_chat_keeps_its_end(
    tmp_path: Path, llama3_tokens: list[str]
) -> None:
    keys = {"tokenizer.ggml.eos_token_id": 128_001}
    header = header_of(tmp_path, "llama", keys, tokens=llama3_tokens)
    assert as_served(header) is header


@pytest.mark.parametrize(
    "architecture",
    ["gemma3n", "llama4", "deepseek2", "deepseekocr", "glmocr", "phi2", "lfm2", "nemotron_h_omni"],
)
def test_what_cannot_be_trained_is_named(architecture: str, tmp_path: Path) -> None:
    tensors = {"token_embd.weight": (4, 32), "v.blk.0.attn_q.weight": (4, 32)}
    with pytest.raises(RefusedError) as caught:
        architecture_of(as_served(header_of(tmp_path, architecture, {}, tensors)))
    assert f"'{architecture}'" in caught.value.message
    assert caught.value.code == "unsupported_architecture"


def test_a_tensor_is_never_called_what_another_is_called(tmp_path: Path) -> None:
    tensors = {"blk.0.ssm_dt": (4,), "blk.0.ssm_dt.bias": (4,), "v.a.weight": (4,)}
    served = as_served(header_of(tmp_path, "qwen35", {}, tensors))
    assert set(served.tensors) == {"blk.0.ssm_dt", "blk.0.ssm_dt.bias"}
    assert served.stored_names == {}


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("qwen25vl", "rope.mrope_section"),
        ("qwen3vl", "vision.deepstack_visual_indexes"),
        ("qwen35", "attention.head_count_kv"),
        ("qwen35", "rope.dimension_sections"),
    ],
)
@pytest.mark.parametrize(
    "values",
    [[1.5, float("nan"), 2.0], [-1, -2, -3], ["a", "b", "c"], [2**31 - 1, 1, 1], [True] * 3],
)
def test_arrays_that_make_no_sense_make_no_sense_of_their_own(
    architecture: str, key: str, values: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32(f"{architecture}.vision.block_count", 1)
    writer.add_array(f"{architecture}.{key}", values)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LlamaForgeError) as caught:
        configuration(as_served(read_header(path)))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("architecture", "tensor", "key", "before", "after"),
    [
        ("gemma4", "v.a.weight", "tokenizer.ggml.model", "llama", "gemma4"),
        ("gemma4", "blk.0.a.weight", "tokenizer.ggml.model", "llama", "gemma4"),
        ("mistral3", "v.a.weight", "tokenizer.ggml.pre", "default", "tekken"),
        ("mistral3", "v.a.weight", "tokenizer.ggml.pre", "llama-bpe", "llama-bpe"),
        ("gptoss", "blk.0.a.weight", "tokenizer.ggml.pre", "default", "gpt-4o"),
    ],
)
def test_kinds_of_vocabulary_are_mended(
    architecture: str, tensor: str, key: str, before: str, after: str, tmp_path: Path
) -> None:
    tensors = {"token_embd.weight": (4, 32), tensor: (4, 32)}
    served = as_served(header_of(tmp_path, architecture, {key: before}, tensors))
    assert served.get(key) == after
    assert "v.a.weight" not in served.tensors
