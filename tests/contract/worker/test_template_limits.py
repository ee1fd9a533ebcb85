"""A chat template from outside costs a run its rows, and neither the night nor the machine."""

from datetime import UTC, datetime

import pytest

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.records import Message, RowError
from llamaforge.data.templates import CHATML, Template
from llamaforge.errors import InvalidFileError
from llamaforge.worker.limits import TemplateLimits
from tests.unit.chat.letters import Letters

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
CHAT = (Message("user", "Q"), Message("assistant", "A"))
SLOW = "{% for a in 'x' * 3000 %}{% for b in 'x' * 3000 %}{% for c in 'x' * 3000 %}{% endfor %}"
SLOW += "{% endfor %}{% endfor %}"


def renderer(text: str, seconds: float = 0.3) -> ChatRenderer:
    return ChatRenderer(Letters(), Template("file", text), TODAY, TemplateLimits(seconds))


def test_a_harmless_template_is_not_touched() -> None:
    found = renderer(CHATML).encode(CHAT)
    assert found == ChatRenderer(Letters(), Template("file", CHATML), TODAY).encode(CHAT)


def test_a_template_that_never_ends_is_given_up_after_a_few_rows() -> None:
    chat = renderer(SLOW)
    for _ in range(5):
        with pytest.raises(RowError, match=r"it takes more than 0\.3 seconds"):
            chat.render(CHAT)
    with pytest.raises(RowError, match=r"it took more than 0\.3 seconds for 5 rows"):
        chat.render(CHAT)


def test_a_template_that_takes_all_memory_is_refused() -> None:
    chat = renderer("{% set x = 'a' * 2000000000 %}{{ x | length }}", seconds=20)
    with pytest.raises(RowError, match="it asks for too much memory"):
        chat.render(CHAT)
    assert renderer(CHATML).render(CHAT)


def test_a_template_that_takes_too_long_to_compile_is_refused() -> None:
    with pytest.raises(InvalidFileError, match="The chat template cannot be read"):
        renderer("{{ " + "(" * 3_000 + ")" * 3_000 + " }}")
