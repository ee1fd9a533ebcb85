"""What a person changes on the way is taken along, or left out in words."""

from collections.abc import Callable
from typing import Any

import pytest

from llamaforge.cli import wizard_end
from llamaforge.cli.wizard_end import mended
from llamaforge.errors import LlamaForgeError
from llamaforge.wizard.checks import Check, Fix
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.question import Question
from llamaforge.wizard.questions import STEPS, taken
from tests.unit.wizard.test_drafts import FACTS

DRAFT = Draft(model="m", sources=("/a.csv",), map="prompt=x,completion=y", goal="style",
              preset="quick")  # fmt: skip


class Person:
    """Says the same to every question, and remembers what was asked."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def agrees(self, words: str, *, default: bool) -> bool:
        del default
        self.asked.append(words)
        return self.answer


FOUND = [
    Check("Rows", "fail", "Some are broken.", fix=Fix("Leave them out", {"map": ""})),
    Check("Disk", "warn", "It is nearly full.", fix=Fix("Take rank 4", {"settings": {}})),
    Check("Time", "pass", "A minute.", fix=Fix("Nothing", {})),
]


def test_a_way_out_is_taken_or_declined_once() -> None:
    declined: set[str] = set()
    found = mended(DRAFT, FOUND, Person(True), declined)  # type: ignore[arg-type]
    assert found is not None
    assert found.map == ""
    person = Person(False)
    assert mended(DRAFT, FOUND, person, declined) is None  # type: ignore[arg-type]
    assert person.asked == ["Rows: Leave them out?", "Disk: Take rank 4?"]
    again = Person(True)
    assert mended(DRAFT, FOUND, again, declined) is None  # type: ignore[arg-type]
    assert not again.asked


def _fails(*_: Any, **__: Any) -> bool:
    raise LlamaForgeError("The Hub does not answer.", "Try later.")


@pytest.mark.parametrize(
    ("fetch", "goes_on"), [(lambda *_, **__: True, True), (lambda *_, **__: False, False),
                           (_fails, False)]
)  # fmt: skip
def test_weights_are_fetched_where_the_person_agrees(
    fetch: Callable[..., bool], goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wizard_end, "fetch", fetch)
    found = [Check("Weights", "fail", "Not here.", fix=Fix("Download it", {}, fetches="a/b"))]
    person = Person(False)
    assert (mended(DRAFT, found, person, set()) == DRAFT) is goes_on  # type: ignore[arg-type]
    assert not person.asked, "fetching asks for itself, with what it takes"


def test_settings_that_no_longer_fit_are_left_out_by_name() -> None:
    draft = DRAFT.with_answers(settings={"lora_r": "8", "beta": "0.2", "use_dora": "true"})
    fit, left_out = draft.fitting(())
    assert fit.settings == {"lora_r": "8"}
    assert left_out == ("beta=0.2", "use_dora=true")
    fit.recipe(())
    both = draft.with_answers(base="hub", settings={"method": "dpo", "beta": "0.2"})
    assert both.fitting(()) == (both, ())


def question(key: str) -> Question:
    return next(item for step in STEPS for item in step.questions if item.key == key)


def test_what_columns_are_is_forgotten_with_the_rows_it_was_said_of() -> None:
    more = taken(question("sources"), ("/a.csv", "/b.csv"), DRAFT, FACTS)
    assert DRAFT.with_answers(**more).map == DRAFT.map
    other = taken(question("sources"), ("/b.csv",), DRAFT, FACTS)
    assert DRAFT.with_answers(**other).map == ""
