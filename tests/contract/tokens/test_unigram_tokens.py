"""Unigram vocabularies: the ids are those of llama.cpp, whatever the text and the settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.evaluation.llama import loaded, tokenize
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from llamaforge.gguf.vocabulary import check_chat
from tools.random_models import write_vocabulary
from tools.unigram_vocabularies import FORMS, unigram

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
@given(
    text=st.text(st.sampled_from("abthe ▁\t<>x_0/s" + "".join(FORMS)), max_size=30)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
)
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


def test_transformers_gets_no_tokenizer_that_cuts_otherwise(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="Unigram"):
        built(tmp_path).to_json()


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
