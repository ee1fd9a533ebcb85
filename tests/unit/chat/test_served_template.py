"""Where Ollama's template writes another prompt than training, the first difference is named."""

from datetime import UTC, datetime

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.records import Message
from llamaforge.data.served_template import SAMPLE, compare_templates, first_difference
from llamaforge.data.templates import CHATML, Template
from tests.unit.chat.letters import Letters
from tests.unit.chat.test_go_template import CHATML as GO_CHATML
from tests.unit.chat.test_go_template import CHATML_BY_EXCHANGE

NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def renderer(text: str = CHATML) -> ChatRenderer:
    return ChatRenderer(Letters(), Template("file", text), datetime(2026, 1, 1, tzinfo=UTC))


def test_templates_that_write_the_same() -> None:
    for text in (GO_CHATML, CHATML_BY_EXCHANGE):
        found = compare_templates(renderer(), text)
        assert (found.state, found.first_difference) == ("same", None)
        assert found.trained == found.served == renderer().render(SAMPLE, generation_prompt=True)


def test_the_first_character_that_differs_is_named() -> None:
    found = compare_templates(renderer(), GO_CHATML.replace("<|im_end|>\n", "<|im_end|>"))
    assert found.state == "different"
    place = found.first_difference
    assert place is not None
    assert found.trained[:place] == found.served[:place]
    assert found.trained[:place].endswith("sentence.<|im_end|>")
    assert (found.trained[place], found.served[place]) == ("\n", "<")


def test_a_text_that_is_how_the_other_begins_differs_at_its_end() -> None:
    assert first_difference("ab", "abc") == 2
    assert first_difference("abc", "ab") == 2
    assert first_difference("", "x") == 0
    assert first_difference("same", "same") is None


def test_bos_counts_on_neither_side() -> None:
    jinja = "{{ bos_token }}" + CHATML
    assert compare_templates(renderer(jinja), GO_CHATML).state == "same"
    assert compare_templates(renderer(), "<s>" + GO_CHATML).state == "same"


def test_a_system_message_that_the_template_refuses_is_left_out_of_both() -> None:
    found = compare_templates(renderer(NO_SYSTEM), GO_CHATML)
    assert (found.state, found.left_out) == ("same", ("system",))


def test_ollamas_own_system_text_is_in_front_of_a_chat_that_has_none() -> None:
    found = compare_templates(renderer(), GO_CHATML, messages=SAMPLE[1:], own_system="Be kind.")
    assert found.state == "different"
    assert "Be kind." in found.served
    assert "Be kind." not in found.trained
    assert compare_templates(renderer(), GO_CHATML, own_system="Be kind.").state == "same"


def test_the_last_answer_is_not_part_of_a_prompt() -> None:
    turns = [*SAMPLE, Message("assistant", "It is Madrid.")]
    found = compare_templates(renderer(), GO_CHATML, messages=turns)
    assert "Madrid" not in found.trained
    assert found.state == "same"


def test_what_cannot_be_compared_is_said() -> None:
    cases = {
        "{{ define `x` }}{{ end }}": "define",
        "{{ range .Messages": "cut off",
    }
    for text, said in cases.items():
        found = compare_templates(renderer(), text)
        assert (found.state, said in found.reason) == ("not_compared", True)
        assert found.first_difference is None
    built_in = compare_templates(renderer(), GO_CHATML, built_in="gptoss\x1b[1m")
    assert built_in.state == "not_compared"
    assert "gptoss\\x1b[1m" in built_in.reason
    assert compare_templates(renderer(), None).state == "no_template"
    refused = compare_templates(renderer("{{ raise_exception('never') }}"), GO_CHATML)
    assert (refused.state, "never" in refused.reason) == ("not_compared", True)


def test_a_row_with_tools_is_not_compared() -> None:
    turns = [Message("tools", '[{"function": {"name": "f"}}]'), *SAMPLE]
    found = compare_templates(renderer(), GO_CHATML, messages=turns)
    assert (found.state, "has no place for them" in found.reason) == ("not_compared", True)
    placed = compare_templates(renderer(), GO_CHATML + "{{ .Tools }}", messages=turns)
    assert (placed.state, "not rendered here" in placed.reason) == ("not_compared", True)
