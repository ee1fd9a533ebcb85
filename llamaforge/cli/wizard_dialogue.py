"""Asking a person at a terminal line by line, with questionary."""

from pathlib import Path
from typing import Any, Final

import questionary

from llamaforge.cli.output import narrate, narrate_folded
from llamaforge.errors import UsageError
from llamaforge.safe_text import safe_line
from llamaforge.wizard.draft import Draft, kept_drafts
from llamaforge.wizard.effects import effect_words
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Kind, Question
from llamaforge.wizard.questions import advice_for, places
from llamaforge.wizard.settings import SETTINGS, value_words

_WIDTH: Final = 74
"""Characters of a line of a menu in a terminal of 80."""


class Dialogue:
    """What is asked while the recipe is made; every method waits for the person."""

    def offered(self, draft: Draft) -> Draft:
        """Return the draft to begin with: one that was left behind, if the person wants it."""
        kept = [item for item in kept_drafts() if item.store == draft.store]
        if not kept or draft != Draft(store=draft.store):
            return draft
        choices = [
            questionary.Choice(
                safe_line(f"{item.model or 'no model yet'} with {_rows_of(item)}", limit=_WIDTH),
                value=number,
            )
            for number, item in enumerate(kept)
        ]
        choices.append(questionary.Choice("No, begin anew", value=len(kept)))
        title = "Go on with what you answered before?"
        number = self._answer("select", title, choices=choices)
        return kept[number] if number < len(kept) else draft

    def ask(self, question: Question, draft: Draft, facts: Facts) -> Any:
        """Return a person's answer that nothing speaks against."""
        for label, text in question.known(draft, facts):
            narrate_folded(f"{label:<13}{text}", indent=2)
        while True:
            if question.kind in {Kind.CHOICE, Kind.COLUMNS}:
                answer: Any = self._choice(question, draft, facts)
            elif question.kind is Kind.YES_NO:
                answer = self._answer(
                    "confirm", question.title, default=bool(question.default(draft, facts))
                )
            elif question.kind is Kind.LINES:
                answer = self._lines(question, draft, facts)
            else:
                narrate_folded(question.help, indent=2)
                if question.kind is Kind.SETTINGS:
                    narrate("  Such as learning_rate=1e-4 seed=7; ? lists them; Enter keeps all.")
                asks = "path" if question.kind is Kind.SOURCES else "text"
                answer = self._answer(asks, question.title)
                if question.kind is Kind.SOURCES:
                    answer = places(answer)
                if question.kind is Kind.SETTINGS and answer == "?":
                    _list_settings(draft, facts)
                    continue
            problem = question.problem(answer, draft, facts)
            if not problem and (answer or question.is_optional or answer is False):
                return answer
            narrate_folded(problem or "This one is needed.")

    def _lines(self, question: Question, draft: Draft, facts: Facts) -> tuple[str, ...]:
        narrate_folded(f"{question.help} Enter alone goes on.", indent=2)
        proposed = [option.value for option in question.options(draft, facts)]
        for text in proposed:
            narrate_folded(f"Such as: {safe_line(text, limit=120)}", indent=2)
        found: list[str] = []
        while text := self._answer("text", f"{question.title} ({len(found)} so far)"):
            found.append(text)
        return tuple(found)

    def agrees(self, words: str, *, default: bool) -> bool:
        """Return whether the person says yes to `words`."""
        return bool(self._answer("confirm", safe_line(words, limit=200), default=default))

    def _choice(self, question: Question, draft: Draft, facts: Facts) -> str:
        options = question.options(draft, facts)
        if question.kind is Kind.CHOICE and all(option.refusal for option in options):
            raise UsageError(
                "There is nothing to choose: no model can be trained.",
                "Pull one with: ollama pull qwen2.5:3b, or try: llamaforge demo",
                code="no_models",
            )
        is_told = any(len(f"{o.title}  {o.refusal or o.explanation}") > _WIDTH for o in options)
        if is_told:  # the menu would cut them
            for option in options:
                why = f"not possible: {option.refusal}" if option.refusal else option.explanation
                narrate_folded(f"{option.title}: {why}", indent=2)
        choices = [
            questionary.Choice(
                option.title if is_told else f"{option.title}  {option.explanation}".rstrip(),
                value=option.value,
                disabled="not possible" if is_told and option.refusal else option.refusal or None,
            )
            for option in options
        ]
        if question.kind is Kind.COLUMNS:
            choices.append(questionary.Choice("Something else: write it", value=""))
        usual = question.default(draft, facts)
        answer = self._answer("select", question.title, choices=choices, default=usual or None)
        if not answer and question.kind is Kind.COLUMNS:
            narrate("  Such as: prompt=question,completion=answer")
            answer = self._answer("text", question.title)
        return str(answer)

    @staticmethod
    def _answer(kind: str, title: str, **more: Any) -> Any:

        answer = getattr(questionary, kind)(title, **more).unsafe_ask()
        return answer.strip() if isinstance(answer, str) else answer


def _list_settings(draft: Draft, facts: Facts) -> None:
    """Print every setting with its value, its bounds and what it costs."""
    recipe = draft.recipe(advice_for(draft, facts))
    for setting in SETTINGS:
        value = safe_line(value_words(setting.value(recipe)), limit=60) or "–"
        narrate(
            f"{setting.key} = {value}   ({' '.join(filter(None, (setting.bounds, setting.unit)))})"
        )
        narrate_folded(f"{setting.help} Larger: {setting.cost}.", indent=4)
    narrate_folded(f"As it stands, {safe_line(effect_words(draft, facts), limit=300)}.")


def _rows_of(draft: Draft) -> str:
    """Return the rows of a draft in a few words."""
    first, *others = draft.sources or ("no rows yet",)
    return f"{Path(first).name} and {len(others)} more" if others else Path(first).name
