"""With real vocabularies and templates: exactly the answers and their ends are trained."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.preview import Preview, PreviewToken, preview
from llamaforge.data.records import Message
from llamaforge.data.templates import Template
from llamaforge.gguf.tokenizer import GgufTokenizer
from tests.contract.tokens.test_masks_equal_trl import STYLES, TODAY, gemma, plain, tokenizers

__all__ = ["gemma", "tokenizers"]

BYTE_LEVEL = ("chatml", "llama3", "gemma")
SPELLED = ("<|im_end|>", "<|im_start|>", "<|eot_id|>", "</s>", "<s>", "<end_of_turn>", "<|end|>",
           "<|assistant|>", "[INST]", "<|begin_of_text|>")  # fmt: skip

texts = st.lists(
    st.sampled_from([*"ab .,1\n\té日👍'", *SPELLED])
    | st.characters(exclude_categories=["Cs", "Cn", "Co"], exclude_characters="\0\\"),
    min_size=1,
    max_size=12,
).map("".join).filter(lambda text: text == text.strip() != "")  # fmt: skip
chats = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def raw(token: PreviewToken) -> bytes:
    if token.whole:
        return token.text.encode()
    if token.start == token.stop or token.text == "▁":
        return b""  # BOS, or a space that the vocabulary adds

    def byte(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)])

    return re.sub(rb"\\x([0-9a-f]{2})", byte, token.text.encode())


def shown_of(
    name: str, chat: list[tuple[str, str]], tokenizer: GgufTokenizer
) -> tuple[Preview, list[Message]]:
    turns = [
        Message(role, text)
        for pair in chat
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    renderer = ChatRenderer(tokenizer, Template("file", plain(STYLES[name].template)), TODAY)
    return preview(turns, renderer, 100_000, most_tokens=100_000), turns


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=40, deadline=None)
@given(chat=chats)
def test_the_tokens_are_the_rendered_text(
    name: str, chat: list[tuple[str, str]], tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    tokenizer = tokenizers(STYLES[name].vocabulary)
    shown, _ = shown_of(name, chat, tokenizer)
    assert b"".join(map(raw, shown.tokens)).decode() == shown.text
    if name in BYTE_LEVEL:
        ids = [token.id for token in shown.tokens]
        bos = tokenizer.text_of(tokenizer.bos_id) if tokenizer.add_bos else ""
        decoded = tokenizer.decode(ids, skip_special=False)
        assert decoded == bos + shown.text.removeprefix(bos)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=40, deadline=None)
@given(chat=chats)
def test_no_content_makes_a_control_token_or_moves_the_mask(
    name: str, chat: list[tuple[str, str]], tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    tokenizer = tokenizers(STYLES[name].vocabulary)
    shown, turns = shown_of(name, chat, tokenizer)
    simple, _ = shown_of(name, [("x", "y")] * len(chat), tokenizer)
    assert [t.id for t in shown.tokens if t.special] == [t.id for t in simple.tokens if t.special]
    assert shown.trainable
    answers = [turn.content for turn in turns if turn.role == "assistant"]
    stretches = trained_stretches(shown)
    assert len(stretches) == len(answers)
    for tokens, answer in zip(stretches, answers, strict=True):
        assert tokens[-1].special
        assert tokens[-1].id in tokenizer.end_ids
        words = shown.text[tokens[0].start : tokens[-1].start]
        # A token may reach from the template's white space into the answer.
        assert words.lstrip() == answer
        assert len(words) - len(answer) <= tokens[0].stop - tokens[0].start


def trained_stretches(shown: Preview) -> list[list[PreviewToken]]:
    found: list[list[PreviewToken]] = []
    before = False
    for token in shown.tokens:
        if token.trained:
            found += [] if before else [[]]
            found[-1].append(token)
        before = token.trained
    return found
