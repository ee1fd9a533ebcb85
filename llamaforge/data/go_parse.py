"""Go's template language as a tree: what `go_template` executes.

Source: the packages `text/template` and `text/template/parse` of Go.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_DEEPEST: Final = 50
_MOST_TOKENS: Final = 100_000
_SPACES: Final = " \t\r\n"
_COMMENT: Final = re.compile(r"/\*(?:[^*]|\*(?!/))*+\*/(?P<close>[ \t\r\n]-\}\}|\}\})")
_TOKEN: Final = re.compile(
    r"""(?P<close>[ \t\r\n]-\}\}|\}\})
      |(?P<space>[ \t\r\n]+(?!-\}\}))
      |(?P<string>"(?:\\.|[^"\\\n])*")
      |(?P<raw>`[^`]*`)
      |(?P<sign>:=|[=|,()])
      |(?P<number>[+-]?(?:0|[1-9][0-9]{0,17})(?![\w.]))
      |(?P<variable>\$\w*)
      |(?P<field>\.[^\W\d]\w*)
      |(?P<dot>\.(?!\d))
      |(?P<word>[^\W\d]\w*)""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.?))")
_ESCAPED: Final = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
_FUNCTIONS: Final = frozenset(
    {
        "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not",
        "or", "print", "printf", "println", "slice", "urlquery",
        "json", "currentDate", "yesterdayDate", "toTypeScriptType",
    }
)  # fmt: skip
"""Of Go and of Ollama; whether one can be executed here is known when it is."""


class GoTemplateError(Exception):
    """A Go template cannot be rendered here. The text is the reason, one clause."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is written as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, a number, a truth value or nil."""

    value: str | int | bool | None


@dataclass(frozen=True, slots=True)
class Function:
    """A function by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B` of the dot; no names for the dot itself."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name.A.B`; `$` is what the template was given."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipe).A.B`."""

    pipe: "Pipe"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A value, or a function and its arguments."""

    values: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Calls of which each gets what the one before it gave, and the variables set to the last."""

    calls: tuple[Call, ...]
    names: tuple[str, ...] = ()
    assigns: bool = False
    """Whether the variables are there already (`=`); else they begin here (`:=`)."""


Value = Literal | Function | Field | Variable | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipe }}`."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`{{ if }}`, `{{ with }}` or `{{ range }}`, named by `kind`."""

    kind: str
    pipe: Pipe
    then: tuple["Node", ...]
    otherwise: tuple["Node", ...] | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`{{ break }}` or `{{ continue }}`."""

    word: str


Node = Text | Action | Branch | Jump


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`text`, `open`, or the name of a group of `_TOKEN`."""
    text: str


def parse(text: str) -> tuple[Node, ...]:
    """Return the nodes of a template.

    Raises:
        GoTemplateError: it is not valid, or uses what is not known here.
    """
    tokens: list[_Token] = []
    for token in _tokens(text):
        tokens.append(token)
        if len(tokens) > _MOST_TOKENS:
            raise GoTemplateError("it is too long")
    return _Parser(tokens).whole()


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    trims = False
    while True:
        opening = text.find("{{", position)
        literal = text[position : opening if opening >= 0 else len(text)]
        if trims:
            literal = literal.lstrip(_SPACES)
        if opening < 0:
            yield _Token("text", literal)
            return
        position = opening + 2
        if text[position : position + 1] == "-" and text[position + 1 : position + 2] in set(
            _SPACES
        ):
            literal = literal.rstrip(_SPACES)
            position += 2
        yield _Token("text", literal)
        if text.startswith("/*", position):
            comment = _COMMENT.match(text, position)
            if comment is None:
                raise GoTemplateError("a comment does not end")
            position, trims = comment.end(), comment["close"] != "}}"
            continue
        yield _Token("open", "{{")
        for token in _inside(text, position):
            position += len(token.text)
            yield token
        trims = token.text != "}}"


def _inside(text: str, position: int) -> Iterator[_Token]:
    """Yield the tokens of an action, up to the one that closes it."""
    while True:
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            rest = text[position : position + 12]
            raise GoTemplateError(
                f"{rest!r} cannot be read here" if rest else "an action is cut off"
            )
        yield _Token(found.lastgroup, found[0])
        if found.lastgroup == "close":
            return
        position = found.end()


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0
        self._loops = 0

    def whole(self) -> tuple[Node, ...]:
        nodes, end = self._nodes()
        if end:
            raise GoTemplateError(f"{{{{ {end} }}}} without a beginning")
        return nodes

    def _peek(self) -> _Token:
        return self._tokens[self._place]

    def _next(self) -> _Token:
        token = self._tokens[self._place]
        self._place += 1
        return token

    def _skip_space(self) -> None:
        while self._peek().kind == "space":
            self._place += 1

    def _accept(self, text: str) -> bool:
        """Take the next token, space aside, if it is the sign or word `text`."""
        self._skip_space()
        token = self._peek()
        found = token.kind in {"sign", "word"} and token.text == text
        self._place += found
        return found

    def _nodes(self) -> tuple[tuple[Node, ...], str]:
        """Return the nodes up to `end`, `else` or the template's end, and which it is."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise GoTemplateError("it is nested too deep")
        nodes: list[Node] = []
        end = ""
        while self._place < len(self._tokens) and not end:
            token = self._next()
            if token.kind == "text":
                nodes += [Text(token.text)] if token.text else []
                continue
            self._skip_space()
            word = self._peek().text if self._peek().kind == "word" else ""
            if word in {"end", "else"}:
                end = word
                self._place += 1
            else:
                nodes.append(self._statement(word))
        self._depth -= 1
        return tuple(nodes), end

    def _statement(self, word: str) -> Node:
        if word in {"if", "with", "range"}:
            self._place += 1
            return self._branch(word)
        if word in {"break", "continue"}:
            self._place += 1
            self._close()
            if not self._loops:
                raise GoTemplateError(f"{{{{ {word} }}}} outside of a range")
            return Jump(word)
        if word in {"define", "template", "block"}:
            raise GoTemplateError(f"{{{{ {word} }}}} cannot be rendered here")
        pipe = self._pipe()
        self._close()
        return Action(pipe)

    def _branch(self, kind: str) -> Branch:
        pipe = self._pipe(may_be_two=kind == "range")
        self._close()
        self._loops += kind == "range"
        then, end = self._nodes()
        self._loops -= kind == "range"
        otherwise: tuple[Node, ...] | None = None
        if end == "else":
            otherwise, end = self._otherwise(kind)
        else:
            self._close_end(end)
        if end != "end":
            raise GoTemplateError(f"{{{{ {kind} }}}} without an end")
        return Branch(kind, pipe, then, otherwise)

    def _otherwise(self, kind: str) -> tuple[tuple[Node, ...], str]:
        """Return what follows an `else`; of `else if` one branch, whose end is that of both."""
        if kind != "range" and self._accept(kind):
            self._depth += 1
            branch = self._branch(kind)
            self._depth -= 1
            return (branch,), "end"
        self._close()
        nodes, end = self._nodes()
        self._close_end(end)
        return nodes, end

    def _close_end(self, end: str) -> None:
        if end == "end":
            self._close()

    def _close(self) -> None:
        self._skip_space()
        if self._place >= len(self._tokens) or self._next().kind != "close":
            raise GoTemplateError("an action does not end where it should")

    def _pipe(self, *, may_be_two: bool = False) -> Pipe:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise GoTemplateError("it is nested too deep")
        names, assigns = self._declared(may_be_two=may_be_two)
        calls = [self._call()]
        while self._accept("|"):
            calls.append(self._call())
        self._depth -= 1
        return Pipe(tuple(calls), names, assigns)

    def _declared(self, *, may_be_two: bool) -> tuple[tuple[str, ...], bool]:
        start = self._place
        names: list[str] = []
        while len(names) <= int(may_be_two):
            self._skip_space()
            if self._peek().kind != "variable":
                break
            names.append(self._next().text)
            if self._accept(":="):
                return tuple(names), False
            if self._accept("="):
                return tuple(names), True
            if not self._accept(","):
                break
        self._place = start  # the variable is a value
        return (), False

    def _call(self) -> Call:
        values = [self._value()]
        while self._peek().kind == "space":
            self._skip_space()
            if self._peek().kind == "close" or self._peek().text in {"|", ")"}:
                break
            values.append(self._value())
        if values[0] == Literal(None):
            raise GoTemplateError("nil stands where a function or a value is needed")
        return Call(tuple(values))

    def _value(self) -> Value:
        self._skip_space()
        token = self._next()
        if token.kind == "field":
            self._place -= 1
            return Field(self._names())
        if token.kind == "variable":
            return Variable(token.text, self._names())
        if token.text == "(" and token.kind == "sign":
            pipe = self._pipe()
            if not self._accept(")"):
                raise GoTemplateError("a bracket does not close")
            names = self._names()
            return Chain(pipe, names) if names else pipe
        return _simple(token)

    def _names(self) -> tuple[str, ...]:
        names: list[str] = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        return tuple(names)


def _simple(token: _Token) -> Value:
    """Return the value of a token that stands for itself."""
    match token.kind:
        case "dot":
            return Field(())
        case "string":
            return Literal(_ESCAPE.sub(_unescaped, token.text[1:-1]))
        case "raw":
            return Literal(token.text[1:-1].replace("\r", ""))
        case "number":
            return Literal(int(token.text))
        case "word" if token.text in _WORDS:
            return Literal(_WORDS[token.text])
        case "word" if token.text in _FUNCTIONS:
            return Function(token.text)
    raise GoTemplateError(f"{token.text[:40]!r} cannot be rendered here")


_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "nil": None}


def _unescaped(found: re.Match[str]) -> str:
    simple, byte, point, _ = found.groups()
    if simple:
        return _ESCAPED[simple]
    number = int(byte or point or "0", 16)
    # A byte that is no character by itself, or half of one, cannot stand in text.
    if (byte and number < 0x80) or (point and not 0xD800 <= number < 0xE000):
        return chr(number)
    raise GoTemplateError(f"the escape {found[0]!r} cannot be rendered here")
