"""The shapes that one row's object may have, and the conversation or the pair in each of them.

A row is judged by its keys alone; whether the values fit is a second question, so that a row with
a slip in it is rejected as what it was meant to be. Shapes as documented by OpenAI (chat),
ShareGPT, Stanford Alpaca, Databricks Dolly, LAION (OASST) and TRL (prompt-completion, preference).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.json_row import kind
from llamaforge.data.preference import is_preference, mended_pair, read_pair
from llamaforge.data.records import RAW_TEXT, Message, RowError
from llamaforge.data.repairs import Mender
from llamaforge.data.tool_calls import offered
from llamaforge.data.trees import is_nested_tree, is_tree_message
from llamaforge.data.turns import TurnChoices, TurnReader, key_list

Fields = Mapping[str, Any]
UNKNOWN: Final = "unknown"
PREFERENCE: Final = "preference"
LABELLED: Final = "unpaired_preference"
TREE: Final = "oasst"
TEXT: Final = "text"

_PAIRS: Final = (
    ("question", "answer"),
    ("q", "a"),
    ("query", "response"),
    ("user", "assistant"),
)
_ANSWERS: Final = (("prompt", "completion"), ("instruction", "output"), *_PAIRS)
"""The key that asks in each format, and the one that answers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One format: how it is called, told by its keys and read."""

    name: str
    matches: Callable[[Fields], bool]
    read: Callable[[Fields, TurnReader], list[Message]] | None = None
    """Turns a row into messages; none for what is recognised and is no conversation."""
    keys: str = ""
    """The keys that make the format, for messages."""
    refusal: str = ""
    """Why a row of a recognised format cannot be used; of a pair, by supervised training."""
    texts: tuple[str, ...] = ()
    """Keys of which those that a row has hold texts where the row is what it seems."""
    lists: tuple[str, ...] = ()
    """Keys of which those that a row has hold lists then; a text may be one written as JSON."""
    covers: frozenset[str] = frozenset()
    """Formats whose keys are a part of this one's, so that they do not make it ambiguous."""

    def fits(self, fields: Fields) -> bool:
        """Return whether the values have the types of this format, at a glance."""
        given = _given(fields)
        return (
            (self.name == TREE or self.matches(given))
            and all(isinstance(given.get(key, ""), str) for key in self.texts)
            and all(isinstance(given.get(key, []), list | str) for key in self.lists)
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row says."""

    messages: tuple[Message, ...]
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    repairs: tuple[str, ...] = ()


def shape_of(fields: Fields) -> Shape:
    """Return the first shape whose keys `fields` has; the last one takes everything.

    Keys without a value (null) count only where no shape fits without them: tables have the
    columns of all rows in each.
    """
    given = _given(fields)
    shape = next(shape for shape in SHAPES if shape.matches(given))
    if shape.name in _FALLBACKS and len(given) < len(fields):
        of_all = next(shape for shape in SHAPES if shape.matches(fields))
        return shape if of_all.name == UNKNOWN else of_all
    return shape


def candidates(fields: Fields) -> tuple[str, ...]:
    """Return the formats that a row may have, `shape_of` first; one name where it is clear.

    Question and answer under several pairs of keys are told apart by naming the keys.
    """
    given = _given(fields)
    first = shape_of(fields)
    names = [first.name]
    if first.name not in _FALLBACKS:
        names += [
            shape.name
            for shape in SHAPES
            if shape is not first
            and shape.name not in _FALLBACKS | first.covers
            and shape.matches(given)
        ]
    if "question_answer" in names:
        place = names.index("question_answer")
        pairs = [
            f"{asks}, {answers}" for asks, answers in _PAIRS if {asks, answers} <= given.keys()
        ]
        if len(pairs) > 1:
            names[place : place + 1] = [f"question_answer ({pair})" for pair in pairs]
    if first.name == "prompt_completion" and _may_be_labelled(given):
        names.append(LABELLED)
    return tuple(names)


def understood() -> str:
    """Return the formats that can be read and the keys that make each, for messages."""
    return "; ".join(f"{shape.name} ({shape.keys})" for shape in SHAPES if shape.keys)


def messages_of(fields: Fields, choices: TurnChoices | None = None) -> tuple[Message, ...]:
    """Return the conversation that a row holds.

    A `system` text of the row's own comes first in every format.

    Raises:
        RowError: the row has no known shape, or its values do not make a conversation with a
            question and an answer.
    """
    return conversation_of(fields, choices).messages


def conversation_of(
    fields: Fields, choices: TurnChoices | None = None, shape: Shape | None = None
) -> Reading:
    """Return the conversation that a row holds, with the repairs that made it one.

    `shape` is that of `shape_of`, where it is known.

    Raises:
        RowError: as `messages_of`.
    """
    shape = shape or shape_of(fields)
    if shape.read is None:
        raise RowError(_no_conversation(shape, fields))
    mender = Mender()
    fields = _clean_keys(fields, mender)
    tools = offered(fields)
    reader = TurnReader(fields, choices or TurnChoices(), mender)
    messages = _with_links(shape.read(fields, reader), reader)
    messages = _with_system(fields, messages, mender)
    messages = mender.conversation(messages)
    return Reading((*tools, *messages), repairs=mender.rules)


def pair_of(
    fields: Fields, choices: TurnChoices | None = None, shape: Shape | None = None
) -> Reading:
    """Return the preference pair that a row holds.

    `shape` is that of `shape_of`, where it is known.

    Raises:
        RowError: the row is none, or its values do not make one.
    """
    shape = shape or shape_of(fields)
    if shape.name != PREFERENCE:
        raise RowError(_no_pair(shape, fields))
    mender = Mender()
    fields = _clean_keys(fields, mender)
    tools = offered(_holder_of_tools(fields))
    reader = TurnReader(fields, choices or TurnChoices(), mender)
    pair = read_pair(fields, reader, mender)
    prompt = _with_system(fields, _with_links(pair.prompt, reader), mender)
    pair = mended_pair(pair.with_prompt(prompt), mender)
    return Reading((*tools, *pair.prompt), tuple(pair.chosen), tuple(pair.rejected), mender.rules)


def labelled_of(
    fields: Fields, choices: TurnChoices | None = None, shape: Shape | None = None
) -> Reading:
    """Return the answer of a row that is labelled good or bad by itself, as one side of a pair.

    A row of a preference pair is returned as that: both of its answers are labelled.

    Raises:
        RowError: the row is neither, or its values do not make one.
    """
    shape = shape or shape_of(fields)
    if shape.name == PREFERENCE:
        return pair_of(fields, choices, shape)
    if shape.name != LABELLED and not _may_be_labelled(_given(fields)):
        raise RowError(_no_label(shape, fields))
    mender = Mender()
    fields = _clean_keys(fields, mender)
    tools = offered(fields)
    reader = TurnReader(fields, choices or TurnChoices(), mender)
    turns, size = _labelled_turns(fields, reader)
    prompt = _with_system(fields, _with_links(turns[:-size], reader), mender)
    prompt = mender.prompt(prompt)
    answer = tuple(mender.answer(turns[-size:], "the labelled answer"))
    none: tuple[Message, ...] = ()
    chosen, rejected = (answer, none) if _is_good(fields["label"]) else (none, answer)
    return Reading((*tools, *prompt), chosen, rejected, mender.rules)


def _labelled_turns(fields: Fields, reader: TurnReader) -> tuple[list[Message], int]:
    """Return a labelled row's messages, and how many of them at its end are the answer."""
    given = _given(fields)
    if "completion" in given:
        if "prompt" not in given:
            raise RowError("the row has a labelled completion and no prompt")
        completion = fields["completion"]
        turns = _prompt_completion(fields, reader)
        return turns, len(completion) if isinstance(completion, list) else 1
    turns = _chat(fields, reader) if "messages" in given else _sharegpt(fields, reader)
    if not turns or turns[-1].role != "assistant":
        raise RowError("the messages do not end with the answer that is labelled")
    return turns, 1


def _is_good(label: object) -> bool:
    """Return what a label says; `_is_labelled` or `_may_be_labelled` knows it."""
    return str(label).strip().lower() in {"true", "1"}


def raw_text_of(fields: Fields) -> Reading:
    """Return a row's text, which is to be learned as it stands, as a message of role `text`.

    Raises:
        RowError: there is none.
    """
    text = fields.get("text")
    if not isinstance(text, str):
        raise RowError(f"text is {kind(text)}, not a text")
    if not text.strip():
        raise RowError("text is empty")
    return Reading((Message(RAW_TEXT, text),))


def _given(fields: Fields) -> Fields:
    if _has_mark(fields):
        fields = {key.lstrip("\ufeff"): value for key, value in fields.items()}
    if None in fields.values():
        return {key: value for key, value in fields.items() if value is not None}
    return fields


def _has_mark(fields: Fields) -> bool:
    """Return whether the first key begins with a byte order mark, as a table's first column may."""
    return next(iter(fields), "")[:1] == "\ufeff"


def _clean_keys(fields: Fields, mender: Mender) -> Fields:
    if not _has_mark(fields):
        return fields
    mender.note("byte_order_mark")
    return {key.lstrip("\ufeff"): value for key, value in fields.items()}


def _no_conversation(shape: Shape, fields: Fields) -> str:
    if shape.name != UNKNOWN:
        return shape.refusal
    keys = key_list(fields)
    answer = next((wanted for asks, wanted in _ANSWERS if asks in fields), None)
    if answer is not None:
        return f"the row has no answer: it has {keys}, and {answer} is missing"
    return f"the row has no known format: {keys}"


def _no_pair(shape: Shape, fields: Fields) -> str:
    if shape.name == UNKNOWN:
        return f"the row has no known format: {key_list(fields)}"
    if shape.name == LABELLED:
        return "the row's answer is labelled good or bad by itself, which makes no pair"
    return f"the row is {shape.name}, not a preference pair"


def _no_label(shape: Shape, fields: Fields) -> str:
    if shape.name == UNKNOWN:
        return f"the row has no known format: {key_list(fields)}"
    return f"the row is {shape.name}, and its answer is not labelled good or bad (label)"


def _holder_of_tools(fields: Fields) -> Fields:
    """Return what may hold the tools of a pair: OpenAI's have them in their `input`."""
    inner = fields.get("input")
    return inner if isinstance(inner, dict) and "tools" in inner else fields


def _with_links(messages: list[Message], reader: TurnReader) -> list[Message]:
    """Return `messages` with the images that no text has a mark for in front of the question."""
    links = list(reader.links_left())
    asked = next((place for place, turn in enumerate(messages) if turn.role == "user"), None)
    if not links or asked is None:
        return messages
    text = "\n".join([*links, messages[asked].content])
    return [*messages[:asked], Message("user", text), *messages[asked + 1 :]]


def _with_system(fields: Fields, messages: list[Message], mender: Mender) -> list[Message]:
    system = _optional(fields, "system")
    if not system.strip():
        return messages
    said = [turn.content.strip() for turn in messages if turn.role == "system"]
    if not any(said):
        return [Message("system", system), *messages]
    if said != [system.strip()]:
        raise RowError("the row has a system text and a system message")
    mender.note("repeated_system")
    return messages


def _has(*keys: str) -> Callable[[Fields], bool]:
    return lambda fields: all(key in fields for key in keys)


def _is_labelled(fields: Fields) -> bool:
    label = fields.get("label")
    is_label = isinstance(label, bool) or (
        isinstance(label, str) and label.strip().lower() in {"true", "false"}
    )
    return is_label and any(key in fields for key in ("completion", "messages", "conversations"))


def _may_be_labelled(fields: Fields) -> bool:
    """Return whether the label of a row, as `_given` returns it, may be one of good and bad."""
    label = fields.get("label")
    is_answer = {"prompt", "completion"} <= fields.keys()
    return is_answer and isinstance(label, int | str) and str(label).strip() in {"0", "1"}


def _is_question_answer(fields: Fields) -> bool:
    return any(question in fields and answer in fields for question, answer in _PAIRS)


def _is_tree(fields: Fields) -> bool:
    return is_tree_message(fields) or is_nested_tree(fields)


def _chat(fields: Fields, reader: TurnReader) -> list[Message]:
    return reader.turns(fields["messages"], "messages")


def _sharegpt(fields: Fields, reader: TurnReader) -> list[Message]:
    return reader.turns(fields["conversations"], "conversations")


def _prompt_completion(fields: Fields, reader: TurnReader) -> list[Message]:
    prompt, completion = fields["prompt"], fields["completion"]
    asked = (
        reader.turns(prompt, "prompt")
        if isinstance(prompt, list)
        else [reader.question(_text(fields, "prompt"))]
    )
    answered = (
        reader.turns(completion, "completion")
        if isinstance(completion, list)
        else [Message("assistant", _text(fields, "completion"))]
    )
    return asked + answered


def _alpaca(fields: Fields, reader: TurnReader) -> list[Message]:
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise RowError(f"history is {kind(history)}, not a list of questions and answers")
    messages = []
    for number, pair in enumerate(history, start=1):
        match pair:
            case [str(question), str(answer)]:
                messages += [reader.question(question), Message("assistant", answer)]
            case _:
                raise RowError(f"history entry {number} is not a question and an answer")
    return [*messages, *_instruction(fields, reader, "input", "output")]


def _dolly(fields: Fields, reader: TurnReader) -> list[Message]:
    return _instruction(fields, reader, "context", "response")


def _instruction(
    fields: Fields, reader: TurnReader, extra_key: str, answer_key: str
) -> list[Message]:
    """Return the question, what it is about below it after an empty line, and the answer."""
    asked = _text(fields, "instruction")
    extra = _optional(fields, extra_key)
    if extra.strip():
        asked = f"{asked}\n\n{extra}" if asked.strip() else extra
    return [reader.question(asked), Message("assistant", _text(fields, answer_key))]


def _question_answer(fields: Fields, reader: TurnReader) -> list[Message]:
    given = _given(fields)
    question, answer = next(
        (pair for pair in _PAIRS if pair[0] in given and pair[1] in given),
        next((pair for pair in _PAIRS if pair[0] in fields and pair[1] in fields), _PAIRS[0]),
    )
    return [reader.question(_text(fields, question)), Message("assistant", _text(fields, answer))]


def _text(fields: Fields, key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not a text")
    return value


def _optional(fields: Fields, key: str) -> str:
    """Return the text at `key`; a missing one and null are empty."""
    return "" if fields.get(key) is None else _text(fields, key)


_FALLBACKS: Final = frozenset({"tokenized", "text", UNKNOWN})
"""Formats that a row has only where it has no other: their keys go along with many."""

SHAPES: Final = (
    Shape(
        PREFERENCE,
        is_preference,
        keys="chosen, rejected or rejected_message or preferred_output, non_preferred_output",
        refusal="the row is a preference pair, which supervised training cannot use",
        covers=frozenset({"chat", "sharegpt"}),
    ),
    Shape(
        LABELLED,
        _is_labelled,
        refusal="the row's answer is labelled good or bad (label is true or false),"
        " which supervised training cannot use",
        covers=frozenset({"chat", "sharegpt", "prompt_completion"}),
    ),
    Shape("chat", _has("messages"), _chat, "messages", lists=("messages",)),
    Shape("sharegpt", _has("conversations"), _sharegpt, "conversations", lists=("conversations",)),
    Shape(
        "prompt_completion",
        _has("prompt", "completion"),
        _prompt_completion,
        "prompt, completion",
        lists=("prompt", "completion"),
    ),
    Shape(
        "alpaca",
        _has("instruction", "output"),
        _alpaca,
        "instruction, output",
        texts=("instruction", "output"),
    ),
    Shape(
        "dolly",
        _has("instruction", "response"),
        _dolly,
        "instruction, response",
        texts=("instruction", "response"),
    ),
    Shape(
        "question_answer",
        _is_question_answer,
        _question_answer,
        " or ".join(f"{question}, {answer}" for question, answer in _PAIRS),
        texts=tuple(key for pair in _PAIRS for key in pair),
    ),
    Shape(
        TREE,
        _is_tree,
        keys="message_id, parent_id, text, role",
        refusal="the row is one message of a tree (oasst), which is read with its whole file",
    ),
    Shape(
        "tokenized",
        _has("input_ids"),
        refusal="the row holds token ids, which fit one tokenizer only",
    ),
    Shape(
        TEXT,
        _has("text"),
        refusal="the row is raw text, without a question and an answer",
    ),
    Shape(UNKNOWN, lambda _: True),
)
"""In the order in which they are tried: what must not be trained on as it stands comes first."""
