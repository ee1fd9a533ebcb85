"""Gemma 4's vocabulary: merges over whole lines, spaces as `▁`, bytes for what is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from tests.contract.tokens.test_pre_tokenizers_as_served import TEXTS
from tools.random_models import Vocabulary, write_vocabulary

CONTROL, NORMAL, BYTE = 3, 1, 6
LETTERS = "▁abdehnorstw.,é日\n"


OF_THE_KIND = {
    "gemma4": {"tokenizer.ggml.model": "gemma4"},
    "sarvam-moe": {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "sarvam-moe"},
    "granite": {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "granite-embed-multi-311m"},
}


def vocabulary(name: str = "gemma4") -> Vocabulary:
    """Return a small vocabulary of the kind."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn|>", "<|tool_response>"]
    merged = ["▁t", "he", "▁the", "▁▁", "▁▁▁", "an", "nd", "and", "▁and", "▁w", "or", "▁wor"]
    merges = ["▁ t", "h e", "▁t he", "▁ ▁", "▁▁ ▁", "a n", "n d", "an d", "▁ and", "▁ w", "o r",
              "▁w or"]  # fmt: skip
    runs = ["\n\n", "\n\n\n", "</s>"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    tokens = [*special, *bytes_, *LETTERS, *merged, *runs]
    kinds = [CONTROL] * len(special) + [BYTE] * 256
    return Vocabulary(
        {
            **OF_THE_KIND[name],
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": kinds + [NORMAL] * (len(tokens) - len(kinds)),
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_space_prefix": False,
        },
        len(tokens),
    )


@pytest.fixture(scope="module", params=OF_THE_KIND)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GgufTokenizer, Any]]:
    path = tmp_path_factory.mktemp("gemma4") / "m.gguf"
    write_vocabulary(path, vocabulary(request.param))
    with loaded(path, vocabulary_only=True) as model:
        yield GgufTokenizer(read_header(path)), model


@pytest.mark.parametrize("parse_special", [True, False])
def test_texts_of_many_scripts(pair: tuple[GgufTokenizer, Any], parse_special: bool) -> None:
    tokenizer, model = pair
    for text in [*TEXTS, " the and\n\n the  world</s>\n\n\n<turn|> and <bos>\n"]:
        ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=parse_special))
        assert ours == tokenize(model, text, parse_special=parse_special), repr(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from(LETTERS + "  x€👍"), max_size=30))
def test_any_text(pair: tuple[GgufTokenizer, Any], text: str) -> None:
    tokenizer, model = pair
    ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=False))
    assert ours == tokenize(model, text, parse_special=False)


@pytest.mark.parametrize("said", [True, False, None])
def test_a_text_begins_with_bos_whatever_the_file_says(said: bool | None, tmp_path: Path) -> None:
    values = dict(vocabulary().values)
    del values["tokenizer.ggml.add_bos_token"]
    if said is not None:
        values["tokenizer.ggml.add_bos_token"] = said
    path = tmp_path / "m.gguf"
    write_vocabulary(path, Vocabulary(values, vocabulary().size))
    tokenizer = GgufTokenizer(read_header(path))
    with loaded(path, vocabulary_only=True) as model:
        ours = tokenizer.with_bos(tokenizer.encode(" the and"))
        assert ours == tokenize(model, " the and", parse_special=True)
    assert ours[0] == tokenizer.bos_id


def test_decoding_gives_the_text_back(pair: tuple[GgufTokenizer, Any]) -> None:
    tokenizer, _ = pair
    for text in (" the and", "naïve 日本 👍\n\n x", "a"):
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text
