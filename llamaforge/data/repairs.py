"""What is mended in a row, by rules that have names; whatever else is wrong rejects the row.

A rule may touch the outer edges of a text and the order of turns. What is written within a text
is never changed. Every rule that was at work is told, so that read rows are accepted, repaired or
rejected, and nothing happens in silence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Final

from llamaforge.data.records import Message, Record, RowError

RULES: Final = {
    "json_text": "messages that stood in a text as JSON were read from it",
    "role_spelling": "a role in other letters, such as USER, was understood",
    "byte_order_mark": "a byte order mark in front of a text or a key was removed",
    "outer_white_space": "white space around a text was removed, an indent of its first line aside",
    "empty_system": "an empty system message was left out",
    "repeated_system": "a system text that is also the system message was used once",
    "leading_answer": "what stood before the first question was left out",
    "unanswered_end": "what stood after the last answer was left out",
    "merged_turns": "turns of one role that followed each other were joined by an empty line",
    "images_dropped": "images were left out, as was chosen",
    "images_linked": "images were replaced by their addresses, as was chosen",
    "prompt_from_common_text": "the words that both answers begin with became the question",
}
"""Each rule and what it does, for people."""

_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class Repaired:
    """One rule that changed one row."""

    source: str
    row: int
    rule: str


def repaired_rows(records: Iterable[Record]) -> list[Repaired]:
    """Return what was repaired: one entry for each rule that changed a row, in their order."""
    return [
        Repaired(record.source, record.row, rule) for record in records for rule in record.repairs
    ]


def repair_counts(records: Iterable[Record]) -> dict[str, int]:
    """Return how many rows each rule changed, in the order of `RULES`."""
    counts = Counter(rule for record in records for rule in record.repairs)
    return {rule: counts[rule] for rule in RULES if counts[rule]}


class Mender:
    """Applies the rules to one row, and remembers which were at work."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}  # an ordered set

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that changed something, in the order in which they did."""
        return tuple(self._used)

    def note(self, rule: str) -> None:
        """Remember that `rule`, one of `RULES`, was at work."""
        if rule not in RULES:
            raise KeyError(rule)
        self._used[rule] = None

    def conversation(self, messages: Sequence[Message]) -> list[Message]:
        """Return `messages` as a conversation that begins with a question and ends in an answer.

        Raises:
            RowError: there is no question, no answer, or one of them is empty.
        """
        turns = self._texts(messages)
        _require_texts(turns)
        asked = [turn.role for turn in turns].index("user")
        if not any(turn.role == "assistant" for turn in turns[asked:]):
            raise RowError("the row has no answer")
        turns = self._from_question(turns)
        end = max(place for place, turn in enumerate(turns) if turn.role == "assistant") + 1
        if end < len(turns):
            self.note("unanswered_end")
        turns = self._merged(turns[:end])
        if not any(turn.trained for turn in turns if turn.role == "assistant"):
            raise RowError("the row has no answer to learn: the weight of all is 0")
        return turns

    def prompt(self, messages: Sequence[Message]) -> list[Message]:
        """Return `messages` as what an answer may follow: it ends with a question.

        Raises:
            RowError: there is no question, a message is empty, or the last one is an answer.
        """
        turns = self._texts(messages)
        _require_texts(turns)
        turns = self._merged(self._from_question(turns))
        if turns[-1].role not in {"user", "tool"}:
            raise RowError("the prompt does not end with a question")
        return turns

    def answer(self, messages: Sequence[Message], name: str) -> list[Message]:
        """Return one side of a pair, which is called `name`: it begins and ends with an answer.

        Raises:
            RowError: it does not, or one of its messages is empty.
        """
        turns = self._merged(self._texts(messages))
        if not turns:
            raise RowError(f"{name} is empty")
        if turns[0].role != "assistant" or turns[-1].role != "assistant":
            raise RowError(f"{name} is not an answer to the prompt")
        if any(not turn.words.strip() for turn in turns if turn.role != "tool"):
            raise RowError(f"{name} is empty")
        return turns

    def _texts(self, messages: Sequence[Message]) -> list[Message]:
        """Return `messages` with their margins mended, without empty system messages."""
        turns = []
        for message in messages:
            # What a tool printed is data: its margins may mean something.
            content = message.content if message.role == "tool" else self._trimmed(message.content)
            if message.role == "system" and not content:
                self.note("empty_system")
            elif content == message.content:
                turns.append(message)
            else:
                turns.append(replace(message, content=content))
        return turns

    def _trimmed(self, text: str) -> str:
        if text and not (text[0].isspace() or text[-1].isspace() or text[0] == _BOM):
            return text
        kept = _without_margins(text)
        if kept != text:
            self.note("outer_white_space")
        if kept.startswith(_BOM):
            self.note("byte_order_mark")
            return self._trimmed(kept.lstrip(_BOM))
        return kept

    def _from_question(self, turns: list[Message]) -> list[Message]:
        asked = [turn.role for turn in turns].index("user")
        head = [turn for turn in turns[:asked] if turn.role == "system"]
        if len(head) < asked:
            self.note("leading_answer")
        return head + turns[asked:]

    def _merged(self, turns: list[Message]) -> list[Message]:
        if all(one.role != other.role for one, other in pairwise(turns)):
            return turns
        merged: list[Message] = []
        for (role, trained), group in groupby(turns, lambda turn: (turn.role, turn.trained)):
            members = list(group)
            if len(members) == 1 or role == "tool" or any(turn.calls for turn in members):
                # One answer may follow several tools' results; a call is a turn of its own.
                merged += members
            else:
                self.note("merged_turns")
                text = "\n\n".join(member.content for member in members)
                merged.append(Message(role, text, trained))
        return merged


def _without_margins(text: str) -> str:
    """Return `text` without blank lines in front, one lone space in front, white space behind.

    A deeper indent of the first line is kept: answers may be pieces of programs.
    """
    body = text.rstrip()
    indent = len(body) - len(body.lstrip())
    line = max(body.rfind("\n", 0, indent), body.rfind("\r", 0, indent)) + 1
    body = body[line:]
    return body[1:] if body[:1] == " " and not body[1:2].isspace() else body


def _require_texts(turns: Sequence[Message]) -> None:
    asked = [turn for turn in turns if turn.role == "user"]
    if not asked:
        raise RowError("the prompt is empty: no user message")
    if any(not turn.content.strip() for turn in asked):
        raise RowError("the prompt is empty: a user message without text")
    if any(turn.role == "assistant" and not turn.words.strip() for turn in turns):
        raise RowError("the row has no answer: an assistant message is empty")
