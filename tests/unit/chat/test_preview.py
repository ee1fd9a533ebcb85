"""A preview shows every token of a row, which are trained, and why a row is not."""

import json
import re
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.data.chat import ChatRenderer
from llamaforge.data.preview import Preview, from_body, preview, to_body
from llamaforge.data.records import Message
from llamaforge.data.templates import CHATML, LLAMA3, PLAIN, Template
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from tests.unit.chat.letters import Letters

TODAY = datetime(2026, 1, 2, tzinfo=UTC)
CHAT = (
    Message("system", "Be brief."),
    Message("user", "Hi there"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
    Message("assistant", "So long"),
)


@cache
def demo_tokenizer() -> GgufTokenizer:
    blob = Store.open(paths.embedded_store()).models()[0].blob
    assert blob is not None
    return GgufTokenizer(read_header(blob))


def letters(text: str = CHATML, *, add_bos: bool = False) -> ChatRenderer:
    return ChatRenderer(Letters(add_bos=add_bos), Template("given", text), TODAY)


def demo(text: str = CHATML) -> ChatRenderer:
    return ChatRenderer(demo_tokenizer(), Template("given", text), TODAY)


def codes(shown: Preview) -> list[tuple[str, str]]:
    return [(item.level, item.code) for item in shown.problems]


def test_the_tokens_are_the_text() -> None:
    shown = preview(CHAT, demo(), 1000, source="a.jsonl", row=7)
    assert "".join(token.text for token in shown.tokens) == shown.text
    assert shown.text == demo().render(CHAT)
    for token in shown.tokens:
        assert token.whole
        assert shown.text[token.start : token.stop] == token.text
    trained = "".join(token.text for token in shown.tokens if token.trained)
    assert trained == "Hello<|im_end|>So long<|im_end|>"
    assert shown.trained_count == sum(token.trained for token in shown.tokens)
    assert (shown.source, shown.row, shown.problems) == ("a.jsonl", 7, ())
    assert shown.trainable
    assert not shown.truncated


def test_what_a_content_spells_is_no_control_token() -> None:
    shown = preview((Message("user", "<|im_end|>"), CHAT[2]), demo(), 1000)
    special = [token.text for token in shown.tokens if token.special]
    assert special == ["<|im_start|>", "<|im_end|>"] * 2
    assert codes(shown) == [("note", "control_text")]
    assert shown.trainable


def test_a_token_that_is_a_part_of_a_character_shows_its_bytes() -> None:
    shown = preview((Message("user", "a👍b"), Message("assistant", "ok")), demo(), 1000)
    parts = [token for token in shown.tokens if not token.whole]
    assert "".join(token.text for token in parts) == "\\xf0\\x9f\\x91\\x8d"
    assert {shown.text[token.start : token.stop] for token in parts} == {"👍"}


def test_bos_that_only_the_tokenizer_adds_comes_first_and_stands_for_no_text() -> None:
    shown = preview(CHAT, letters(add_bos=True), 1000)
    first = shown.tokens[0]
    assert (first.text, first.start, first.stop, first.special) == ("<s>", 0, 0, True)
    assert "".join(token.text for token in shown.tokens[1:]) == shown.text


def test_what_is_left_out_of_a_long_row_is_listed() -> None:
    length = preview(CHAT, letters(), 1000).token_count
    shown = preview(CHAT, letters(), length - 1)
    assert shown.left_out == CHAT[1:3]
    assert shown.shortened == 2
    assert codes(shown) == [("note", "shortened")]
    assert "Hello" not in shown.text
    assert "Be brief." in shown.text
    assert shown.trainable
    assert shown.truncated


def test_a_row_that_is_too_long_is_shown_and_not_trained() -> None:
    shown = preview(CHAT, letters(), 10)
    assert ("error", "too_long") in codes(shown)
    assert "So long" in shown.text
    assert not shown.trainable
    assert shown.truncated


@pytest.mark.parametrize(
    ("text", "code", "has_tokens"),
    [
        ("{{ raise_exception('no') }}", "refused", False),
        ("{% for m in messages %}{{ m.role }}<|eot|>{% endfor %}", "no_trained_token", True),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "untrained_end", True),
    ],
)
def test_the_reason_why_a_row_is_not_trained(text: str, code: str, has_tokens: bool) -> None:
    shown = preview(CHAT, letters(text), 1000)
    assert codes(shown) == [("error", code)]
    assert bool(shown.tokens) is has_tokens
    assert not shown.trainable


def test_a_conversation_without_an_answer_has_nothing_to_train() -> None:
    assert codes(preview(CHAT[:2], letters(), 1000)) == [("error", "no_trained_token")]


def test_answers_that_the_template_hides_are_counted() -> None:
    text = (
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}"
        "<|a|>{{ m.role }}\n{{ m.content }}<|eot|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|a|>assistant\n{% endif %}"
    )
    shown = preview(CHAT, letters(text), 1000)
    assert codes(shown) == [("note", "answers_left_out")]
    assert "1 earlier answer," in shown.problems[0].message
    last = preview(CHAT, letters(text), 1000, train_on="last")
    assert codes(last) == []


def test_a_long_row_is_shown_in_part_and_counted_whole() -> None:
    whole = preview(CHAT, letters(), 1000)
    shown = preview(CHAT, letters(), 1000, most_tokens=10)
    assert shown.tokens == whole.tokens[:10]
    assert (shown.token_count, shown.trained_count) == (whole.token_count, whole.trained_count)
    assert shown.text == "".join(token.text for token in shown.tokens)
    assert codes(shown) == [("note", "cut_preview")]


def test_a_preview_travels_as_json() -> None:
    shown = preview(CHAT, letters(), preview(CHAT, letters(), 1000).token_count - 1)
    assert shown.left_out
    assert from_body(json.loads(json.dumps(to_body(shown)))) == shown


texts = st.lists(
    st.sampled_from([*"ab \n\té<>|日👍\u202e", "<|im_end|>", "<|im_start|>", "the ", "Ġ", "▁"])
    | st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\\"),
    max_size=12,
).map("".join)


def raw(shown: Preview) -> bytes:
    """Return the bytes of all tokens, one after the other."""

    def byte(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)])

    return b"".join(
        token.text.encode()
        if token.whole
        else re.sub(rb"\\x([0-9a-f]{2})", byte, token.text.encode())
        for token in shown.tokens
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.sampled_from([CHATML, PLAIN]))
def test_every_byte_of_any_row_is_shown_once(chat: list[tuple[str, str]], text: str) -> None:
    turns = [
        Message(role, content)
        for pair in chat
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    shown = preview(turns, demo(text), 10_000)
    assert raw(shown).decode() == shown.text == demo(text).render(turns)
    assert [token.id for token in shown.tokens] == demo(text).encode(turns).ids


@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_the_mask_covers_the_answers_and_their_ends(template: str) -> None:
    shown = preview(CHAT, demo(template), 1000)
    for answer in ("Hello", "So long"):
        start = shown.text.index(answer)
        inside = [t for t in shown.tokens if start <= t.start < start + len(answer)]
        assert inside
        assert all(token.trained for token in inside)
