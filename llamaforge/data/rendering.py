"""Chat templates at work: Jinja in a sandbox, with limits, since a template is from outside."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Final, NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llamaforge.data.privacy import masked_line
from llamaforge.data.records import Message, RowError, is_raw_text
from llamaforge.data.templates import Template
from llamaforge.data.tool_calls import split_offer
from llamaforge.errors import InvalidFileError

_OUTPUT_CHARACTERS: Final = 1_000_000
_LOOP_TURNS: Final = 100_000


Bounded = Callable[[], AbstractContextManager[object]]
"""Makes what bounds the time and the memory of code from outside."""


def check_syntax(text: str) -> None:
    """Return if `text` can be read as a template; nothing of it is carried out.

    Raises:
        InvalidFileError: it is not valid Jinja.
    """
    try:
        _environment().parse(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise _unreadable(error) from error


class TokenTexts(Protocol):
    """What a template is told of a tokenizer."""

    bos_id: int | None
    eos_id: int | None

    def text_of(self, number: int | None) -> str:
        """Return one token's text."""


class CompiledTemplate:
    """One chat template, ready to render."""

    def __init__(
        self,
        template: Template,
        tokens: TokenTexts,
        today: datetime,
        bounded: Bounded = nullcontext,
    ) -> None:
        """Compile the template.

        Args:
            template: the template.
            tokens: what it is told of the tokenizer.
            today: the date that it may show.
            bounded: what the template's code runs in; an error raised there is the template's.

        Raises:
            InvalidFileError: the template is not valid Jinja.
        """
        self._tokens = tokens
        self._bounded = bounded
        environment = _environment()
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = today.strftime
        self._budget = _Budget()
        environment.globals["range"] = self._budget.range
        try:
            with bounded():
                self._compiled = environment.from_string(template.text)
        # Beside its own errors Jinja lets through what Python says of the code made from it: blocks
        # nested too deep, numbers and texts that are too large.
        except Exception as error:
            raise _unreadable(error) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        contents: Sequence[str] | None = None,
        generation_prompt: bool = False,
    ) -> str:
        """Return the conversation as text.

        Args:
            messages: the conversation; in front of it may stand what it has on offer.
            contents: what to write in place of each message's content.
            generation_prompt: whether to ask for an answer, as before the model writes one.

        Raises:
            RowError: the template refuses the conversation.
        """
        if contents is None:
            contents = [message.content for message in messages]
        if is_raw_text(messages):
            if generation_prompt:
                raise RowError("it is raw text, which asks nothing")
            return contents[0]
        tools, _ = split_offer(messages)
        turns = [
            _for_template(message, content)
            for message, content in zip(messages, contents, strict=True)
            if message.role != "tools"
        ]
        room = _OUTPUT_CHARACTERS + 8 * sum(len(message.words) for message in messages)
        self._budget.refill()
        parts: list[str] = []
        try:
            with self._bounded():
                for part in self._compiled.generate(
                    messages=turns,
                    add_generation_prompt=generation_prompt,
                    bos_token=self._tokens.text_of(self._tokens.bos_id),
                    eos_token=self._tokens.text_of(self._tokens.eos_id),
                    tools=tools or None,
                ):
                    parts.append(part)
                    room -= len(part)
                    if room < 0:
                        _raise("it writes without end")
        # A template is a program from outside: whatever it raises is a reason to leave the row out.
        except Exception as error:
            raise RowError(f"the chat template refuses it: {_reason(error, limit=120)}") from error
        return "".join(parts)


class _Budget:
    """How often the loops of one rendering may turn; templates from outside could turn for ever."""

    def __init__(self) -> None:
        self._left = 0

    def refill(self) -> None:
        """Begin another rendering."""
        self._left = _LOOP_TURNS

    def range(self, *bounds: int) -> range:
        """Return Python's `range`, if the budget has room for it."""
        wanted = range(*bounds)
        self._left -= len(wanted)
        if self._left < 0:
            _raise("it loops without end")
        return wanted


def _for_template(message: Message, content: str) -> dict[str, Any]:
    """Return a message as templates of transformers are given it."""
    fields: dict[str, Any] = {"role": message.role, "content": content}
    if message.calls:
        fields["tool_calls"] = json.loads(message.calls)
    if message.name:
        fields["name"] = message.name
    if message.call_id:
        fields["tool_call_id"] = message.call_id
    return fields


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    known: Mapping[str, Any] = {
        key: options[key] for key in ("indent", "separators", "sort_keys") if key in options
    }
    return json.dumps(value, ensure_ascii=bool(options.get("ensure_ascii", False)), **known)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )


def _unreadable(error: Exception) -> InvalidFileError:
    return InvalidFileError(
        f"The chat template cannot be read: {_reason(error, limit=160)}.",
        "Give another one: --set chat_template=chatml",
        code="chat_template",
    )


def _reason(error: Exception, limit: int) -> str:
    """Return what an error of a template says, safe to print."""
    if isinstance(error, MemoryError):
        return "it asks for too much memory"
    return masked_line(str(error).rstrip("."), limit=limit) or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
