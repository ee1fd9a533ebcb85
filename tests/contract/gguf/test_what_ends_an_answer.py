"""The tokens that end an answer, and those that are no text, are llama.cpp's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.ends import END_TEXTS
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import _FILL_IN_TEXTS, GgufTokenizer
from tools.random_models import Vocabulary, write_vocabulary

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
ORDINARY = ("<|eos|>", "<EOT", "<|tool_call|>", "[INST]", "<|user|>", "</S>", "<|fim|>")


def numbers(model: Any, size: int, is_one: Any) -> set[int]:
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    return {number for number in range(size) if is_one(vocabulary, number)}


def with_tokens(path: Path, texts: Sequence[str], kind: int) -> Path:
    """Write a model whose vocabulary has some more tokens, of which no key says anything."""
    values = dict(Vocabulary.byte_level().values)
    tokens = [*values["tokenizer.ggml.tokens"][:-3], *texts]
    del values["tokenizer.ggml.padding_token_id"]
    values |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * (len(tokens) - len(texts)) + [kind] * len(texts),
        "tokenizer.ggml.eos_token_id": 0,
    }
    return write_vocabulary(path, Vocabulary(values, len(tokens)))


def test_of_the_known_vocabularies(vocabulary_file: Path) -> None:
    tokenizer = GgufTokenizer(read_header(vocabulary_file))
    size = len(tokenizer.tokens)
    with loaded(vocabulary_file, vocabulary_only=True) as model:
        ends = numbers(model, size, llama_cpp.llama_vocab_is_eog)
        control = numbers(model, size, llama_cpp.llama_vocab_is_control)
    assert tokenizer.end_ids == ends
    assert control <= set(tokenizer.special_ids.values())


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED])
@pytest.mark.parametrize("text", [*sorted(END_TEXTS | _FILL_IN_TEXTS), *ORDINARY])
def test_of_every_text_that_llama_cpp_looks_for(text: str, kind: int, tmp_path: Path) -> None:
    path = with_tokens(tmp_path / "m.gguf", [text], kind)
    tokenizer = GgufTokenizer(read_header(path))
    size = len(tokenizer.tokens)
    with loaded(path, vocabulary_only=True) as model:
        assert tokenizer.end_ids == numbers(model, size, llama_cpp.llama_vocab_is_eog)
        control = numbers(model, size, llama_cpp.llama_vocab_is_control)
        assert set(tokenizer.special_ids.values()) == control
        for parse_special in (True, False):
            sample = f"a {text} b{text}"
            ours = tokenizer.with_bos(tokenizer.encode(sample, parse_special=parse_special))
            assert ours == tokenize(model, sample, parse_special=parse_special)


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED])
@pytest.mark.parametrize(
    "texts",
    [
        ("<|return|>", "<|call|>", "<|end|>"),
        ("<|flush|>", "<|calls|>", "<|end|>"),
        ("<|return|>", "<|flush|>", "<|end|>"),
        ("<|call|>", "<|end|>"),
        ("<|tool_response>", "</s>"),
        ("<turn|>", "</s>"),
    ],
    ids=" ".join,
)
def test_of_texts_that_mean_something_else_beside_others(
    texts: Sequence[str], kind: int, tmp_path: Path
) -> None:
    path = with_tokens(tmp_path / "m.gguf", texts, kind)
    tokenizer = GgufTokenizer(read_header(path))
    size = len(tokenizer.tokens)
    with loaded(path, vocabulary_only=True) as model:
        assert tokenizer.end_ids == numbers(model, size, llama_cpp.llama_vocab_is_eog)
        control = numbers(model, size, llama_cpp.llama_vocab_is_control)
        assert set(tokenizer.special_ids.values()) == control
        for parse_special in (True, False):
            sample = "".join(f"a {text} b{text}" for text in texts)
            ours = tokenizer.with_bos(tokenizer.encode(sample, parse_special=parse_special))
            assert ours == tokenize(model, sample, parse_special=parse_special)


def test_bos_is_put_in_front_once(vocabulary_file: Path) -> None:
    tokenizer = GgufTokenizer(read_header(vocabulary_file))
    ids = tokenizer.encode("a b", parse_special=False)
    once = tokenizer.with_bos(ids)
    with loaded(vocabulary_file, vocabulary_only=True) as model:
        assert once == tokenize(model, "a b", parse_special=False)
    assert tokenizer.with_bos(once) == once
    assert once.count(tokenizer.bos_id or -1) == int(tokenizer.add_bos)
