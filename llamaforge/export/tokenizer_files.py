"""A file's tokenizer as transformers reads it: the ids are those of llama.cpp."""

from pathlib import Path
from typing import Any, Final

from llamaforge.files import write_atomic, write_json
from llamaforge.gguf.header import Header
from llamaforge.gguf.pre_tokenizers import PRE_TOKENIZERS
from llamaforge.gguf.tokenizer import GgufTokenizer

_CLASS: Final = "PreTrainedTokenizerFast"
"""The class that takes `tokenizer.json` as it stands, in every version of transformers."""
_CUT_AS: Final = {"qwen2": "qwen2", "qwen3_5_moe_text": "qwen35"}
"""The pre-tokenizers that `AutoTokenizer` of transformers 5 puts in place of a directory's own, by
`model_type`. Source: `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS` of its `tokenization_auto.py`."""


def write_tokenizer(
    folder: Path, tokenizer: GgufTokenizer, *, chat_template: str, context_length: int
) -> None:
    """Write `tokenizer.json`, its configuration, the special tokens and the chat template."""
    named = {
        "bos_token": tokenizer.bos_id,
        "eos_token": tokenizer.eos_id,
        "pad_token": tokenizer.pad_id,
        "unk_token": tokenizer.unknown_id,
    }
    special = {
        key: tokenizer.text_of(number) for key, number in named.items() if number is not None
    }
    config: dict[str, Any] = {
        "tokenizer_class": _CLASS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "chat_template": chat_template,
    }
    write_atomic(folder / "tokenizer.json", tokenizer.to_json(), mode=0o644)
    write_json(folder / "tokenizer_config.json", config | special)
    write_json(folder / "special_tokens_map.json", special)
    write_atomic(folder / "chat_template.jinja", chat_template, mode=0o644)


def replaced_pre_tokenizer(base: Header, model_type: str) -> str | None:
    """Return the file's pre-tokenizer where `AutoTokenizer` would use another one in its place."""
    other = _CUT_AS.get(model_type)
    own = base.get("tokenizer.ggml.pre", "default")
    if other is None or PRE_TOKENIZERS[own].patterns == PRE_TOKENIZERS[other].patterns:
        return None
    return str(own)


def generation_config(tokenizer: GgufTokenizer) -> dict[str, Any]:
    """Return the content of `generation_config.json`: an answer ends where llama.cpp ends it."""
    ends = sorted(tokenizer.end_ids, key=lambda number: (number != tokenizer.eos_id, number))
    found = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends or None,
        "pad_token_id": tokenizer.pad_id,
    }
    return {key: value for key, value in found.items() if value is not None}
