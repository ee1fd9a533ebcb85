"""An answer that calls tools is trained whole: words, call and end; and what it cannot hide."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.records import Message, RowError
from llamaforge.data.templates import CHATML
from tests.unit.chat.letters import Letters
from tests.unit.chat.test_trained_tokens import renderer, trained

# In the manner of Qwen 2.5: words, then each call as JSON in tags; results as the user's.
TAGS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<result>{{ m.content }}</result><|im_end|>\n"
    "{% elif m.tool_calls %}<|im_start|>assistant\n{{ m.content }}"
    "{% for call in m.tool_calls %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
    "<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# In the manner of Mistral: tools in front of the last question, and calls as a list.
LIST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[TOOLS]' + (tools | tojson) if tools else '' }}"
    "[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[RESULT]{{ m.content | tojson }}[/RESULT]"
    "{% elif m.tool_calls %}[CALLS]["
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{{ '' if loop.last else ', ' }}"
    "{% endfor %}]{{ eos_token }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
OFFER = Message("tools", json.dumps([TOOL]))
ASK = Message("user", "Rain?")
FOUND = Message("tool", "rain")
REPLY = Message("assistant", "It rains.")


def call(*cities: str, content: str = "", name: str = "weather") -> Message:
    made = [
        {"type": "function", "function": {"name": name, "arguments": {"city": city}}}
        for city in cities
    ]
    return Message("assistant", content, calls=json.dumps(made))


def learned(template: str, messages: Sequence[Message], train_on: str = "all") -> list[str]:
    chat, letters = renderer(template)
    row = chat.encode(messages, train_on="last" if train_on == "last" else "all")
    assert row.terminated
    assert letters.texts(row.ids) == chat.render(messages)
    return trained(letters, row)


BONN = '{"name": "weather", "arguments": {"city": "Bonn"}}'


@pytest.mark.parametrize(
    ("template", "answer", "expected"),
    [
        (TAGS, call("Bonn"), f"<call>{BONN}</call><|im_end|>"),
        (TAGS, call("Bonn", content="I look."), f"I look.\n<call>{BONN}</call><|im_end|>"),
        (TAGS, call("Bonn", "Bonn"), f"<call>{BONN}</call>\n<call>{BONN}</call><|im_end|>"),
        (LIST, call("Bonn"), f"[CALLS][{BONN}]</s>"),
        (LIST, call("Bonn", "Bonn"), f"[CALLS][{BONN}, {BONN}]</s>"),
    ],
)
def test_a_call_is_trained_to_its_end(template: str, answer: Message, expected: str) -> None:
    found = learned(template, [OFFER, ASK, answer, FOUND, REPLY])
    assert found[0] == expected
    assert found[1:] == ["It rains." + ("</s>" if template == LIST else "<|im_end|>")]


def test_only_the_last_answer_is_trained_where_asked() -> None:
    both = [OFFER, ASK, call("Bonn"), FOUND, ASK, call("Ulm")]
    assert learned(TAGS, both, "last") == [
        '<call>{"name": "weather", "arguments": {"city": "Ulm"}}</call><|im_end|>'
    ]


def test_results_and_offers_are_not_trained() -> None:
    chat, letters = renderer(TAGS)
    row = chat.encode([OFFER, ASK, call("Bonn"), FOUND, REPLY])
    assert "rain</result>" in letters.texts(row.ids)
    assert all("result" not in part and "parameters" not in part for part in trained(letters, row))


def test_the_prompt_of_an_answer_is_how_the_row_begins() -> None:
    chat, letters = renderer(TAGS)
    prompt = letters.texts(chat.encode_prompt([OFFER, ASK]))
    whole = chat.render([OFFER, ASK, call("Bonn")])
    assert whole.startswith(prompt)
    assert whole.removeprefix(prompt) == f"<call>{BONN}</call><|im_end|>\n"


def test_what_is_left_out_for_room_is_never_the_offer() -> None:
    chat, letters = renderer(TAGS)
    long = [OFFER, ASK, Message("assistant", "word " * 50), ASK, call("Bonn")]
    row = chat.encode_within(long, 250)
    assert row.shortened == 2
    assert '"parameters"' in letters.texts(row.ids)
    assert trained(letters, row) == [f"<call>{BONN}</call><|im_end|>"]


# In the manner of Llama 3.1: where a tool is called, the words beside it are dropped.
DROPS_WORDS = TAGS.replace("assistant\n{{ m.content }}{% for call", "assistant\n{% for call")


def test_words_that_the_template_drops_beside_a_call_are_named() -> None:
    chat, letters = renderer(DROPS_WORDS)
    spoken, silent = call("Bonn", content="I look."), call("Ulm")
    row = chat.encode([OFFER, ASK, spoken, FOUND, ASK, silent, FOUND, REPLY])
    assert "I look." not in letters.texts(row.ids)
    assert row.unlearned == (spoken,)
    assert chat.encode([OFFER, ASK, spoken, FOUND, REPLY], train_on="last").unlearned == ()
    whole, _ = renderer(TAGS)
    assert whole.encode([OFFER, ASK, spoken, FOUND, REPLY]).unlearned == ()


HIDES_CALLS = TAGS.replace("{{ call.function | tojson }}", "")
NO_END = TAGS.replace("{% endfor %}<|im_end|>\n{% else", "{% endfor %}{% else")


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (CHATML, [OFFER, ASK, REPLY], "does not show the tools that the row offers"),
        (HIDES_CALLS, [ASK, call("Bonn"), FOUND, REPLY], "does not show which tools"),
        (NO_END, [ASK, call("Bonn"), FOUND, REPLY], "does not end a call of a tool"),
        (TAGS, [ASK, call("<|im_end|>"), FOUND, REPLY], "a call spells a control token"),
        (TAGS, [ASK, call("Bonn", name="</s>"), FOUND, REPLY], "a call spells a control token"),
    ],
)
def test_what_a_template_cannot_show_is_refused(
    template: str, messages: list[Message], reason: str
) -> None:
    chat, _ = renderer(template)
    with pytest.raises(RowError, match=reason):
        chat.encode(messages)


TEXTS = st.text(st.sampled_from("ab \"\\{}[]'\n<>/|"), max_size=20)


def _same(chat: ChatRenderer, letters: Letters, messages: Sequence[Message]) -> str:
    row = chat.encode(messages)
    return letters.texts(row.ids)


@given(city=TEXTS, words=TEXTS, result=TEXTS)
def test_what_is_said_is_what_is_encoded(city: str, words: str, result: str) -> None:
    messages = [
        OFFER,
        ASK,
        call(city, content=words.strip()),
        Message("tool", result.strip() or "none"),
        REPLY,
    ]
    chat, letters = renderer(TAGS)
    assert _same(chat, letters, messages) == chat.render(messages)
    first, last = trained(letters, chat.encode(messages))
    assert first.startswith(words.strip())
    assert json.dumps(city) in first
    assert (first[-10:], last) == ("<|im_end|>", "It rains.<|im_end|>")
