"""Answers in words, as a person would say or type them."""

import shlex
from typing import Any

from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Kind, Question


def said(question: Question, draft: Draft, facts: Facts) -> str:
    """Return an answer as a person would say it: of a choice, its title."""
    answer = getattr(draft, question.key)
    if question.kind is Kind.CHOICE and answer and question.key != "model":
        options = question.options(draft, facts)
        title = next((option.title for option in options if option.value == answer), str(answer))
        return title.partition(" (")[0]
    return words_of(question, answer)


def words_of(question: Question, answer: Any) -> str:
    """Return an answer as it is typed."""
    if question.kind is Kind.SOURCES:
        return shlex.join(answer) if answer else ""
    if question.kind is Kind.LINES:
        return "; ".join(answer or ())
    if question.key == "settings":
        return " ".join(f"{key}={value}" for key, value in dict(answer or {}).items())
    if isinstance(answer, bool):
        return "yes" if answer else ""
    return str(answer or "")
