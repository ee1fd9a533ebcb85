"""`AutoTokenizer` gives for an exported directory the ids that llama.cpp gives for the file."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.export.hugging_face import write_hugging_face
from llamaforge.export.tokenizer_files import replaced_pre_tokenizer
from llamaforge.gguf.header import Header, read_header
from llamaforge.worker.layout import model_layout
from tests.contract.export.hub_bench import EXPORTED, TEMPLATE
from tests.contract.tokens.test_pre_tokenizers_as_served import TEXTS as SCRIPTS
from tests.contract.tokens.test_pre_tokenizers_as_served import joining_vocabulary
from tests.contract.tokens.test_tokens_equal_llama_cpp import NAMES, TEXTS, vocabulary
from tests.contract.tokens.test_unigram_tokens import TEXTS as UNIGRAM_TEXTS
from tools.architecture_models import write_architecture_model
from tools.random_models import Shape, Vocabulary, write_random_model
from tools.unigram_vocabularies import unigram

PRE = {
    "qwen2": "qwen2",
    "qwen2vl": "qwen2",
    "qwen35": "qwen35",
    "qwen35moe": "qwen35",
    "llama": "llama-bpe",
}
"""The usual pre-tokenizers of some architectures; the others get one that is nobody's usual."""
UNIGRAM_EOS = 1  # where a file of a Unigram vocabulary does not say it
COMPOSED = ("qwen2", "qwen2vl", "qwen35moe")
"""Architectures whose texts transformers 5 puts into NFC, as Qwen's own tokenizer does."""


TINY = Shape(layers=1, hidden=32, heads=2, head_dim=16, feed_forward=32, tied=True)
"""What is left of a model beside a real vocabulary."""


def export(folder: Path, name: str, words: Vocabulary) -> Header:
    header = read_header(write_architecture_model(folder / "m.gguf", name, words, "F32", seed=1))
    return as_folder(header)


def as_folder(header: Header) -> Header:
    layout = model_layout(header)
    folder = header.path.with_name("hf")
    write_hugging_face(folder, header, None, layout, dtype="bfloat16", chat_template=TEMPLATE)
    return header


def check(tokenizer: Any, header: Header, words: Vocabulary, texts: list[str]) -> None:
    assert len(tokenizer) == words.size
    turn = [{"role": "user", "content": "Hm."}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "Hm."
    assert tokenizer.eos_token_id == words.values.get("tokenizer.ggml.eos_token_id", UNIGRAM_EOS)
    with loaded(header.path, vocabulary_only=True) as model:
        for text in texts:
            ids = tokenize(model, text, parse_special=True)
            assert tokenizer(text)["input_ids"] == ids, repr(text)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_architecture_keeps_the_files_own_tokenizer(name: str, tmp_path: Path) -> None:
    texts = [*TEXTS, *SCRIPTS]
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    words = joining_vocabulary(PRE.get(name, "tekken"), (*texts, *composed))
    header = export(tmp_path, name, words)
    check(PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf"), header, words, texts)
    if name in COMPOSED:
        texts = composed
    check(AutoTokenizer.from_pretrained(tmp_path / "hf"), header, words, texts)


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a file, which gguf-py would read for seconds."""
    header = read_header(path)
    values: dict[str, Any] = {}
    for key in (key for key in header.metadata if key.startswith("tokenizer.")):
        if not header.is_array(key):
            values[key] = header.get(key)
        else:
            is_text = key in {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}
            values[key] = header.strings(key) if is_text else header.numbers(key)
    return Vocabulary(values, len(values["tokenizer.ggml.tokens"]))


@pytest.mark.parametrize("name", NAMES)
def test_real_vocabularies(name: str, tmp_path: Path) -> None:
    words = read_vocabulary(vocabulary(name))
    header = as_folder(read_header(write_random_model(tmp_path / "m.gguf", TINY, words, "F32")))
    check(AutoTokenizer.from_pretrained(tmp_path / "hf"), header, words, [*TEXTS])


def test_a_unigram_vocabulary(tmp_path: Path) -> None:
    words = unigram(add_space_prefix=True, remove_extra_whitespaces=True)
    header = export(tmp_path, "llama", words)
    check(AutoTokenizer.from_pretrained(tmp_path / "hf"), header, words, [*UNIGRAM_TEXTS])


def test_a_pre_tokenizer_that_would_be_replaced_is_told(tmp_path: Path) -> None:
    words = joining_vocabulary("gpt-2")
    path = write_architecture_model(tmp_path / "m.gguf", "qwen2", words, "F32")
    assert replaced_pre_tokenizer(read_header(path), "qwen2") == "gpt-2"
    assert replaced_pre_tokenizer(read_header(path), "llama") is None
