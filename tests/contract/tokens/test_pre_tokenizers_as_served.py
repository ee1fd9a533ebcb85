"""Each pre-tokenizer cuts text where llama.cpp cuts it.

The vocabulary joins any two bytes, so that a cut at another place gives other tokens.
"""

import random
import struct
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.header import read_header
from llamaforge.gguf.pre_tokenizers import PRE_TOKENIZERS
from llamaforge.gguf.tokenizer import GgufTokenizer
from tools.random_models import Vocabulary, write_vocabulary

TEXTS = (
    "",
    " ",
    "  two  spaces  \n\n\t\r\n x",
    "Hello, world! It's 3.14159 o'clock — naïve café, WHY'LL I'd'VE they'Re don'T",
    "日本語のテキスト と 한국어 и русский ÉCOLE École straßE ΑΒΓαβγ हिन्दी বাংলা ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b\u202e x a\u0301 \u00e1 \ufb01 \u0007\u00a0\u3000z",
    "1234567890 12 345 6,789 ١٢٣٤ ½ ² Ⅷ x1y22z333a4444",
    "def f(x):\n    return x**2  # comment\n\n\n\tcamelCaseName XMLHttpRequest snake_case/**//\n/",
    '$100 + 5% = `a` <b> ~c^d|e {"k": [1, 2]} «q» “w” … ！，。 a.b !x\r\n\r\n !!\n',
)
LETTERS = "aZé Ñß日のहा\u0301ⅷ1٣½'’.,!$+`«€^\t\n\r \u00a0\u3000/_-sSlLtT"


@cache
def joining_vocabulary(pre: str, texts: tuple[str, ...] = ()) -> Vocabulary:
    """Return a vocabulary in which nearly any two bytes are a token, or all that `texts` have."""
    plain = Vocabulary.byte_level()
    alphabet = plain.values["tokenizer.ggml.tokens"][:256]
    ascii_part, rest = [*alphabet[:94], "Ġ", "Ċ", "ĉ", "č"], alphabet[94:]
    pairs = [a + b for part in (ascii_part, rest) for a in part for b in part]
    pairs += [a + b for a in ("Ġ", "'", "Ċ") for b in rest]
    if texts:
        letters = bytes_to_unicode()
        spelt = ["".join(letters[byte] for byte in text.encode()) for text in texts]
        pairs = [a + b for text in spelt for a, b in pairwise(text)]
    pairs = list(dict.fromkeys(pairs))
    random.Random(1).shuffle(pairs)
    longer = ["the", "1234", "abcd", "Ġcamel"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = alphabet + pairs + longer + special
    values = plain.values | {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 3) + [3] * 3,
        "tokenizer.ggml.merges": [f"{pair[0]} {pair[1]}" for pair in pairs],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
        "tokenizer.ggml.padding_token_id": len(tokens) - 3,
        "tokenizer.ggml.bos_token_id": len(tokens) - 3,
    }
    del values["tokenizer.ggml.add_bos_token"]
    return Vocabulary(values, len(tokens))


BYTE_LEVEL = sorted(name for name, pre in PRE_TOKENIZERS.items() if not pre.spaced)
"""The others are held against llama.cpp with a vocabulary of their kind, that of Gemma 4."""


def said(pre: str) -> bytes:
    """Return how a file says its pre-tokenizer."""
    key = b"tokenizer.ggml.pre"
    kind = struct.pack("<I", gguf.GGUFValueType.STRING)
    return key + kind + struct.pack("<Q", len(pre)) + pre.encode()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with the vocabulary, which takes long to write; pre-tokenizers take turns in it."""
    path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    return write_vocabulary(path, joining_vocabulary("default")).read_bytes()


@pytest.fixture(scope="module", params=BYTE_LEVEL)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, written: bytes
) -> Iterator[tuple[GgufTokenizer, Any]]:
    path: Path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    assert written.count(said("default")) == 1
    path.write_bytes(written.replace(said("default"), said(request.param)))
    with loaded(path, vocabulary_only=True) as model:
        yield GgufTokenizer(read_header(path)), model
    path.unlink()


def test_texts_of_many_scripts(pair: tuple[GgufTokenizer, Any]) -> None:
    tokenizer, model = pair
    for text in TEXTS:
        ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=False))
        assert ours == tokenize(model, text, parse_special=False), repr(text)


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(st.sampled_from(LETTERS), max_size=24)
    | st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0"), max_size=24)
)
def test_any_text(pair: tuple[GgufTokenizer, Any], text: str) -> None:
    tokenizer, model = pair
    ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=False))
    assert ours == tokenize(model, text, parse_special=False)
