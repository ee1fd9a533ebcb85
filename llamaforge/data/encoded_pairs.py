"""Answers that follow a prompt as token ids: two of a pair, or one with a label; only these are
trained."""

from collections.abc import Sequence
from dataclasses import replace

from llamaforge.data.chat import ChatRenderer, EncodedRow, TooLongError
from llamaforge.data.records import Message, Record, RowError

_HEAD: tuple[str, ...] = ("tools", "system")
"""Roles of messages that stay in front however much of a conversation is left out."""


def encode_pair(
    record: Record, renderer: ChatRenderer, max_length: int
) -> tuple[EncodedRow, EncodedRow]:
    """Return the prompt with the better and with the worse answer, each of at most `max_length`.

    Where one of them is too long, the oldest exchanges of the prompt are left out of both: answers
    to different prompts cannot be held against each other, and an answer is never cut.

    Raises:
        RowError: the record is no pair, the template refuses a side, the last question with an
            answer is too long, or both sides are the same tokens.
    """
    if not record.chosen or not record.rejected:
        raise RowError("it is no preference pair: it has no better and worse answer")
    chosen, rejected = _sides(record, (record.chosen, record.rejected), renderer, max_length)
    if chosen.ids == rejected.ids:
        raise RowError("both answers are the same tokens")
    return chosen, rejected


def encode_labelled(record: Record, renderer: ChatRenderer, max_length: int) -> list[EncodedRow]:
    """Return the prompt with each answer of a record that is labelled, the better one first.

    That is one of a record whose answer is labelled by itself, and two of a pair, each cut to
    `max_length` for itself as in `encode_pair`.

    Raises:
        RowError: no answer is labelled, the template refuses it, or the last question with it is
            too long.
    """
    sides = [side for side in (record.chosen, record.rejected) if side]
    if not sides:
        raise RowError("its answer is not labelled good or bad")
    return [row for side in sides for row in _sides(record, [side], renderer, max_length)]


def _sides(
    record: Record,
    sides: Sequence[tuple[Message, ...]],
    renderer: ChatRenderer,
    max_length: int,
) -> list[EncodedRow]:
    """Return one prompt with each of `sides`, shortened alike."""
    prompt = [replace(turn, trained=False) for turn in record.messages]
    dropped = 0
    for side in sides:
        fitted = renderer.fit([*prompt, *side], max_length)
        if not fitted.fits or fitted.dropped > _droppable(prompt):
            raise TooLongError(
                f"its last question has, with an answer, more than the {max_length:,} tokens "
                "allowed"
            )
        dropped = max(dropped, fitted.dropped)
    kept = _without(prompt, dropped)
    return [replace(renderer.encode([*kept, *side]), shortened=dropped) for side in sides]


def _droppable(prompt: Sequence[Message]) -> int:
    """Return how many messages stand before the last question, those of the head not counted."""
    turns = [turn for turn in prompt if turn.role not in _HEAD]
    return max((place for place, turn in enumerate(turns) if turn.role == "user"), default=0)


def _without(prompt: Sequence[Message], dropped: int) -> list[Message]:
    """Return the prompt without its first `dropped` messages, those of the head not counted."""
    kept = []
    for turn in prompt:
        if turn.role not in _HEAD and dropped:
            dropped -= 1
        else:
            kept.append(turn)
    return kept
