"""A model behind an OpenAI-compatible endpoint as a teacher: `POST …/chat/completions`."""

import os
import re
import time
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx

from llamaforge.catalog.bounded import whole_text
from llamaforge.catalog.host import Host, resolve_host
from llamaforge.catalog.transport import BoundedTransport
from llamaforge.collecting.answers import Answer, Asking, BusyError, UnansweredError
from llamaforge.data.records import Message
from llamaforge.errors import LlamaForgeError, NotFoundError, RefusedError, UsageError
from llamaforge.safe_text import redact, safe_line

_CONNECT_SECONDS: Final = 10.0
_MAX_WAIT_SECONDS: Final = 300.0
_BUSY: Final = frozenset(
    {
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.CONFLICT,
        httpx.codes.TOO_EARLY,
        httpx.codes.TOO_MANY_REQUESTS,
    }
)
_CLOSED: Final = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})
_KEY: Final = re.compile(r"[\x21-\x7e]+")


class EndpointTeacher:
    """One model of one endpoint; a context manager that closes its connections.

    Data goes to the host that is named and nowhere else: no proxy of the environment is used and
    no redirect followed. The key goes into one header; what the server says is shown without it.

    Args:
        host: the endpoint, its path included, as `…/v1`.
        model: the model's name there.
        key: the API key; empty for none.
        answer_seconds: how long the answer may stay away, and half of what it may take in all.
    """

    def __init__(self, host: Host, model: str, *, key: str, answer_seconds: float) -> None:
        self.host = host
        self._model = model
        self._key = key
        self._client = httpx.Client(
            base_url=host.url + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(answer_seconds, connect=_CONNECT_SECONDS),
            transport=BoundedTransport(
                httpx.HTTPTransport(trust_env=False), total_seconds=2 * answer_seconds
            ),
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """The model's name, safe to print."""
        return safe_line(self._model, limit=120)

    def ask(self, messages: tuple[Message, ...], asking: Asking) -> Answer:
        """Return the model's answer; raises as `Teacher.ask`."""
        try:
            response = self._client.post("chat/completions", json=self._body(messages, asking))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise BusyError(f"nothing answers at {self._shown}") from error
        except httpx.TimeoutException as error:
            raise BusyError("the answer did not come in time") from error
        except httpx.TransportError as error:
            raise BusyError(f"the connection broke off: {self._quoted(str(error))}") from error
        if not response.is_success:
            raise self._problem(response)
        return _answer(response)

    def _body(self, messages: tuple[Message, ...], asking: Asking) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "stream": False,
        }
        options = {
            "temperature": asking.temperature,
            "seed": asking.seed,
            "max_tokens": asking.max_tokens,
        }
        return body | {name: value for name, value in options.items() if value is not None}

    def _problem(self, response: httpx.Response) -> Exception:
        status = response.status_code
        said = self._quoted(response.text)
        if status in _BUSY or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            wait = _wait_seconds(response.headers.get("Retry-After", ""))
            return BusyError(f"the server says HTTP {status}, “{said}”", wait)
        if status in _CLOSED:
            return RefusedError(
                f"The endpoint {self._shown} refuses access (HTTP {status}): “{said}”.",
                "Name the variable that holds your key with --api-key-env.",
                code="no_access",
            )
        if status == httpx.codes.NOT_FOUND:
            return NotFoundError(
                f"The endpoint {self._shown} has no model {self.name}, or its address is wrong: "
                f"“{said}”.",
                "Check --model, and --endpoint: it ends with /v1 on most servers.",
                code="no_model",
            )
        if response.is_redirect:
            return LlamaForgeError(
                f"The endpoint {self._shown} sends requests elsewhere, which is not followed.",
                "Name the address itself with --endpoint.",
                code="redirected",
            )
        return UnansweredError(f"the server says HTTP {status}, “{said}”")

    @property
    def _shown(self) -> str:
        return safe_line(self.host.url)

    def _quoted(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "***")
        return safe_line(redact(text[:2_000]), limit=300) or "nothing"


def _answer(response: httpx.Response) -> Answer:
    try:
        body = response.json()
        choice = body["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise BusyError("what the server answered makes no sense") from error
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Answer(
        whole_text(text or ""),
        choice.get("finish_reason") == "length",
        tokens if isinstance(tokens, int) and tokens >= 0 else 0,
    )


def _wait_seconds(text: str) -> float | None:
    """Return what a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3)."""
    if re.fullmatch(r"[0-9]{1,6}([.][0-9]{1,6})?", text.strip()):
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_WAIT_SECONDS)


def endpoint_host(text: str) -> Host:
    """Return the endpoint that `text` names.

    Raises:
        UsageError: it is not the address of a web server, or carries a user or a password.
    """
    if not text.strip().lower().startswith(("http://", "https://")):
        raise _bad_endpoint()
    try:
        return resolve_host(text)
    except UsageError as error:
        raise _bad_endpoint() from error


def _bad_endpoint() -> UsageError:
    # Not quoted: what is wrong with it may be a key that was put into it.
    return UsageError(
        "--endpoint is not an address without user, password or query.",
        "Write it as http://127.0.0.1:8000/v1 or https://HOST/v1.",
        code="bad_endpoint",
    )


def api_key(variable: str | None, host: Host) -> str:
    """Return the key in the environment variable that is named; without a name, none.

    Raises:
        UsageError: it is not set, or what it holds cannot be a key. Neither is shown: people put
            the key itself there.
        RefusedError: the key would travel unencrypted to another machine.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip() if variable and "=" not in variable else ""
    if not key or "\0" in variable:
        raise UsageError(
            "The environment variable that --api-key-env names is not set.",
            "Give the variable's name, not the key itself, and export it first.",
            code="no_api_key",
        )
    if not _KEY.fullmatch(key):
        raise UsageError(
            "The environment variable that --api-key-env names holds no API key.",
            "A key is one word of plain characters.",
            code="bad_api_key",
        )
    if not (host.is_loopback or host.url.startswith("https://")):
        raise RefusedError(
            f"The API key would travel unencrypted to {safe_line(host.url)}.",
            "Use an https:// address.",
            code="key_in_clear",
        )
    return key
