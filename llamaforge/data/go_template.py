"""The common part of Go's template language, as Ollama renders its TEMPLATE layers with it.

What is known here is rendered exactly as Go does; anything else is an error that names it, never
a guess. Sources: the documentation of Go's `text/template`, and `template/template.go` of Ollama
for what a template is given.
"""

from collections.abc import Sequence
from typing import Any

from llamaforge.data.go_execute import Turn, execute
from llamaforge.data.go_parse import (
    Action,
    Branch,
    Call,
    Field,
    GoTemplateError,
    Node,
    Pipe,
    Value,
    Variable,
    parse,
)
from llamaforge.data.records import Message


class GoTemplate:
    """A template of Ollama's TEMPLATE layer."""

    def __init__(self, text: str) -> None:
        """Read the template.

        Raises:
            GoTemplateError: it is not valid, or uses what is not known here.
        """
        nodes = parse(text)
        self._names = frozenset(name.lower() for name in _identifiers(nodes))
        if not self._names & {"messages", "response"}:
            nodes = (*nodes, Action(Pipe((Call((Field(("Response",)),)),))))
        self._nodes = nodes

    @property
    def knows_messages(self) -> bool:
        """Whether it writes a whole conversation; else Ollama calls it once for each exchange."""
        return "messages" in self._names

    def render(self, messages: Sequence[Message]) -> str:
        """Return what Ollama sends to the model: the conversation, up to where an answer begins.

        Raises:
            GoTemplateError: the template fails, or uses what is not known here.
        """
        system, turns = _collated(messages)
        if self.knows_messages:
            return execute(
                self._nodes,
                {
                    "System": system,
                    "Messages": turns,
                    "Tools": [],
                    "Response": "",
                    "Think": False,
                    "ThinkLevel": "",
                    "IsThinkSet": False,
                },
            )
        return self._by_exchange(turns)

    def _by_exchange(self, turns: Sequence[Turn]) -> str:
        parts: list[str] = []
        now = _exchange()
        for turn in turns:
            is_next = {
                "system": bool(now["Prompt"] or now["Response"]),
                "user": bool(now["Response"]),
            }
            if is_next.get(turn.role):
                parts.append(execute(self._nodes, now))
                now = _exchange()
            slot = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(turn.role)
            if slot:
                now[slot] = turn.content
        parts.append(execute(_until_response(self._nodes), now))
        return "".join(parts)


def _exchange() -> dict[str, Any]:
    return {"System": "", "Prompt": "", "Response": "", "Think": False, "ThinkLevel": "",
            "IsThinkSet": False}  # fmt: skip


def _collated(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """Return all system texts as one, and the turns, neighbours of one role joined.

    Source: `collate` of Ollama's `template/template.go`.
    """
    turns: list[Turn] = []
    for message in messages:
        if turns and turns[-1].role == message.role != "tool":
            turns[-1] = Turn(message.role, f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(Turn(message.role, message.content))
    system = "\n\n".join(item.content for item in messages if item.role == "system")
    return system, turns


def _identifiers(nodes: Sequence[Node]) -> list[str]:
    """Return the names of fields and variables in `nodes`, as Ollama's `Identifiers` does."""
    found: list[str] = []
    for node in nodes:
        if isinstance(node, Action):
            found += _pipe_names(node.pipe)
        elif isinstance(node, Branch):
            found += _pipe_names(node.pipe)
            found += _identifiers(node.then) + _identifiers(node.otherwise or ())
    return found


def _pipe_names(pipe: Pipe) -> list[str]:
    found: list[str] = []
    for call in pipe.calls:
        for value in call.values:
            if isinstance(value, Field):
                found += value.names
            elif isinstance(value, Variable):
                found += [value.name, *value.names]
            elif isinstance(value, Pipe):
                found += _pipe_names(value)
    return found


def _until_response(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return `nodes` without anything that follows the first `.Response`, which itself stays.

    Source: `Execute` and `deleteNode` of Ollama's `template/template.go`.
    """
    return _Cut().nodes(nodes)


class _Cut:
    def __init__(self) -> None:
        self._done = False

    def nodes(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        kept: list[Node] = []
        for node in nodes:
            if self._done:
                break
            if isinstance(node, Action):
                pipe = self._pipe(node.pipe)
                kept += [Action(pipe)] if pipe else []
            elif isinstance(node, Branch):
                kept.append(self._branch(node))
            else:
                kept.append(node)
        return tuple(kept)

    def _branch(self, node: Branch) -> Branch:
        then = self.nodes(node.then)
        if node.otherwise is not None and self._done:
            # Ollama's own code fails on this: its list of nodes is gone where one is asked for.
            raise GoTemplateError("{{ else }} after .Response cannot be rendered here")
        otherwise = None if node.otherwise is None else self.nodes(node.otherwise)
        return Branch(node.kind, node.pipe, then, otherwise)

    def _pipe(self, pipe: Pipe) -> Pipe | None:
        calls: list[Call] = []
        for call in pipe.calls:
            values: list[Value] = []
            for value in call.values:
                kept = self._value(value)
                values += [kept] if kept is not None else []
            if not values:
                return None
            calls.append(Call(tuple(values)))
        return Pipe(tuple(calls), pipe.names, pipe.assigns)

    def _value(self, value: Value) -> Value | None:
        if isinstance(value, Field) and "Response" in value.names:
            self._done = True
            return value
        if self._done:
            return None
        return self._pipe(value) if isinstance(value, Pipe) else value
