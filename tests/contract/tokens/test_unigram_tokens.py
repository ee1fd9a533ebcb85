"""Unigram vocabularies: the ids are those of llama.cpp, whatever the text and the settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.gguf.unigram import replacements
from llamaforge.gguf.unigram_json import is_exact
from llamaforge.gguf.vocabulary import check_chat
from tools.random_models import Vocabulary, write_vocabulary
from tools.unigram_vocabularies import FORMS, packed_table, unigram

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"table": False},
    "table": {},
    "prefixed": {"add_space_prefix": True},
    "merged": {"add_space_prefix": True, "remove_extra_whitespaces": True},
    "merged only": {"remove_extra_whitespaces": True},
}
TEXTS = (
    "",
    " ",
    "hello the thing",
    "  two  spaces \t\n x ",
    "Ａ ａ ﬁ ① ½ ™ … e\u0301 ｶﾞｶ \u200b\u3000日本 日本語",
    "a b<extra_0>c <extra_1> <extra_9> <ex",
    "</s> <unk> <pad> [unused] ab cd <|im_start|>user<|im_end|>",
    "▁ ▁▁ the▁the \u2581",
    "🏳️‍🌈 д ß é \u0007 \U0010fffd3\U0010fffd",
    "1234567890 abcdefghijklmnop" * 4,
)


BROKEN_OFF = re.compile("<(e|extra)\u0301")
"""Where llama.cpp keeps letters as they are, since a token of the user's might begin there."""
PLAIN_TEXTS = st.text(st.sampled_from("abthe ▁\t<>x_0/s" + "".join(FORMS)), max_size=30) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GgufTokenizer, Any]]:
    path: Path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    write_vocabulary(path, unigram(**VARIANTS[request.param]))
    with loaded(path, vocabulary_only=True) as model:
        yield GgufTokenizer(read_header(path)), model
    path.unlink()


@pytest.mark.parametrize("parse_special", [True, False])
def test_nasty_texts(pair: tuple[GgufTokenizer, Any], parse_special: bool) -> None:
    tokenizer, model = pair
    for text in TEXTS:
        ours = tokenizer.with_bos(tokenizer.encode(text, parse_special=parse_special))
        assert ours == tokenize(model, text, parse_special=parse_special), repr(text)


@settings(max_examples=150, deadline=None)
@given(text=PLAIN_TEXTS)
def test_any_text(pair: tuple[GgufTokenizer, Any], text: str) -> None:
    tokenizer, model = pair
    assert tokenizer.encode(text) == tokenize(model, text, parse_special=True)
    ids, offsets = tokenizer.encode_with_offsets(text, parse_special=False)
    assert ids == tokenize(model, text, parse_special=False)
    assert len(offsets) == len(ids)
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert offsets == sorted(offsets)


def test_what_was_cut_is_joined_again(pair: tuple[GgufTokenizer, Any]) -> None:
    tokenizer, _ = pair
    for text in ("hello the thing", "日本 the 123"):
        assert tokenizer.decode(tokenizer.encode(text)).strip() == text
    ids = tokenizer.encode("a<|im_end|>")
    assert tokenizer.decode(ids, skip_special=False).endswith("a<|im_end|>")
    assert tokenizer.decode(ids).endswith("a")


def built(folder: Path, **changes: Any) -> GgufTokenizer:
    path = folder / "m.gguf"
    write_vocabulary(path, unigram(**changes))
    return GgufTokenizer(read_header(path))


def test_its_end_of_text_is_where_llama_cpp_has_it(tmp_path: Path) -> None:
    tokenizer = built(tmp_path)
    assert (tokenizer.eos_id, tokenizer.unknown_id, tokenizer.pad_id) == (1, 2, 0)
    assert 1 in tokenizer.end_ids
    assert not tokenizer.add_bos


@pytest.mark.parametrize("cut", [2, 40, 1000])
def test_a_table_that_is_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    table = unigram().values["tokenizer.ggml.precompiled_charsmap"][:cut]
    with pytest.raises(InvalidFileError, match="cut short"):
        built(tmp_path, precompiled_charsmap=table)


@pytest.fixture(scope="module")
def written(pair: tuple[GgufTokenizer, Any]) -> Tokenizer:
    """What transformers is given, read by its own library."""
    return Tokenizer.from_str(pair[0].to_json())


@settings(max_examples=100, deadline=None)
@given(text=st.sampled_from(TEXTS) | PLAIN_TEXTS)
@example(text="ａ\u0301")
@example(text="<ｅ")
def test_transformers_cuts_as_llama_cpp_does(
    pair: tuple[GgufTokenizer, Any], written: Tokenizer, text: str
) -> None:
    tokenizer, model = pair
    assume(not BROKEN_OFF.search(text))
    ids = tokenize(model, text, parse_special=True)
    assert written.encode(text).ids == ids, repr(text)
    assert written.decode(ids) == tokenizer.decode(ids)
    assert [written.id_to_token(number) for number in (0, 1, 2)] == tokenizer.tokens[:3]


def test_tokens_that_no_text_is_cut_into_are_still_read(tmp_path: Path) -> None:
    words = unigram()
    for key, value in (("tokens", "<0x41>"), ("token_type", 6), ("scores", 0.0)):
        words.values[f"tokenizer.ggml.{key}"].append(value)
    path = tmp_path / "m.gguf"
    write_vocabulary(path, Vocabulary(words.values, words.size + 1))
    tokenizer = GgufTokenizer(read_header(path))
    written = Tokenizer.from_str(tokenizer.to_json())
    assert written.encode("<0x41>").ids == tokenizer.encode("<0x41>")
    assert words.size not in tokenizer.encode("<0x41>")
    assert written.decode([words.size]) == tokenizer.decode([words.size]) == "A"


def header_with(folder: Path, forms: dict[str, str]) -> Header:
    path = folder / "m.gguf"
    write_vocabulary(path, unigram(precompiled_charsmap=packed_table(forms)))
    return read_header(path)


def test_a_large_table_is_left_to_the_library(tmp_path: Path) -> None:
    assert is_exact(header_with(tmp_path, {"zy": "c", "Ａ": "a"}))
    assert not is_exact(header_with(tmp_path, {"e\u0301": "é"})), "it can begin in <extra_0>"
    assert not is_exact(header_with(tmp_path, {"ａ": "ｂ", "ｂ": "c"})), "one takes up the other's"
    assert not is_exact(header_with(tmp_path, {"xy": "1", "yz": "2"})), "they can overlap"
    forms = {chr(0xFF01 + number): chr(0x21 + number) for number in range(94)}
    forms |= {chr(0x4E00 + number): chr(0x6000 + number) for number in range(200)}
    header = header_with(tmp_path, forms)
    assert replacements(header) == forms
    assert not is_exact(header)
    written = Tokenizer.from_str(GgufTokenizer(header).to_json())
    assert written.encode("ａｂ the １").ids == GgufTokenizer(header).encode("ａｂ the １")


def test_a_model_that_ends_every_prompt_does_not_chat(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for ends, refused in ((True, True), (False, False)):
        write_vocabulary(path, unigram(add_eos_token=ends))
        header = read_header(path)
        if refused:
            with pytest.raises(RefusedError, match="end-of-text token after every prompt"):
                check_chat(header)
        else:
            check_chat(header)
