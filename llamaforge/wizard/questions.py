"""The questions of the wizard, one after the other: the plain one and the screens ask the same."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.names import parse_name
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import check_run_name
from llamaforge.safe_text import safe_line
from llamaforge.wizard.draft import NO_TRAINING, Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.presets import GOALS, PRESETS, advise, goal_of, preset_of
from llamaforge.words import count_words, size_words

_FEW_ROWS: Final = 50
_LEAST_MEMORY: Final = 1_500_000_000
"""Bytes that training takes beside the model's file, at the least."""


class Kind(StrEnum):
    """How a question is answered."""

    CHOICE = "choice"
    TEXT = "text"
    SOURCES = "sources"
    """Places of data, one or more."""
    YES_NO = "yes_no"


@dataclass(frozen=True)
class Option:
    """One answer to choose."""

    value: str
    title: str
    explanation: str = ""
    refusal: str = ""
    """Why it cannot be chosen; empty where it can."""


Words = Callable[[Draft, Facts], str]


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
    applies: Callable[[Draft, Facts], bool] = lambda draft, facts: True
    is_optional: bool = False


@dataclass(frozen=True)
class Step:
    """Some questions that belong together."""

    key: str
    title: str
    purpose: str
    questions: tuple[Question, ...]


def _models(draft: Draft, facts: Facts) -> list[Option]:
    del draft
    options = []
    for model in facts.models:
        size = f"{count_words(model.parameter_count)} {model.quantization}".strip()
        needed = model.size_bytes * 1.3 + 1.5e9
        fits = (
            "" if needed < facts.machine.memory else f"needs about {size_words(needed)} of memory"
        )
        words = f"{size}, {size_words(model.size_bytes)}" + (f"; {fits}" if fits else "")
        options.append(Option(model.name, safe_line(model.name), words, safe_line(model.reason)))
    return sorted(options, key=lambda option: bool(option.refusal))


def _model_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft
    model = facts.model(str(answer))
    if model is None:
        return f"There is no model {safe_line(str(answer), limit=60)}."
    return safe_line(model.reason)


def _sources_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    from llamaforge.data.sources import expand, parse_source  # noqa: PLC0415 - asked late

    if not answer:
        return "Name at least one file."
    try:
        found = [parse_source(text) for text in answer]
        expand([source for source in found if not source.is_on_the_hub])
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _map_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    from llamaforge.data.mapping import Mapping as Columns  # noqa: PLC0415

    if not answer:
        return ""
    try:
        Columns.parse(str(answer))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _default_goal(draft: Draft, facts: Facts) -> str:
    del draft
    return NO_TRAINING if 0 < facts.rows.count < _FEW_ROWS else "style"


def _presets(draft: Draft, facts: Facts) -> list[Option]:
    options = []
    for preset in PRESETS:
        advice = advise(goal_of(draft.goal or "style"), preset, facts.rows)
        figures = {item.key: item.value for item in advice}
        epochs = figures["num_train_epochs"]
        words = (
            f"{preset.explanation} Rank {figures['lora_r']}, "
            f"{epochs:g} {'pass' if epochs == 1 else 'passes'}, rate {figures['learning_rate']:g}."
        )
        options.append(Option(preset.key, preset.title, words))
    return options


def _name_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    try:
        if answer:
            check_run_name(str(answer))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def _publish_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del facts
    if not answer:
        return ""
    try:
        name = parse_name(str(answer))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    if draft.model and name == parse_name(draft.model):
        return "That is the name of the model itself; choose another one."
    return ""


def _setting_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    if not answer:
        return ""
    settings = answer if isinstance(answer, Mapping) else settings_of(str(answer))
    try:
        draft.with_answers(settings=settings).recipe(advice_for(draft, facts))
    except LlamaForgeError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def places(text: str) -> tuple[str, ...]:
    """Return the places in a line: one that exists as it stands, else words as in a shell."""
    if not text or Path(text).expanduser().exists():
        return (text,) if text else ()
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return (text,)


def settings_of(text: str) -> dict[str, str]:
    """Return `KEY=VALUE` settings that are divided by white space."""
    return {
        key: value
        for key, _, value in (word.partition("=") for word in text.split())
    }  # fmt: skip


def advice_for(draft: Draft, facts: Facts) -> tuple[Any, ...]:
    """Return the advice for the draft's goal and preset; none where they are not chosen."""
    if not draft.goal or not draft.preset or draft.goal == NO_TRAINING:
        return ()
    return advise(goal_of(draft.goal), preset_of(draft.preset), facts.rows)


def _trains(draft: Draft, facts: Facts) -> bool:
    del facts
    return draft.goal != NO_TRAINING


def _needs_map(draft: Draft, facts: Facts) -> bool:
    return bool(draft.map) or facts.report.get("code") in {"unknown_format", "ambiguous_format"}


MODEL: Final = Question(
    "model",
    "--model",
    "The model to train",
    "An adapter is trained on top of the very file that Ollama serves.",
    Kind.CHOICE,
    options=_models,
    problem=_model_problem,
)
STEPS: Final = (
    Step(
        "model",
        "Model",
        "Which of your models shall learn? Its own file stays as it is.",
        (MODEL,),
    ),
    Step(
        "data",
        "Rows",
        "What shall it learn from? Your rows stay on this machine.",
        (
            Question(
                "sources",
                "--data",
                "Files, folders or datasets",
                "JSON Lines, JSON, CSV, Parquet, text; a folder, a pattern or hf:OWNER/NAME.",
                Kind.SOURCES,
                problem=_sources_problem,
            ),
            Question(
                "map",
                "--map",
                "What the columns are",
                "For rows that no known format fits: prompt=question,completion=answer",
                Kind.TEXT,
                problem=_map_problem,
                applies=_needs_map,
                is_optional=True,
            ),
            Question(
                "preference",
                "--preference",
                "Train on the better answers?",
                "The rows are pairs of a better and a worse answer.",
                Kind.CHOICE,
                options=lambda draft, facts: [
                    Option("chosen", "Yes", "the worse answers are left aside"),
                    Option("refuse", "No"),
                ],
                default=lambda draft, facts: "chosen",
                applies=lambda draft, facts: (
                    facts.report.get("code") == "unsupported_format"
                    and "preference" in str(facts.report.get("message", ""))
                ),
            ),
            Question(
                "allow_secrets",
                "--allow-secrets",
                "Train although some rows look like they hold keys or passwords?",
                "A model repeats what it learned. It is better to take them out.",
                Kind.YES_NO,
                default=lambda draft, facts: False,
                applies=lambda draft, facts: any(
                    item.get("code") == "secrets" and item.get("level") == "stop"
                    for item in facts.report.get("problems", ())
                ),
            ),
        ),
    ),
    Step(
        "goal",
        "Goal",
        "What shall it be good at afterwards?",
        (
            Question(
                "goal",
                "--goal",
                "What you want",
                "It decides how large the adapter is.",
                Kind.CHOICE,
                options=lambda draft, facts: [
                    Option(goal.key, goal.title, goal.explanation) for goal in GOALS
                ],
                default=_default_goal,
            ),
            Question(
                "preset",
                "--preset",
                "How much time it gets",
                "Every number can be changed afterwards.",
                Kind.CHOICE,
                options=_presets,
                default=lambda draft, facts: "balanced",
                applies=_trains,
            ),
            Question(
                "settings",
                "--set",
                "Settings to change",
                "KEY=VALUE, divided by spaces, such as learning_rate=1e-4; Enter keeps them all.",
                Kind.TEXT,
                problem=_setting_problem,
                applies=_trains,
                is_optional=True,
            ),
            Question(
                "system",
                "--system",
                "The system text",
                "What the model is told before every conversation: who it is, how it answers.",
                Kind.TEXT,
                applies=lambda draft, facts: draft.goal == NO_TRAINING,
            ),
        ),
    ),
    Step(
        "names",
        "Names",
        "Where will you find it again?",
        (
            Question(
                "name",
                "--name",
                "The name of the run",
                "Enter takes the model's name with today's date.",
                Kind.TEXT,
                problem=_name_problem,
                applies=_trains,
                is_optional=True,
            ),
            Question(
                "publish",
                "--publish",
                "The name in Ollama",
                "Such as my-notes; Enter publishes nothing for now.",
                Kind.TEXT,
                problem=_publish_problem,
                is_optional=True,
            ),
        ),
    ),
)
"""In the order in which they are asked."""


def open_questions(draft: Draft, facts: Facts) -> list[Question]:
    """Return the questions that must be answered and are not."""
    return [
        question
        for step in STEPS
        for question in step.questions
        if question.applies(draft, facts)
        and not question.is_optional
        and question.kind is not Kind.YES_NO
        and not getattr(draft, question.key)
    ]


def taken(question: Question, answer: Any) -> Mapping[str, Any]:
    """Return what an answer changes in the draft."""
    if question.key == "settings":
        return {"settings": settings_of(str(answer))}
    return {question.key: tuple(answer) if question.kind is Kind.SOURCES else answer}
