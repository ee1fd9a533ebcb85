"""The tokens that are trained are those of TRL, which marks them in the template itself.

TRL takes what a template writes between `{% generation %}` and `{% endgeneration %}`. Its own
templates put line ends around an answer in there too: those no model is asked to write, since it
has stopped by then or the prompt has them already.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.records import Message
from llamaforge.data.templates import Template
from llamaforge.data.tool_calls import split_offer
from llamaforge.gguf.header import read_header
from llamaforge.gguf.tokenizer import GgufTokenizer
from tools.random_models import Vocabulary, write_vocabulary

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("LLAMAFORGE_VOCABS", ROOT.parent / "shared" / "vocab"))
TODAY = datetime(2026, 1, 1, tzinfo=UTC)
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
CHAT = (
    Message("user", "What is 12345 + 1?"),
    Message("assistant", "12346, naïvely — 日本 👍"),
    Message("user", "And then?\n\nTell me."),
    Message("assistant", "It goes on:\n\n- <|im_end|> is text\n- so is [/INST] </s>"),
)


@dataclass(frozen=True)
class Style:
    """A family's template, with `{% generation %}` around what the model writes itself."""

    vocabulary: str
    template: str
    trl: str
    """The name of TRL's own template for the family; empty where it has none."""
    may_differ: tuple[str, ...] = ("Ċ",)
    """What TRL's own template trains beside, as the vocabulary writes it."""


STYLES = {
    "chatml": Style(
        "qwen2",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "qwen2_5",
    ),
    "llama3": Style(
        "llama-bpe",
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}"
        "{% endgeneration %}{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "llama3",
        (),
    ),
    "gemma": Style(
        "gemma",
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'assistant' %}{{ '<start_of_turn>model\n' }}"
        "{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ '<start_of_turn>user\n' + m.content | trim + '<end_of_turn>\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "gemma",
    ),
    "phi3": Style(
        "phi-3",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "phi3",
        ("▁", "<|endoftext|>"),
    ),
    "mistral": Style(
        "llama-spm",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
        "{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}"
        "{% endfor %}",
        "",
    ),
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = Vocabulary.byte_level()
    tokens = [*plain.values["tokenizer.ggml.tokens"][:-3], *GEMMA_SPECIAL]
    first = len(tokens) - len(GEMMA_SPECIAL)
    values = plain.values | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * first + [3] * len(GEMMA_SPECIAL),
        "tokenizer.ggml.padding_token_id": first,
        "tokenizer.ggml.eos_token_id": first + 1,
        "tokenizer.ggml.bos_token_id": first + 2,
        "tokenizer.ggml.add_bos_token": True,
    }
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    return write_vocabulary(path, Vocabulary(values, len(tokens)))


@cache
def tokenizer_of(path: Path) -> GgufTokenizer:
    return GgufTokenizer(read_header(path))


@pytest.fixture(scope="module")
def tokenizers(gemma: Path) -> Callable[[str], GgufTokenizer]:
    def find(name: str) -> GgufTokenizer:
        path = gemma if name == "gemma" else FOLDER / f"ggml-vocab-{name}.gguf"
        if not path.exists():
            pytest.skip(f"{path.name} is not here; LLAMAFORGE_VOCABS names the folder")
        return tokenizer_of(path)

    return find


@cache
def peer_of(tokenizer: GgufTokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token=tokenizer.text_of(tokenizer.bos_id) or None,
        eos_token=tokenizer.text_of(tokenizer.eos_id) or None,
    )


def masked(
    tokenizer: GgufTokenizer, template: str, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """Return ids and mask as transformers gives them to TRL, with BOS where the file wants one."""
    tools, turns = split_offer(messages)
    found = peer_of(tokenizer).apply_chat_template(
        [
            {"role": turn.role, "content": turn.content}
            | ({"tool_calls": json.loads(turn.calls)} if turn.calls else {})
            for turn in turns
        ],
        tools=tools or None,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = list(found["input_ids"]), [bool(number) for number in found["assistant_masks"]]
    with_bos = tokenizer.with_bos(ids)
    return with_bos, [False] * (len(with_bos) - len(ids)) + mask


def plain(template: str) -> str:
    """Return a template without the marks, as a model's file has it."""
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def ours(
    tokenizer: GgufTokenizer, template: str, messages: Sequence[Message], **options: Any
) -> tuple[list[int], list[bool]]:
    chat = ChatRenderer(tokenizer, Template("file", plain(template)), TODAY)
    row = chat.encode(messages, **options)
    return row.ids, row.trained


def harmless(tokenizer: GgufTokenizer, messages: Sequence[Message]) -> list[Message]:
    """Return the conversation without control tokens' texts, which TRL would take for tokens."""
    special = re.compile("|".join(map(re.escape, tokenizer.special_ids)))
    return [Message(turn.role, special.sub("*", turn.content)) for turn in messages]


@pytest.mark.parametrize("name", STYLES)
def test_the_mask_is_that_of_the_marked_template(
    name: str, tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    style = STYLES[name]
    tokenizer = tokenizers(style.vocabulary)
    chat = harmless(tokenizer, CHAT)
    ids, mask = masked(tokenizer, style.template, chat)
    assert sum(mask) > 20
    assert ours(tokenizer, style.template, chat) == (ids, mask)


@pytest.mark.parametrize("name", [name for name in STYLES if STYLES[name].trl])
def test_the_mask_is_that_of_trls_own_template(
    name: str, tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    trl = pytest.importorskip("trl")

    style = STYLES[name]
    tokenizer = tokenizers(style.vocabulary)
    folder = Path(trl.__file__).parent / "chat_templates"
    marked = (folder / f"{style.trl}_training.jinja").read_text(encoding="utf-8")
    original = (folder / f"{style.trl}.jinja").read_text(encoding="utf-8")
    chat = harmless(tokenizer, CHAT)
    ids, mask = masked(tokenizer, marked, chat)
    found = ChatRenderer(tokenizer, Template("file", original), TODAY).encode(chat)
    assert found.ids == ids
    pairs = list(zip(ids, mask, found.trained, strict=True))
    assert not any(here and not there for _, there, here in pairs)
    beside = [number for number, there, here in pairs if there and not here]
    assert {tokenizer.text_of(number) for number in beside} == set(style.may_differ)
    assert len(beside) <= 2 * 2 + 1


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "n": 2}}}
WITH_TOOLS = (
    Message("tools", json.dumps([WEATHER])),
    Message("system", "Be brief."),
    Message("user", "Rain in Köln?"),
    Message("assistant", "", calls=json.dumps([CALL])),
    Message("tool", '{"sky": "rain"}'),
    Message("assistant", "It rains."),
    Message("user", "And now?"),
    Message("assistant", "I look again.", calls=json.dumps([CALL, CALL])),
)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507", "qwen3_vl"])
def test_the_mask_of_calls_is_that_of_trls_own_template(
    name: str, tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    trl = pytest.importorskip("trl")

    tokenizer = tokenizers("qwen2")
    folder = Path(trl.__file__).parent / "chat_templates"
    marked = (folder / f"{name}_training.jinja").read_text(encoding="utf-8")
    original = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    ids, mask = masked(tokenizer, marked, WITH_TOOLS)
    found = ChatRenderer(tokenizer, Template("file", original), TODAY).encode(WITH_TOOLS)
    assert found.ids == ids
    pairs = list(zip(ids, mask, found.trained, strict=True))
    assert not any(here and not there for _, there, here in pairs)
    beside = [tokenizer.text_of(number) for number, there, here in pairs if there and not here]
    assert set(beside) == {"Ċ"}
    assert len(beside) <= 3 * 2
    assert sum(found.trained) > 60


@pytest.mark.parametrize("name", STYLES)
def test_the_last_answer_alone_is_the_last_part_of_the_mask(
    name: str, tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    style = STYLES[name]
    tokenizer = tokenizers(style.vocabulary)
    chat = harmless(tokenizer, CHAT)
    ids, mask = masked(tokenizer, style.template, chat)
    first = len(masked(tokenizer, style.template, chat[:2])[0])
    only_last = [here and place >= first for place, here in enumerate(mask)]
    assert ours(tokenizer, style.template, chat, train_on="last") == (ids, only_last)


words = st.text(
    st.sampled_from("ab .,\n'{}é日👍0") | st.characters(exclude_categories=["Cs", "Cn", "Co"]),
    min_size=1,
    max_size=20,
).filter(lambda text: text.strip() == text and "\0" not in text)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=25, deadline=None)
@given(chat=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_the_masks_agree_on_any_conversation(
    name: str, chat: list[tuple[str, str]], tokenizers: Callable[[str], GgufTokenizer]
) -> None:
    style = STYLES[name]
    tokenizer = tokenizers(style.vocabulary)
    turns = [
        Message(role, text)
        for pair in chat
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    turns = harmless(tokenizer, turns)
    assert ours(tokenizer, style.template, turns) == masked(tokenizer, style.template, turns)
