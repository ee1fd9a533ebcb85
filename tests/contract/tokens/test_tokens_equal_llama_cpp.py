"""Token ids are those of llama.cpp, on its own test vectors, on nasty texts and on whole chats."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.records import Message
from llamaforge.data.templates import CHATML, LLAMA3, PLAIN, Template
from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from tools.random_models import Shape, Vocabulary, write_random_model

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("LLAMAFORGE_VOCABS", ROOT.parent / "shared" / "vocab"))
NAMES = ("llama-spm", "llama-bpe", "qwen2", "phi-3")
PHI_3_LAST = "[PAD32063]"
SEPARATOR = "\n__ggml_vocab_test__\n"
TEXTS = (
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t\r\n",
    "Hello, world! It's 3.14159 o'clock — naïve café",
    "日本語のテキスト と 한국어 и русский",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b\u202e x",
    "a\u0301 \u00e1 \ufb01 \u0000 \u0007",
    "1234567890 12 345 6,789",
    "<|im_start|>system<|im_end|> </s> <s> <|eot_id|> [INST]",
    "def f(x):\n    return x**2  # comment\n",
    "WHY'LL I'd'VE they'Re",
    "x" * 500,
)


def vocabulary(name: str) -> Path:
    path = FOLDER / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here; LLAMAFORGE_VOCABS names the folder")
    return path


@cache
def tokenizer_of(path: Path) -> GgufTokenizer:
    return GgufTokenizer(read_header(path))


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[GgufTokenizer, Any]]:
    path = vocabulary(request.param)
    with loaded(path, vocabulary_only=True) as model:
        yield tokenizer_of(path), model


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabularies_own_vectors(name: str) -> None:
    path = vocabulary(name)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    expected = [[int(number) for number in line.split()] for line in lines]
    texts = texts[: len(expected)]
    assert len(texts) > 40
    tokenizer = tokenizer_of(path)
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, parse_special=False) == ids, repr(text)


@pytest.mark.parametrize("parse_special", [True, False])
def test_nasty_texts(pair: tuple[GgufTokenizer, Any], parse_special: bool) -> None:
    tokenizer, model = pair
    for text in TEXTS:
        if tokenizer.tokens[-1] == PHI_3_LAST and parse_special and "</s>" in text:
            continue  # llama.cpp drops spaces after some of this family's tokens
        ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=parse_special))
        assert ours == tokenize(model, text, parse_special=parse_special), repr(text)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_text(pair: tuple[GgufTokenizer, Any], text: str) -> None:
    tokenizer, model = pair
    ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=False))
    assert ours == tokenize(model, text, parse_special=False)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, PLAIN])
def test_a_whole_conversation(pair: tuple[GgufTokenizer, Any], template: str) -> None:
    tokenizer, model = pair
    chat = ChatRenderer(tokenizer, Template("given", template), datetime(2026, 1, 1, tzinfo=UTC))
    turns = [
        Message("system", "Be brief. "),
        Message("user", " What's 12345 + 1?\n"),
        Message("assistant", "12346, naïvely — 日本 👍"),
        Message("user", "x"),
        Message("assistant", "\ty"),
    ]
    text = chat.render(turns)
    bos = tokenizer.text_of(tokenizer.bos_id)
    if tokenizer.add_bos and text.startswith(bos):
        text = text[len(bos) :]
    assert chat.encode(turns).ids == tokenize(model, text, parse_special=True)


def test_decoding_gives_the_text_back(pair: tuple[GgufTokenizer, Any]) -> None:
    tokenizer, _ = pair
    for text in TEXTS[4:9]:
        decoded = tokenizer.decode(tokenizer.encode(text, parse_special=False))
        assert decoded == text, repr(text)


def test_a_small_vocabulary_of_bytes(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", Shape(), Vocabulary.byte_level())
    tokenizer = tokenizer_of(path)
    with loaded(path, vocabulary_only=True) as model:
        for text in TEXTS:
            for parse_special in (True, False):
                ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=parse_special))
                assert ours == tokenize(model, text, parse_special=parse_special), repr(text)
