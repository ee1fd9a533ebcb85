"""What a question of the wizard is, whatever asks it: a screen or a line in a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts


class Kind(StrEnum):
    """How a question is answered."""

    CHOICE = "choice"
    TEXT = "text"
    SOURCES = "sources"
    """Places of data, one or more."""
    COLUMNS = "columns"
    """What the columns of rows are: a choice, or a mapping written by hand."""
    SETTINGS = "settings"
    """Settings of the recipe that are changed."""
    LINES = "lines"
    """Several short texts."""
    YES_NO = "yes_no"


@dataclass(frozen=True)
class Option:
    """One answer to choose."""

    value: str
    title: str
    explanation: str = ""
    refusal: str = ""
    """Why it cannot be chosen; empty where it can."""


def _always(draft: Draft, facts: Facts) -> bool:
    del draft, facts
    return True


@dataclass(frozen=True)
class Question:
    """One thing that is asked."""

    key: str
    """The attribute of the draft that takes the answer."""
    flag: str
    """The option that gives it on the command line."""
    title: str
    help: str
    """A sentence for somebody who hears of it for the first time."""
    kind: Kind
    options: Callable[[Draft, Facts], list[Option]] = lambda draft, facts: []
    default: Callable[[Draft, Facts], Any] = lambda draft, facts: ""
    problem: Callable[[Any, Draft, Facts], str] = lambda answer, draft, facts: ""
    """What speaks against an answer, in one sentence; empty where nothing does."""
    applies: Callable[[Draft, Facts], bool] = _always
    known: Callable[[Draft, Facts], Sequence[tuple[str, str]]] = lambda draft, facts: ()
    """What is shown beside it, as label and value; safe to print."""
    needs: str = ""
    """What has to be looked at before it is asked, a name of `looking.LOOKS`."""
    looks: str = ""
    """What is looked at once it is answered."""
    judged: Callable[[Draft, Facts], str] = lambda draft, facts: ""
    """What speaks against the answer after that was looked at; empty where nothing does."""
    is_optional: bool = False


@dataclass(frozen=True)
class Step:
    """Some questions that belong together."""

    key: str
    title: str
    purpose: str
    questions: tuple[Question, ...]
