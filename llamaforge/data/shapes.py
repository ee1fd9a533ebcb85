"""The shapes that one row's object may have, and the conversation in each of them.

A row is judged by its keys alone; whether the values fit is a second question, so that a row with
a slip in it is rejected as what it was meant to be. Shapes as documented by OpenAI (chat),
ShareGPT, Stanford Alpaca, Databricks Dolly and TRL (prompt-completion).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.json_row import kind
from llamaforge.data.records import ROLES, Message, RowError
from llamaforge.safe_text import safe_line

Fields = Mapping[str, Any]
UNKNOWN: Final = "unknown"

_PAIRS: Final = (
    ("question", "answer"),
    ("q", "a"),
    ("query", "response"),
    ("user", "assistant"),
)
_ANSWERS: Final = (("prompt", "completion"), ("instruction", "output"), *_PAIRS)
"""The key that asks in each format, and the one that answers."""
_MEDIA: Final = ("image", "audio", "video", "file")


@dataclass(frozen=True, slots=True)
class Shape:
    """One format: how it is called, told by its keys and read."""

    name: str
    matches: Callable[[Fields], bool]
    read: Callable[[Fields], list[Message]] | None = None
    """Turns a row into messages; none for what is recognised and cannot be trained on yet."""
    keys: str = ""
    """The keys that make the format, for messages."""
    refusal: str = ""
    """Why a row of a recognised format cannot be used."""


def shape_of(fields: Fields) -> Shape:
    """Return the first shape whose keys `fields` has; the last one takes everything."""
    return next(shape for shape in SHAPES if shape.matches(fields))


def understood() -> str:
    """Return the formats that can be read and the keys that make each, for messages."""
    return "; ".join(f"{shape.name} ({shape.keys})" for shape in SHAPES if shape.read is not None)


def key_list(keys: list[str]) -> str:
    """Return `keys` for a message: at most twelve, each safe and short."""
    if not keys:
        return "no keys"
    shown = ", ".join(safe_line(key, limit=40) for key in keys[:12])
    more = f" and {len(keys) - 12} more" if len(keys) > 12 else ""
    return f"the key{'s' if len(keys) > 1 else ''} {shown}{more}"


def messages_of(fields: Fields) -> tuple[Message, ...]:
    """Return the conversation that a row holds.

    A `system` text of the row's own comes first in every format.

    Raises:
        RowError: the row has no known shape, or its values do not make a conversation with a
            question and an answer.
    """
    shape = shape_of(fields)
    if shape.read is None:
        if shape.name == UNKNOWN:
            keys = key_list(list(fields))
            answer = next((wanted for asks, wanted in _ANSWERS if asks in fields), None)
            if answer is not None:
                raise RowError(f"the row has no answer: it has {keys}, and {answer} is missing")
            raise RowError(f"the row has no known format: {keys}")
        raise RowError(shape.refusal)
    if fields.get("tools"):
        raise RowError("the row offers tools, which are not trained on yet")
    messages = shape.read(fields)
    system = _optional(fields, "system")
    if system.strip():
        if any(message.role == "system" for message in messages):
            raise RowError("the row has a system text and a system message")
        messages.insert(0, Message("system", system))
    _require_conversation(messages)
    return tuple(messages)


def _require_conversation(messages: list[Message]) -> None:
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    if not asked:
        raise RowError("the prompt is empty: no user message")
    if any(not messages[number].content.strip() for number in asked):
        raise RowError("the prompt is empty: a user message without text")
    answers = [message for message in messages[asked[0] + 1 :] if message.role == "assistant"]
    if not answers:
        raise RowError("the row has no answer")
    if any(m.role == "assistant" and not m.content.strip() for m in messages):
        raise RowError("the row has no answer: an assistant message is empty")


def _has(*keys: str) -> Callable[[Fields], bool]:
    return lambda fields: all(key in fields for key in keys)


def _is_preference(fields: Fields) -> bool:
    return (
        ("chosen" in fields and "rejected" in fields)
        or fields.get("rejected_message") is not None
        or ("preferred_output" in fields and "non_preferred_output" in fields)
    )


def _is_labelled(fields: Fields) -> bool:
    conversation = any(key in fields for key in ("completion", "messages", "conversations"))
    return conversation and isinstance(fields.get("label"), bool)


def _is_question_answer(fields: Fields) -> bool:
    return any(question in fields and answer in fields for question, answer in _PAIRS)


def _chat(fields: Fields) -> list[Message]:
    return _turns(fields["messages"], "messages")


def _sharegpt(fields: Fields) -> list[Message]:
    return _turns(fields["conversations"], "conversations")


def _prompt_completion(fields: Fields) -> list[Message]:
    return _side(fields, "prompt", "user") + _side(fields, "completion", "assistant")


def _side(fields: Fields, key: str, role: str) -> list[Message]:
    if isinstance(fields[key], list):
        return _turns(fields[key], key)
    return [Message(role, _text(fields, key))]


def _alpaca(fields: Fields) -> list[Message]:
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise RowError(f"history is {kind(history)}, not a list of questions and answers")
    messages = []
    for number, pair in enumerate(history, start=1):
        match pair:
            case [str(question), str(answer)]:
                messages += [Message("user", question), Message("assistant", answer)]
            case _:
                raise RowError(f"history entry {number} is not a question and an answer")
    return [*messages, *_instruction(fields, "input", "output")]


def _dolly(fields: Fields) -> list[Message]:
    return _instruction(fields, "context", "response")


def _instruction(fields: Fields, extra_key: str, answer_key: str) -> list[Message]:
    """Return the question, what it is about below it after an empty line, and the answer."""
    asked = _text(fields, "instruction")
    extra = _optional(fields, extra_key)
    if extra.strip():
        asked = f"{asked}\n\n{extra}" if asked.strip() else extra
    return [Message("user", asked), Message("assistant", _text(fields, answer_key))]


def _question_answer(fields: Fields) -> list[Message]:
    question, answer = next(pair for pair in _PAIRS if pair[0] in fields and pair[1] in fields)
    return [Message("user", _text(fields, question)), Message("assistant", _text(fields, answer))]


def _text(fields: Fields, key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not a text")
    return value


def _optional(fields: Fields, key: str) -> str:
    """Return the text at `key`; a missing one and null are empty."""
    return "" if fields.get(key) is None else _text(fields, key)


def _turns(value: object, key: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowError(f"{key} is {kind(value)}, not a list of messages")
    return [_turn(turn, f"message {number}") for number, turn in enumerate(value, start=1)]


def _turn(turn: object, where: str) -> Message:
    """Return one message, written as `role` and `content` or as `from` and `value`."""
    if not isinstance(turn, dict):
        raise RowError(f"{where} is {kind(turn)}, not an object")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise RowError(f"{where} calls a tool, which is not trained on yet")
    # OpenAI's fine-tuning files mark answers that are not to be learned with a weight of 0.
    if turn.get("weight", 1) not in (1, None):
        raise RowError(f"{where} has a weight other than 1, which is not supported yet")
    role_key, content_key = ("role", "content") if "role" in turn else ("from", "value")
    if role_key not in turn:
        raise RowError(f"{where} has no role: {key_list(list(turn))}")
    if content_key not in turn:
        raise RowError(f"{where} has no {content_key}")
    return Message(_role(turn[role_key], where), _content(turn[content_key], where))


def _role(role: object, where: str) -> str:
    if not isinstance(role, str):
        raise RowError(f"the role of {where} is {kind(role)}, not a text")
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise RowError(f"{where} has the unknown role {safe_line(repr(role), limit=40)}")
    return known


def _content(content: object, where: str) -> str:
    """Return a message's text; text parts are joined by line breaks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f"the content of {where} is {kind(content)}, not a text")
    return "\n".join(_part(part, where) for part in content)


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowError(f"a part of {where} is {kind(part)}, not a text")
    type_ = part.get("type", "text")
    for medium in _MEDIA:
        if part.get(medium) is not None or (isinstance(type_, str) and medium in type_.lower()):
            raise RowError(
                f"{where} holds a part of type {medium}, which a text model cannot learn from"
            )
    if type_ not in ("text", "input_text", "output_text"):
        raise RowError(f"{where} holds a part of unknown type {safe_line(repr(type_), limit=40)}")
    if not isinstance(part.get("text"), str):
        raise RowError(f"a text part of {where} has no text")
    return str(part["text"])


SHAPES: Final = (
    Shape(
        "preference",
        _is_preference,
        refusal="the row is a preference pair, which supervised training cannot use",
    ),
    Shape(
        "unpaired_preference",
        _is_labelled,
        refusal="the row's answer is labelled good or bad (label is true or false),"
        " which supervised training cannot use",
    ),
    Shape("chat", _has("messages"), _chat, "messages"),
    Shape("sharegpt", _has("conversations"), _sharegpt, "conversations"),
    Shape(
        "prompt_completion", _has("prompt", "completion"), _prompt_completion, "prompt, completion"
    ),
    Shape("alpaca", _has("instruction", "output"), _alpaca, "instruction, output"),
    Shape("dolly", _has("instruction", "response"), _dolly, "instruction, response"),
    Shape(
        "question_answer",
        _is_question_answer,
        _question_answer,
        " or ".join(f"{question}, {answer}" for question, answer in _PAIRS),
    ),
    Shape(
        "oasst",
        _has("message_id", "parent_id", "text", "role"),
        refusal="the row is one message of a tree (oasst), which cannot be read yet",
    ),
    Shape(
        "tokenized",
        _has("input_ids"),
        refusal="the row holds token ids, which fit one tokenizer only",
    ),
    Shape(
        "text",
        _has("text"),
        refusal="the row is raw text, without a question and an answer",
    ),
    Shape(UNKNOWN, lambda _: True),
)
"""In the order in which they are tried: what must not be trained on as it stands comes first."""
