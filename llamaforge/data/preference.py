"""Preference pairs: a prompt, the better and the worse way to go on.

Forms as documented by TRL (prompt, chosen and rejected as texts or messages; without a prompt it is
what both begin with), OpenAI (input, preferred_output, non_preferred_output), OpenPipe (messages
whose last answer is the better one, rejected_message), and of Anthropic's transcripts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.json_row import kind
from llamaforge.data.records import Message, RowError, settled
from llamaforge.data.repairs import Mender
from llamaforge.data.turns import TurnReader

Fields = Mapping[str, Any]

_PROMPT_KEYS: Final = ("prompt", "conversations", "messages", "question", "instruction", "query")
"""Where a pair's prompt may stand, the first that has one."""
_TRANSCRIPT: Final = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SPEAKERS: Final = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and two ways to go on, as messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]

    def with_prompt(self, prompt: list[Message]) -> "Pair":
        """Return the pair after another prompt."""
        return Pair(prompt, self.chosen, self.rejected)


def is_preference(fields: Fields) -> bool:
    """Return whether a row's keys are those of a pair."""
    return (
        ("chosen" in fields and "rejected" in fields)
        or fields.get("rejected_message") is not None
        or ("preferred_output" in fields and "non_preferred_output" in fields)
    )


def read_pair(fields: Fields, reader: TurnReader, mender: Mender) -> Pair:
    """Return the pair in a row that `is_preference`.

    Raises:
        RowError: its values do not make one.
    """
    if _has_both(fields, "chosen", "rejected"):
        return _chosen_rejected(fields, reader, mender)
    if _has_both(fields, "preferred_output", "non_preferred_output"):
        return Pair(
            _openai_input(fields.get("input"), reader),
            _side(fields["preferred_output"], "preferred_output", reader),
            _side(fields["non_preferred_output"], "non_preferred_output", reader),
        )
    if fields.get("rejected_message") is None:
        raise RowError("the row is a preference pair whose two answers are null")
    turns = reader.turns(fields.get("messages"), "messages")
    rejected = reader.turn(fields["rejected_message"], "rejected_message")
    if not turns or turns[-1].role != "assistant":
        raise RowError("messages do not end with the answer that is better than rejected_message")
    return Pair(turns[:-1], turns[-1:], [rejected])


def mended_pair(pair: Pair, mender: Mender) -> Pair:
    """Return `pair` after the repairs, as something that can be learned from.

    Raises:
        RowError: a part of it is empty or out of place, or both ways are the same.
    """
    found = Pair(
        mender.prompt(pair.prompt),
        mender.answer(pair.chosen, "chosen"),
        mender.answer(pair.rejected, "rejected"),
    )
    if _same(found.chosen, found.rejected):
        raise RowError("chosen and rejected are the same")
    return found


def _chosen_rejected(fields: Fields, reader: TurnReader, mender: Mender) -> Pair:
    key = next((key for key in _PROMPT_KEYS if _is_given(fields.get(key))), None)
    if key is None and isinstance(fields["chosen"], str) and isinstance(fields["rejected"], str):
        return _texts_without_prompt(fields["chosen"], fields["rejected"], mender)
    prompt = _prompt(fields, key, reader) if key is not None else []
    chosen = _side(fields["chosen"], "chosen", reader)
    rejected = _side(fields["rejected"], "rejected", reader)
    common = _common_prefix(chosen, rejected)
    if not common:
        if not prompt:
            raise RowError("the pair has no prompt: chosen and rejected begin differently")
        return Pair(prompt, chosen, rejected)
    beginning = chosen[:common]
    return Pair(_joined(prompt, beginning), chosen[common:], rejected[common:])


def _has_both(fields: Fields, one: str, other: str) -> bool:
    """Return whether both keys are there, and not both without a value."""
    given = [fields[key] for key in (one, other) if key in fields]
    return len(given) == 2 and given != [None, None]


def _is_given(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _prompt(fields: Fields, key: str, reader: TurnReader) -> list[Message]:
    value = fields[key]
    if key in {"messages", "conversations"}:
        turns = reader.turns(value, key)
        # Some files repeat the better answer here; what is asked ends with the last question.
        while fields.get("chosen") is not None and turns and turns[-1].role == "assistant":
            turns = turns[:-1]
        return turns
    if isinstance(value, list):
        return reader.turns(value, key)
    if not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not a text")
    about = fields.get("input") if key == "instruction" else None
    if isinstance(about, str) and about.strip():
        value = f"{value}\n\n{about}"
    return [reader.question(value)]


def _side(value: object, key: str, reader: TurnReader) -> list[Message]:
    if isinstance(value, str):
        return [Message("assistant", value)]
    if isinstance(value, dict):
        return [reader.turn(value, key)]
    if not isinstance(value, list):
        raise RowError(f"{key} is {kind(value)}, neither a text nor messages")
    return reader.turns(value, key)


def _openai_input(value: object, reader: TurnReader) -> list[Message]:
    if isinstance(value, str):
        return [reader.question(value)]
    if not isinstance(value, dict):
        raise RowError(f"input is {kind(value)}, not an object with messages")
    if "messages" not in value:
        raise RowError("input has no messages")
    return reader.turns(value["messages"], "input.messages")


def _common_prefix(one: Sequence[Message], other: Sequence[Message]) -> int:
    """Return how many messages both begin with; what only one of them holds is never all of it."""
    length = 0
    for first, second in zip(one, other, strict=False):
        if not _same([first], [second]):
            break
        length += 1
    # Both may be the same altogether, or one may stop where the other goes on.
    while length and length >= min(len(one), len(other)):
        length -= 1
    return length


def _same(one: Sequence[Message], other: Sequence[Message]) -> bool:
    return [(turn.role, settled(turn.words)) for turn in one] == [
        (turn.role, settled(turn.words)) for turn in other
    ]


def _joined(prompt: list[Message], beginning: list[Message]) -> list[Message]:
    """Return the prompt of a row whose answers begin with messages of their own in common.

    Raises:
        RowError: those are not what the prompt says.
    """
    if not prompt:
        return beginning
    if beginning[0].role == "assistant":
        return prompt + beginning
    asked = [turn for turn in prompt if turn.role != "system"]
    said = [turn for turn in beginning if turn.role != "system"]
    if not _same(asked, said[: len(asked)]):
        raise RowError("chosen and rejected do not begin with the prompt of the row")
    system = [turn for turn in prompt if turn.role == "system"]
    has_system = len(said) < len(beginning)
    return beginning if has_system else system + beginning


def _texts_without_prompt(chosen: str, rejected: str, mender: Mender) -> Pair:
    if _TRANSCRIPT.match(chosen) and _TRANSCRIPT.match(rejected):
        one, other = _transcript(chosen), _transcript(rejected)
        common = _common_prefix(one, other)
        if not common:
            raise RowError("the pair has no prompt: chosen and rejected begin differently")
        return Pair(one[:common], one[common:], other[common:])
    prefix = _words(_common_text(chosen, rejected), chosen, rejected)
    if not prefix.strip():
        raise RowError("the pair has no prompt: chosen and rejected begin differently")
    mender.note("prompt_from_common_text")
    return Pair(
        [Message("user", prefix)],
        [Message("assistant", chosen[len(prefix) :])],
        [Message("assistant", rejected[len(prefix) :])],
    )


def _common_text(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    length = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[:length]


def _words(prefix: str, chosen: str, rejected: str) -> str:
    """Return `prefix` up to where a word ends in both texts, as TRL's implicit prompts do."""
    nexts = [text[len(prefix) : len(prefix) + 1] for text in (chosen, rejected)]
    if not prefix.strip() or prefix[-1].isspace() or all(not n or n.isspace() for n in nexts):
        return prefix
    return prefix[: -len(prefix.rsplit(maxsplit=1)[-1])]


def _transcript(text: str) -> list[Message]:
    """Return the turns of a text in which `Human:` and `Assistant:` begin paragraphs."""
    parts = _TRANSCRIPT.split(text)[1:]
    return [
        Message(_SPEAKERS[who], said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
