"""Which held-out rows are asked, and what each set of them is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from llamaforge.data.encoding import EncodedRecord
from llamaforge.data.records import RowError, is_raw_text
from llamaforge.evaluation.answers import Question
from llamaforge.evaluation.preferences import AnswerIds, PairIds
from llamaforge.worker.job import Conversations

HELD_OUT: Final = "held-out rows"
NEW_TEMPLATES: Final = "rows from templates never trained on"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Set:
    """Held-out rows that are counted together."""

    name: str
    questions: list[Question]


def held_out_sets(conversations: Conversations, max_rows: int) -> list[Set]:
    """Return the questions of each set, at most `max_rows` a set.

    Rows whose `meta.template` names a template that no training row has are a set of their own.
    """
    rows = conversations.rows
    known = {item.record.meta.get("template") for item in rows.train}
    sides: dict[str, list[EncodedRecord]] = {HELD_OUT: [], NEW_TEMPLATES: []}
    for item in rows.held_out:
        if item.label is False:
            continue  # nobody expects a bad answer
        template = item.record.meta.get("template")
        is_new = template is not None and template not in known
        sides[NEW_TEMPLATES if is_new else HELD_OUT].append(item)
    sets = []
    for name, items in sides.items():
        questions = [question_of(conversations, item) for item in spread(items, max_rows)]
        found = [question for question in questions if question is not None]
        if found:
            sets.append(Set(name, found))
    return sets


def held_out_pairs(conversations: Conversations, max_rows: int) -> list[EncodedRecord]:
    """Return at most `max_rows` held-out pairs; none where the run's rows are no pairs."""
    items = [item for item in conversations.rows.held_out if item.rejected is not None]
    return spread(items, max_rows)


def held_out_labels(conversations: Conversations, max_rows: int) -> list[EncodedRecord]:
    """Return at most `max_rows` held-out answers of each label; none where they have no labels."""
    rows = conversations.rows.held_out
    good, bad = ([item for item in rows if item.label is label] for label in (True, False))
    return spread(good, max_rows) + spread(bad, max_rows)


def pair_ids(items: Sequence[EncodedRecord]) -> list[PairIds]:
    """Return pairs as they are held against each other."""
    return [
        PairIds(
            AnswerIds(item.row.ids, item.row.trained),
            AnswerIds(item.rejected.ids, item.rejected.trained),
        )
        for item in items
        if item.rejected is not None
    ]


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most `count` items, evenly taken from all."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def question_of(conversations: Conversations, item: EncodedRecord) -> Question | None:
    """Return what is asked before the last answer; None where it cannot be asked."""
    messages = item.messages
    if is_raw_text(messages):
        return None
    last = max(place for place, turn in enumerate(messages) if turn.role == "assistant")
    asked = messages[:last]
    try:
        prompt = conversations.renderer.encode_prompt(asked)
    except RowError:
        return None
    shown = "\n".join(f"{turn.role}: {turn.words}" for turn in asked if turn.role != "tools")
    answer = messages[last]
    expected = _as_written(conversations, item) if answer.calls else answer.content
    return Question(prompt, shown, expected)


def _as_written(conversations: Conversations, item: EncodedRecord) -> str:
    """Return the last answer as the template writes it, without the token that ends it."""
    row, tokenizer = item.row, conversations.tokenizer
    stop = len(row.ids) - row.trained[::-1].index(True)
    start = stop
    while start and row.trained[start - 1]:
        start -= 1
    return tokenizer.decode([i for i in row.ids[start:stop] if i not in tokenizer.end_ids])
