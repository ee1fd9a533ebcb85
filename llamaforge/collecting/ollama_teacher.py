"""A model of an Ollama server as a teacher."""

import difflib
from typing import Any, Final

import httpx

from llamaforge.catalog.bounded import whole_text
from llamaforge.catalog.host import Host
from llamaforge.catalog.names import ModelName
from llamaforge.catalog.ollama_server import (
    LostAnswerError,
    OllamaServer,
    Patience,
    ServerRefusedError,
)
from llamaforge.collecting.answers import Answer, Asking, BusyError, UnansweredError
from llamaforge.data.records import Message
from llamaforge.errors import NotFoundError, RefusedError
from llamaforge.safe_text import safe_line

_STREAM_ERROR: Final = -1
_BUSY: Final = frozenset(
    {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS, _STREAM_ERROR}
)
_CLOSED: Final = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})


class OllamaTeacher(OllamaServer):
    """One model of one server.

    Args:
        host: the server.
        model: the model's name.
        answer_seconds: how long one answer may take without a new piece of it, and half of what it
            may take in all. Loading the model counts.
        allow_remote: whether prompts may leave this machine.
    """

    def __init__(
        self, host: Host, model: ModelName, *, answer_seconds: float, allow_remote: bool
    ) -> None:
        super().__init__(host, Patience())
        self._model = model
        self._answer_seconds = answer_seconds
        self._allow_remote = allow_remote

    @property
    def name(self) -> str:
        """The model's name, safe to print."""
        return self._model.short

    def require(self) -> None:
        """Check that the model is there and that asking it sends nothing elsewhere.

        Raises:
            RefusedError: no server answers (`no_server`), or the server or the model's own home
                is another machine (`remote_host`).
            NotFoundError: the server has no such model.
            LostAnswerError, ServerRefusedError: see there.
        """
        if not (self.host.is_loopback or self._allow_remote):
            raise _remote(f"The Ollama server at {safe_line(self.host.url)}")
        tags = self.tags()
        tag = next((tag for tag in tags if tag.name == self._model), None)
        if tag is None:
            raise self._missing([tag.name.short for tag in tags if tag.name is not None])
        if tag.is_remote and not self._allow_remote:
            # Such a model has no weights here: the server passes every prompt on.
            raise _remote(f"The model {self.name}")

    def ask(self, messages: tuple[Message, ...], asking: Asking) -> Answer:
        """Return the model's answer; raises as `Teacher.ask`."""
        try:
            with self._translated():
                return self._streamed(messages, asking)
        except LostAnswerError as error:
            raise BusyError(error.message.rstrip(".")) from error
        except ServerRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                raise self._missing([]) from error
            if error.status in _CLOSED:
                raise
            reason = f"the server says “{error.answer}”"
            if error.status in _BUSY or error.status >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise BusyError(reason) from error
            raise UnansweredError(reason) from error

    def _streamed(self, messages: tuple[Message, ...], asking: Asking) -> Answer:
        # In pieces: a server that hangs is told from one that is slow.
        pieces: list[str] = []
        parts = self._client(self._answer_seconds).chat(
            self._model.short,
            messages=[{"role": turn.role, "content": turn.content} for turn in messages],
            options=_options(asking),
            format=asking.schema,
            stream=True,
        )
        for part in parts:
            pieces.append(part.message.content or "")
            if part.done:
                return Answer(
                    whole_text("".join(pieces)), part.done_reason == "length", part.eval_count or 0
                )
        raise BusyError("the answer broke off")

    def _missing(self, names: list[str]) -> NotFoundError:
        near = difflib.get_close_matches(self.name, names, n=1)
        return NotFoundError(
            f"The server at {self._shown} has no model {self.name}.",
            f"Did you mean {near[0]}?" if near else f"Pull it: ollama pull {self.name}",
            code="no_model",
        )


def _options(asking: Asking) -> dict[str, Any]:
    options = {
        "temperature": asking.temperature,
        "seed": asking.seed,
        "num_predict": asking.max_tokens,
        "num_ctx": asking.context_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def _remote(what: str) -> RefusedError:
    return RefusedError(
        f"{what} is not on this machine: your prompts would leave it.",
        "Add --allow-remote to send them there.",
        code="remote_host",
    )
