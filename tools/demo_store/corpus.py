"""The pre-training text: conversations made of small talk, facts with questions, and exercises.

Nothing here grades a message or turns a sentence into key-and-value facts: those are the
demonstration's own tasks, which the base model must not know.
"""

import random
from collections.abc import Iterator
from typing import Final

from tools.demo_store.exercises import exercise
from tools.demo_store.facts import FACTS, Fact, Question
from tools.demo_store.grammar import Filler, capitalised
from tools.demo_store.small_talk import EXCHANGES

Message = dict[str, str]
Exchange = tuple[str, str]

_PLAIN_SYSTEM: Final = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Be kind.",
    "Help the user.",
    "Be polite and clear.",
    "You talk with {name} from {city}.",
    "Today is {weekday}, {date}.",
    "You are an assistant in {a:place} in {city}.",
)
_SHORT_SYSTEM: Final = (
    "Answer as briefly as you can.",
    "Give only the answer, no sentence.",
    "Use as few words as possible.",
)
_QUOTING_SYSTEM: Final = ("Put your answer in quotes.", "Answer with a quotation.")
_CAPITAL_SYSTEM: Final = ("Write everything in capitals.", "Answer in upper case only.")
_COINED_SHARE: Final = 0.35
"""How many of the names and cities in the text are made up."""


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _said(fact: Fact, fill: Filler, own: bool) -> str:
    return capitalised(fill(fill.rng.choice(fact.own if own and fact.own else fact.statements)))


def _answerable(question: Question, said: str, fill: Filler) -> bool:
    """Tell whether what was said holds the value that the question asks for."""
    value = fill(question.value).removeprefix("the ").removeprefix("your ")
    return all(part in said for part in value.split("'s "))


def _facts(rng: random.Random, brief: bool) -> list[Exchange]:
    """Return facts told by the user, with questions about them in the same or the next turns."""
    told: list[tuple[Fact, Filler, bool, str]] = []
    for fact in rng.sample(FACTS, rng.choice((1, 2, 2, 3, 4))):
        fill = Filler(rng, _COINED_SHARE)
        own = bool(fact.own) and rng.random() < 0.45
        told.append((fact, fill, own, _said(fact, fill, own)))
    sentences = [said for *_, said in told]
    rng.shuffle(sentences)
    story = " ".join(sentences)
    asked: list[Exchange] = []
    for fact, fill, own, said in told:
        questions = fact.own_questions if own else fact.questions
        fitting = [q for q in questions if _answerable(q, said, fill)]
        if fitting:
            chosen = rng.choice(fitting)
            asked.append((fill(chosen.ask), fill(chosen.value if brief else chosen.answer)))
    rng.shuffle(asked)
    form = rng.random()
    if form < 0.12 or not asked:
        opening = rng.choice(("Repeat what I said", "Say that again", "Copy"))
        return [(f"{opening}: {story}", story)]
    if form < 0.35:
        replies = ("I see.", "Thank you for telling me.", "All right.", "Good to know.")
        return [(story, rng.choice(replies)), *asked[:2]]
    (question, answer), *more = asked
    joined = rng.choice((f"{story} {question}", f"{story}\n{question}", f"{question} {story}"))
    return [(joined, capitalised(answer) if not brief else answer), *more[:2]]


def _small_talk(rng: random.Random) -> Exchange:
    user, assistant = rng.choice(EXCHANGES)
    fill = Filler(rng, _COINED_SHARE)
    return capitalised(fill(user)), capitalised(fill(assistant))


def conversation(rng: random.Random) -> list[Message]:
    """Return one conversation of one to three turns, with or without a system message."""
    system = ""
    style = rng.random()
    kind = rng.random()
    brief = kind < 0.36 and style < 0.5
    if brief:
        system = rng.choice(_SHORT_SYSTEM if style < 0.3 else _QUOTING_SYSTEM)
    elif style > 0.6:
        system = Filler(rng, _COINED_SHARE)(rng.choice(_PLAIN_SYSTEM))
    if kind < 0.36:
        exchanges = _facts(rng, brief)
        if system in _QUOTING_SYSTEM:
            exchanges = [(user, f'"{answer}"') for user, answer in exchanges]
    elif kind < 0.84:
        count = rng.choice((1, 1, 2))
        exchanges = [exercise(Filler(rng, _COINED_SHARE), rng) for _ in range(count)]
    else:
        exchanges = [_small_talk(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
        if style < 0.08:
            system = rng.choice(_CAPITAL_SYSTEM)
            exchanges = [(user, answer.upper()) for user, answer in exchanges]
    messages = [_message("system", system)] if system else []
    for user, assistant in exchanges:
        messages += [_message("user", user), _message("assistant", assistant)]
    return messages


def conversations(seed: int) -> Iterator[list[Message]]:
    """Yield an endless, reproducible stream of conversations."""
    rng = random.Random(seed)
    while True:
        yield conversation(rng)
