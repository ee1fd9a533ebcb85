"""The teacher that a person named: a model of an Ollama server or of another endpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.names import parse_name
from llamaforge.collecting.answers import Teacher
from llamaforge.collecting.endpoint import EndpointTeacher, api_key, endpoint_host
from llamaforge.collecting.ollama_teacher import OllamaTeacher
from llamaforge.errors import RefusedError, UsageError
from llamaforge.safe_text import safe_line


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """Which model is asked, and where."""

    model: str
    endpoint: str | None = None
    """The address of an OpenAI-compatible endpoint; without it, the server of `OLLAMA_HOST`."""
    api_key_env: str | None = None
    """The environment variable that holds the endpoint's key."""
    allow_remote: bool = False
    """Whether prompts may leave this machine."""
    answer_seconds: float = 600.0
    """How long an answer may stay away; twice that for the whole of one that comes slowly."""


@contextmanager
def open_teacher(choice: TeacherChoice) -> Iterator[Teacher]:
    """Yield the teacher, looked at first as far as that costs nothing.

    Raises:
        UsageError: a name, an address or a key is not valid.
        RefusedError: the model is on another machine and `allow_remote` is not said
            (`remote_host`), or no Ollama server answers (`no_server`).
        NotFoundError: the Ollama server has no such model.
    """
    if choice.endpoint is None:
        if choice.api_key_env is not None:
            raise UsageError(
                "--api-key-env goes with an endpoint, and none is named.",
                "Name one with --endpoint, or leave the key out.",
            )
        with OllamaTeacher(
            resolve_host(),
            parse_name(choice.model),
            answer_seconds=choice.answer_seconds,
            allow_remote=choice.allow_remote,
        ) as teacher:
            teacher.require()
            yield teacher
        return
    host = endpoint_host(choice.endpoint)
    if not (host.is_loopback or choice.allow_remote):
        raise RefusedError(
            f"The endpoint {safe_line(host.url)} is not on this machine: your prompts would leave"
            " it.",
            "Add --allow-remote to send them there.",
            code="remote_host",
        )
    if not choice.model.strip():
        raise UsageError("The model has no name.", "Name it with --model.", code="model_name")
    key = api_key(choice.api_key_env, host)
    with EndpointTeacher(
        host, choice.model, key=key, answer_seconds=choice.answer_seconds
    ) as endpoint:
        yield endpoint
