"""A Modelfile for people to read and for `ollama create NAME -f Modelfile`.

Source of the format: `parser/parser.go` of Ollama. It knows two quotes, `"…"` and three of them
in a row, and no escapes; it drops characters that cannot be printed. What cannot be written so
that the parser reads back the same is refused: nothing a model or a template says may become an
instruction. The program itself creates models through the server's JSON interface.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llamaforge import paths
from llamaforge.catalog.names import parse_name
from llamaforge.catalog.store import Store
from llamaforge.errors import RefusedError
from llamaforge.recipe.spec import ResolvedModel
from llamaforge.safe_text import safe_line

_QUOTES: Final = '"""'
_KEY: Final = re.compile(r"[A-Za-z0-9_]+")
_INSTRUCTIONS: Final = frozenset(
    {
        "from", "model", "adapter", "draft", "template", "system", "license", "renderer",
        "parser", "requires", "parameter", "message",
    }
)  # fmt: skip
_ROLES: Final = ("system", "user", "assistant")
_LINE_ENDS: Final = "\n\r"
_HEAD: Final = """\
# Made by LlamaForge. Template, parameters and system text are those of the model after FROM.
# ADAPTER needs Ollama 0.30.0 to 0.34.0; from 0.34.1 on Ollama takes merged models only.
"""


def modelfile_over(model: ResolvedModel, adapter: Path) -> str:
    """Return a Modelfile that lays `adapter` over the model that a run was trained on.

    The built-in model is in no Ollama store, so it is named by its file and brings its template,
    parameters and system text along.

    Raises:
        LlamaForgeError: as `modelfile_text`; or the store cannot be read.
    """
    if model.store != paths.embedded_store():
        return modelfile_text(model.name, adapter)
    stored = Store.open(model.store).find(model.name)
    return modelfile_text(
        model.blob,
        adapter,
        template=stored.template,
        system=stored.system,
        parameters=stored.parameters,
    )


def modelfile_text(
    base: str | Path,
    adapter: Path | None,
    *,
    template: str | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    licenses: Sequence[str] = (),
    renderer: str | None = None,
    parser: str | None = None,
) -> str:
    """Return a Modelfile that lays `adapter` over `base`, an Ollama model or a GGUF file's path.

    After `FROM` and a name, Ollama takes over template, parameters and system text of that
    model: give only what shall differ.

    Raises:
        UsageError: `base` is not a model's name.
        RefusedError: a value cannot be written without changing or ending it
            (`modelfile_breakout`).
    """
    if isinstance(base, Path):
        lines = [f"FROM {_line('the path of the model', str(base.absolute()))}"]
    else:
        lines = [f"FROM {parse_name(base).short}"]
    if adapter is not None:
        lines.append(f"ADAPTER {_line('the path of the adapter', str(adapter.absolute()))}")
    if template is not None:
        lines.append(f"TEMPLATE {_text('the template', template)}")
    if system is not None:
        lines.append(f"SYSTEM {_text('the system text', system)}")
    lines += _parameter_lines(parameters or {})
    lines += [_message_line(message) for message in messages]
    if renderer is not None:
        lines.append(f"RENDERER {_line('the renderer', renderer)}")
    if parser is not None:
        lines.append(f"PARSER {_line('the parser', parser)}")
    lines += [f"LICENSE {_text('the license', text)}" for text in licenses]
    return (_HEAD if adapter is not None else "") + "\n".join(lines) + "\n"


def two_commands(name: str, modelfile: Path) -> list[str]:
    """Return the shell commands that create the model `name` from a Modelfile and run it.

    Raises:
        UsageError: `name` is not a model's name.
    """
    model = parse_name(name).short
    return [
        shlex.join(["ollama", "create", model, "-f", str(modelfile.absolute())]),
        shlex.join(["ollama", "run", model]),
    ]


def _parameter_lines(parameters: Mapping[str, Any]) -> Iterator[str]:
    for key, value in parameters.items():
        # The parser keeps a parameter by its bare name, where `adapter` would be the instruction.
        if not _KEY.fullmatch(key) or key.lower() in _INSTRUCTIONS:
            raise _breakout("the name of a parameter", f"{safe_line(key, limit=40)!r} is none")
        for item in value if isinstance(value, list | tuple) else [value]:
            yield f"PARAMETER {key} {_parameter(key, item)}"


def _parameter(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _line(f"the parameter {key}", value)
    raise _breakout(f"the parameter {key}", "it is neither text nor a number")


def _message_line(message: Mapping[str, Any]) -> str:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES or not isinstance(content, str):
        raise _breakout("a message", f"its role must be one of {', '.join(_ROLES)}")
    return f"MESSAGE {role} {_text('a message', content)}"


def _line(what: str, value: str) -> str:
    """Return `value` quoted, for a place that has one line."""
    if any(end in value for end in _LINE_ENDS):
        raise _breakout(what, "it has a line break")
    return _text(what, value)


def _text(what: str, value: str) -> str:
    """Return `value` quoted, so that the parser reads back exactly the same."""
    if _QUOTES in value:
        raise _breakout(what, 'it has """ in it')
    lost = next((char for char in value if not char.isprintable() and char not in "\n\r\t"), None)
    if lost is not None:
        raise _breakout(what, f"the parser drops the character U+{ord(lost):04X}")
    simple = '"' not in value and not any(end in value for end in _LINE_ENDS)
    return f'"{value}"' if simple else f"{_QUOTES}{value}{_QUOTES}"


def _breakout(what: str, why: str) -> RefusedError:
    return RefusedError(
        f"A Modelfile cannot hold {what}: {why}.",
        "Publish through the server instead, which takes it as it is: llamaforge publish",
        code="modelfile_breakout",
    )
