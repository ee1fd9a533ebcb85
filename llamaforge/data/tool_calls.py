"""Tools in rows: what a conversation has on offer, and what an answer calls.

Forms as documented by OpenAI (`tools`, `tool_calls`, and the older `functions`, `function_call`)
and as LLaMA-Factory reads ShareGPT's (`tools` as a JSON text, turns from `function_call`). What is
kept is the form that chat templates of transformers are given: arguments as an object.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from llamaforge.data.json_row import kind, parse_json
from llamaforge.data.records import Message, RowError

Fields = Mapping[str, Any]

CALLING_ROLES: Final = frozenset({"function_call", "tool_call"})
"""Roles of ShareGPT whose content is the call itself, as JSON."""
_NOTHING: Final[tuple[object, ...]] = (None, "", [], {})


def offered(fields: Fields) -> tuple[Message, ...]:
    """Return the message of role `tools` that a row's own offer makes; none where it has none.

    Raises:
        RowError: the offer is not a list of functions with names.
    """
    key = "tools" if fields.get("tools") not in _NOTHING else "functions"
    value = fields.get(key)
    if value in _NOTHING:
        return ()
    if isinstance(value, str):
        value = _parsed(value, key)
    if value in _NOTHING:
        return ()
    if not isinstance(value, list):
        raise RowError(f"{key} is {kind(value)}, not a list of functions")
    tools = [_tool(tool, f"{key} entry {number}") for number, tool in enumerate(value, start=1)]
    return (Message("tools", _text(tools)),)


def calls_in(turn: Fields, where: str) -> str:
    """Return what a message calls, as `Message.calls` keeps it; empty where it calls nothing.

    Raises:
        RowError: a call has no name, or its arguments are no object.
    """
    calls = turn.get("tool_calls")
    if calls in _NOTHING:
        calls = [] if turn.get("function_call") in _NOTHING else [turn["function_call"]]
    if isinstance(calls, str):
        calls = _parsed(calls, f"tool_calls of {where}")
    if not isinstance(calls, list):
        raise RowError(f"tool_calls of {where} is {kind(calls)}, not a list")
    return _text([_call(call, where) for call in calls]) if calls else ""


def calls_in_text(content: str, where: str) -> str:
    """Return the calls that the content of a turn from `function_call` is.

    Raises:
        RowError: it is not JSON, or as `calls_in`.
    """
    found = _parsed(content, f"the call of {where}")
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise RowError(f"the call of {where} is empty")
    return _text([_call(call, where) for call in calls])


def split_offer(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], Sequence[Message]]:
    """Return the tools that stand in front of a conversation, and the conversation."""
    if messages and messages[0].role == "tools":
        return json.loads(messages[0].content), messages[1:]
    return [], messages


def tool_names(messages: Sequence[Message]) -> list[str]:
    """Return the names of the functions on offer in a conversation."""
    return [tool["function"]["name"] for tool in split_offer(messages)[0]]


def call_names(message: Message) -> list[str]:
    """Return the names of the functions that a message calls."""
    return [call["function"]["name"] for call in json.loads(message.calls or "[]")]


def tool_texts(messages: Sequence[Message]) -> Iterator[str]:
    """Yield every text within offers and calls, keys too, and these as they stand in JSON."""
    for message in messages:
        for text in (message.content if message.role == "tools" else "", message.calls):
            if text:
                yield text
                yield from _texts(json.loads(text))
        yield message.name
        yield message.call_id


def in_openai_form(message: Message) -> dict[str, Any]:
    """Return what beside role and content a message has to say of tools, as OpenAI writes it."""
    fields: dict[str, Any] = {}
    if message.calls:
        calls = json.loads(message.calls)
        for call in calls:
            call["function"]["arguments"] = _text(call["function"]["arguments"])
        fields["tool_calls"] = calls
    if message.name:
        fields["name"] = message.name
    if message.call_id:
        fields["tool_call_id"] = message.call_id
    return fields


def _tool(tool: object, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise RowError(f"{where} is {kind(tool)}, not an object")
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise RowError(f"{where} is no function with a name")
    return tool if "function" in tool else {"type": "function", "function": tool}


def _call(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise RowError(f"a call of {where} is {kind(call)}, not an object")
    function = call.get("function", call)
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise RowError(f"a call of {where} names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"the arguments of a call of {where}")
    if arguments in _NOTHING:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowError(f"the arguments of a call of {where} are {kind(arguments)}, not an object")
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"]} | made if _is_name(call.get("id")) else made


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except RowError as error:
        raise RowError(f"{what} cannot be read as JSON: {error}") from None


def _text(value: object) -> str:
    """Return JSON in the order in which keys were given: a model learns it as it stands.

    Raises:
        RowError: a number in it is no JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise RowError("a tool or a call holds a number that is not finite") from None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
