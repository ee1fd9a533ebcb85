"""The questions of the wizard, one after the other: the plain one and the screens ask the same."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.names import parse_name
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import check_run_name
from llamaforge.safe_text import safe_line
from llamaforge.wizard import base_step, data_step
from llamaforge.wizard.base_step import packed_memory
from llamaforge.wizard.data_step import are_labelled, are_pairs, rows_problem
from llamaforge.wizard.draft import NO_TRAINING, Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.presets import GOALS, PREFER, PRESETS, advise, goal_of, preset_of
from llamaforge.wizard.question import Kind, Option, Question, Step
from llamaforge.words import count_words, size_words

_FEW_ROWS: Final = 50
_MOST_PROBES: Final = 16
_LONGEST_PROBE: Final = 8_000
"""Characters."""


def _models(draft: Draft, facts: Facts) -> list[Option]:
    del draft
    options = []
    for model in facts.models:
        size = f"{count_words(model.parameter_count)} {model.quantization}".strip()
        needed = packed_memory(model)
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


def _goals(draft: Draft, facts: Facts) -> list[Option]:
    pairs, labelled = are_pairs(facts), are_labelled(facts)
    options = []
    for goal in GOALS:
        words, refusal = goal.explanation, ""
        if pairs and draft.snapshot and goal.key not in {PREFER, NO_TRAINING}:
            refusal = "these rows were frozen as pairs of a better and a worse answer"
        elif pairs and goal.key not in {PREFER, NO_TRAINING}:
            words = f"Learns the better answers alone. {words}"
        elif labelled and goal.key == PREFER:
            words = "Learns from answers that are labelled good or bad (KTO)."
        elif labelled:
            refusal = "some of the answers are labelled bad, and would be learned too"
        elif goal.key == PREFER and "rows" in facts.report and not pairs:
            refusal = "it needs rows with a better and a worse answer: chosen and rejected"
        options.append(Option(goal.key, goal.title, words, refusal))
    return options


def _goal_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    found = next((goal for goal in _goals(draft, facts) if goal.value == answer), None)
    if found is None:
        return f"Choose one of {', '.join(goal.key for goal in GOALS)}."
    return f"That is not possible: {found.refusal}." if found.refusal else ""


def _default_goal(draft: Draft, facts: Facts) -> str:
    del draft
    if are_pairs(facts) or are_labelled(facts):
        return PREFER
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


def _probes_problem(answer: Any, draft: Draft, facts: Facts) -> str:
    del draft, facts
    if len(answer) > _MOST_PROBES:
        return f"At most {_MOST_PROBES} questions can be watched."
    return "One of them is too long." if any(len(text) > _LONGEST_PROBE for text in answer) else ""


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


LISTS: Final = frozenset({Kind.SOURCES, Kind.LINES})
"""Kinds whose answer is several texts."""
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
    base_step.STEP,
    data_step.STEP,
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
                options=_goals,
                default=_default_goal,
                problem=_goal_problem,
                needs="rows",
                looks="rows",
                judged=rows_problem,
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
                "All are as the preset advises; change what you like, or go on.",
                Kind.SETTINGS,
                problem=_setting_problem,
                applies=_trains,
                is_optional=True,
            ),
            Question(
                "probes",
                "--probe",
                "Questions to watch",
                "The model answers them while it trains, and you see how its answers change.",
                Kind.LINES,
                options=lambda draft, facts: [
                    Option(text, safe_line(text, limit=54), "from your rows")
                    for text in facts.prompts
                ],
                problem=_probes_problem,
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


def taken(question: Question, answer: Any, draft: Draft, facts: Facts) -> Mapping[str, Any]:
    """Return what an answer changes in the draft."""
    if question.key == "sources" and not set(draft.sources) <= set(answer):
        return {"sources": tuple(answer), "map": ""}  # what columns are was said of other rows
    if question.key == "settings":
        return {"settings": settings_of(str(answer))}
    if question.key == "goal":
        better = are_pairs(facts) and answer not in {PREFER, NO_TRAINING}
        changed = {"goal": answer, "preference": "chosen" if better else "refuse"}
        if answer not in {draft.goal, PREFER} and draft.setting("method") is not None:
            # It was the method of another goal.
            changed["settings"] = {
                key: value
                for key, value in draft.settings.items()
                if key.rpartition(".")[2] != "method"
            }
        return changed
    return {question.key: tuple(answer) if question.kind in LISTS else answer}


def questions_of(
    draft: Draft, facts: Facts, *, without: frozenset[str] = frozenset()
) -> list[Question]:
    """Return the questions that apply as far as is known now, in their order."""
    return [
        question
        for step in STEPS
        for question in step.questions
        if question.key not in without and question.applies(draft, facts)
    ]
