"""Writes the demo model as a GGUF file and quantises it with llama.cpp."""

import ctypes
import json
from pathlib import Path
from typing import Any, Final

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tools.demo_store.tokenizer import CONTROL_TOKENS, END, JINJA_TEMPLATE, PADDING

NAME: Final = "LlamaForge Demo"


def _interleaved(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Return a query or key weight `[rows, columns]` with its rows in llama.cpp's rotary order.

    Source: `LlamaModel.permute` of llama.cpp's converter.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _add_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(NAME)
    writer.add_author("The LlamaForge authors")
    writer.add_license("mit")
    writer.add_description("A tiny chat model trained from scratch on generated text.")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens = [by_id[number] for number in range(len(by_id))]
    control = set(CONTROL_TOKENS)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    # Nothing is put before a text; without an id llama.cpp would name an arbitrary token here.
    writer.add_bos_token_id(tokens.index(PADDING))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PADDING))
    writer.add_add_bos_token(False)
    writer.add_chat_template(JINJA_TEMPLATE)


def write(model: Any, tokenizer: Tokenizer, path: Path) -> None:
    """Write a Llama model with tied embeddings and its tokenizer as an F32 GGUF file."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, config)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, parameter in model.state_dict().items():
        if key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight",))
        weight = parameter.detach().float().numpy()
        if name.endswith("attn_q.weight"):
            weight = _interleaved(weight, config.num_attention_heads)
        elif name.endswith("attn_k.weight"):
            weight = _interleaved(weight, config.num_key_value_heads)
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path) -> None:
    """Quantise a GGUF file to Q4_K_M with llama.cpp's own quantiser."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    options.nthread = 2
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(options)
    )
    if status != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source.name} (status {status})")
