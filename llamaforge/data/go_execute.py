"""Executes the tree of a Go template as Go does; what is not known here is an error.

Sources: the documentation of Go's `text/template` and its `exec.go` and `funcs.go`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamaforge.data.go_parse import (
    Action,
    Branch,
    Call,
    Chain,
    Field,
    Function,
    GoTemplateError,
    Literal,
    Node,
    Pipe,
    Text,
    Value,
)

_MOST_STEPS: Final = 200_000
_MOST_CHARACTERS: Final = 2_000_000
_NO_VALUE: Final = "<no value>"


@dataclass(frozen=True, slots=True)
class Turn:
    """A message as Ollama's `api.Message` shows it to a template."""

    role: str
    content: str

    def field(self, name: str) -> Any:
        """Return a field of the message; what a plain conversation lacks is Go's zero value."""
        fields: dict[str, Any] = {
            "Role": self.role,
            "Content": self.content,
            "Thinking": "",
            "Images": [],
            "ToolCalls": [],
            "ToolName": "",
            "ToolCallID": "",
        }
        if name not in fields:
            raise GoTemplateError(f"a message has no .{name}")
        return fields[name]


class _Break(Exception):  # noqa: N818 - it is how a loop ends
    pass


class _Continue(Exception):  # noqa: N818
    pass


def execute(nodes: Sequence[Node], data: Mapping[str, Any]) -> str:
    """Return what the template `nodes` writes of `data`: texts, truth values, lists and turns.

    Raises:
        GoTemplateError: it fails in Go too, uses what is not known here, or has no end.
    """
    execution = _Execution(dict(data))
    execution.walk(nodes, execution.root)
    return "".join(execution.parts)


class _Execution:
    """One execution of a template: what it has written, and its variables."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.parts: list[str] = []
        self._variables: list[tuple[str, Any]] = [("$", root)]
        self._steps = 0
        self._characters = 0

    def walk(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise GoTemplateError("it runs without end")
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                value = self._pipe(node.pipe, dot)
                if not node.pipe.names:
                    self._write(_printed(value))
            elif isinstance(node, Branch):
                mark = len(self._variables)
                self._branch(node, dot)
                del self._variables[mark:]
            else:
                raise _Break if node.word == "break" else _Continue

    def _write(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > _MOST_CHARACTERS:
            raise GoTemplateError("it writes without end")
        self.parts.append(text)

    def _branch(self, node: Branch, dot: Any) -> None:
        if node.kind == "range":
            self._range(node, dot)
            return
        value = self._pipe(node.pipe, dot)
        if _truth(value):
            self.walk(node.then, value if node.kind == "with" else dot)
        elif node.otherwise is not None:
            self.walk(node.otherwise, dot)

    def _range(self, node: Branch, dot: Any) -> None:
        pipe = Pipe(node.pipe.calls)  # a range sets its variables itself, once for each element
        items = self._pipe(pipe, dot)
        if items is not None and not isinstance(items, list):
            raise GoTemplateError(f"range over {_kind(items)} cannot be rendered here")
        if not items:
            if node.otherwise is not None:
                self.walk(node.otherwise, dot)
            return
        for place, item in enumerate(items):
            mark = len(self._variables)
            for name, value in zip(node.pipe.names[::-1], (item, place), strict=False):
                self._set(name, value, assigns=node.pipe.assigns)
            try:
                self.walk(node.then, item)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del self._variables[mark:]

    def _set(self, name: str, value: Any, *, assigns: bool) -> None:
        if not assigns:
            self._variables.append((name, value))
            return
        for place in range(len(self._variables) - 1, -1, -1):
            if self._variables[place][0] == name:
                self._variables[place] = (name, value)
                return
        raise GoTemplateError(f"the variable {name} is not defined")

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for place, call in enumerate(pipe.calls):
            value = self._call(call, dot, [value] if place else [])
        for name in pipe.names:
            self._set(name, value, assigns=pipe.assigns)
        return value

    def _call(self, call: Call, dot: Any, piped: list[Any]) -> Any:
        first, *rest = call.values
        if isinstance(first, Function):
            return self._function(first.name, rest, dot, piped)
        if rest or piped:
            raise GoTemplateError("a value that is no function is given arguments")
        return self._value(first, dot)

    def _function(self, name: str, rest: Sequence[Value], dot: Any, piped: list[Any]) -> Any:
        if name in {"and", "or"}:
            value: Any = None
            count = len(rest) + len(piped)
            if not count:
                raise GoTemplateError(f"{name} has no arguments")
            for place in range(count):  # Go works the arguments out only as far as it needs them
                value = self._value(rest[place], dot) if place < len(rest) else piped[0]
                if _truth(value) is (name == "or"):
                    break
            return value
        function = _FUNCTIONS.get(name)
        if function is None:
            raise GoTemplateError(f"the function {name} cannot be rendered here")
        return function(*[self._value(value, dot) for value in rest], *piped)

    def _value(self, value: Value, dot: Any) -> Any:
        if isinstance(value, Literal):
            return value.value
        if isinstance(value, Function):
            return self._function(value.name, (), dot, [])
        if isinstance(value, Pipe):
            return self._pipe(value, dot)
        if isinstance(value, Field):
            return _fields(dot, value.names)
        if isinstance(value, Chain):
            return _fields(self._pipe(value.pipe, dot), value.names)
        for name, known in reversed(self._variables):
            if name == value.name:
                return _fields(known, value.names)
        raise GoTemplateError(f"the variable {value.name} is not defined")


def _fields(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        if isinstance(value, dict):
            value = value.get(name)  # a key that is missing has no value, which is not an error
        elif isinstance(value, Turn):
            value = value.field(name)
        else:
            raise GoTemplateError(f"{_kind(value)} has no .{name}")
    return value


def _truth(value: Any) -> bool:
    return True if isinstance(value, Turn) else bool(value)


def _printed(value: Any) -> str:
    if value is None:
        return _NO_VALUE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise GoTemplateError(f"printing {_kind(value)} cannot be rendered here")


def _kind(value: Any) -> str:
    if isinstance(value, Turn):
        return "a message"
    kinds = {bool: "a truth value", int: "a number", str: "a text", list: "a list", dict: "a map"}
    return kinds.get(type(value), "nothing")


def _equal(*values: Any) -> bool:
    first, *others = _at_least("eq", values, 2)
    return any(_same(first, other) for other in others)


def _same(one: Any, other: Any) -> bool:
    for value in (one, other):
        if isinstance(value, list | dict):
            raise GoTemplateError(f"comparing {_kind(value)} cannot be rendered here")
    if one is None or other is None:
        return one is other
    if type(one) is not type(other):
        raise GoTemplateError(f"{_kind(one)} is compared with {_kind(other)}")
    return one is other if isinstance(one, Turn) else bool(one == other)


def _ordered(name: str, holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare(*values: Any) -> bool:
        one, other = _exactly(name, values, 2)
        if type(one) is not type(other) or type(one) not in {int, str}:
            raise GoTemplateError(f"{name} of {_kind(one)} and {_kind(other)}")
        # Code points of texts are in the order of their UTF-8 bytes, which Go compares.
        return holds(one, other)

    return compare


def _length(*values: Any) -> int:
    (value,) = _exactly("len", values, 1)
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, list | dict):
        return len(value)
    raise GoTemplateError(f"len of {_kind(value)}")


def _index(*values: Any) -> Any:
    value, *places = _at_least("index", values, 1)
    if value is None:
        raise GoTemplateError("index of nothing")
    for place in places:
        if isinstance(value, dict) and isinstance(place, str):
            value = value.get(place)
        elif isinstance(value, list) and type(place) is int and 0 <= place < len(value):
            value = value[place]
        else:
            raise GoTemplateError(f"index of {_kind(value)} is out of range or of the wrong kind")
    return value


def _slice(*values: Any) -> Any:
    value, *bounds = _at_least("slice", values, 1)
    if not isinstance(value, list) or len(bounds) > 2:
        raise GoTemplateError(f"slice of {_kind(value)} cannot be rendered here")
    start = bounds[0] if bounds else 0
    stop = bounds[1] if len(bounds) > 1 else len(value)
    if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= len(value):
        raise GoTemplateError("slice is out of range")
    return value[start:stop]


def _not(*values: Any) -> bool:
    (value,) = _exactly("not", values, 1)
    return not _truth(value)


def _not_equal(*values: Any) -> bool:
    one, other = _exactly("ne", values, 2)
    return not _same(one, other)


def _print(*values: Any) -> str:
    # Go puts a space between two operands of which neither is a text.
    parts: list[str] = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            parts.append(" ")
        parts.append("<nil>" if value is None else _printed(value))
    return "".join(parts)


def _at_least(name: str, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) < count:
        raise GoTemplateError(f"{name} has too few arguments")
    return values


def _exactly(name: str, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) != count:
        raise GoTemplateError(f"{name} has {len(values)} arguments")
    return values


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "eq": _equal,
    "ne": _not_equal,
    "lt": _ordered("lt", lambda one, other: one < other),
    "le": _ordered("le", lambda one, other: one <= other),
    "gt": _ordered("gt", lambda one, other: one > other),
    "ge": _ordered("ge", lambda one, other: one >= other),
    "not": _not,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
}
