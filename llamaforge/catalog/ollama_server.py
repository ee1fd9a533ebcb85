"""Questions to an Ollama server that change nothing: every wait bounded, every answer checked."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from llamaforge.catalog.bounded import whole_text
from llamaforge.catalog.host import Host
from llamaforge.catalog.names import ModelName, parse_name
from llamaforge.catalog.ollama_client import Client, ResponseError, ShowResponse
from llamaforge.catalog.transport import BoundedTransport
from llamaforge.errors import LlamaForgeError, RefusedError, UsageError
from llamaforge.safe_text import redact, safe_line

_T = TypeVar("_T")
_LAYER_LINE: Final = re.compile(
    r'(FROM|ADAPTER|DRAFT)\s+"?.*?sha256[:-]([0-9a-f]{64})"?\s*', re.IGNORECASE
)


_MOMENT: Final = re.compile(r"([0-9T:-]{19})(?:[.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_MAX_WORDS_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Patience:
    """How long a question may take, in seconds; twice that, where it answers slowly."""

    connect_seconds: float = 5.0
    answer_seconds: float = 30.0
    """A question that the server answers from its store."""
    retry_pauses_seconds: tuple[float, ...] = (0.2, 0.8)
    """The pauses before a question that changes nothing is put again."""


class LostAnswerError(LlamaForgeError):
    """The answer did not come, broke off or makes no sense: what was asked may have been done."""


class ServerRefusedError(LlamaForgeError):
    """The server answered that it could not do it."""

    def __init__(self, message: str, hint: str, *, status: int, answer: str) -> None:
        super().__init__(message, hint, code="server_error")
        self.status = status
        """The HTTP status, or -1 for an error inside a stream."""
        self.answer = answer
        """The server's own words, made safe to show."""


@dataclass(frozen=True)
class Layers:
    """The blobs behind a model, as sha256 digits; empty where the server does not tell."""

    weights: tuple[str, ...]
    """The model's own file or files, then those of its projectors."""
    adapters: tuple[str, ...]
    drafts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tag:
    """One entry of a server's list. What it does not say is empty, 0 or None."""

    shown: str
    """The name as the server gives it."""
    name: ModelName | None
    """None where the name is none that Ollama itself takes."""
    digest: str
    """sha256 of the manifest, in digits."""
    size_bytes: int
    modified: datetime | None
    family: str
    quantization: str
    is_remote: bool
    """Whether it runs on yet another machine."""


class OllamaServer:
    """One server; a context manager that closes its connections.

    The `ollama` client asks what it has methods for. Five things it does otherwise than needed,
    as of 0.6.3, and they are done here: it has no call for the version or for asking whether a
    blob is there (`create_blob` uploads always, without progress); of the list of models it drops
    which ones run elsewhere; it follows redirects, which could carry an adapter to another host;
    it has no time-outs; it raises whatever its parsing runs into.

    Every method raises:
        RefusedError: nothing listens there (`no_server`).
        LostAnswerError, ServerRefusedError: see there.
    """

    def __init__(self, host: Host, patience: Patience) -> None:
        self.host = host
        self._patience = patience
        self._transport = httpx.HTTPTransport(trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transport.close()

    def tags(self) -> tuple[Tag, ...]:
        """Return what `/api/tags` lists; entries that are no objects are passed over."""

        def ask() -> tuple[Tag, ...]:
            response = self._http(self._patience.answer_seconds).get("/api/tags")
            response.raise_for_status()
            found = response.json()["models"] or []
            return tuple(_tag(item) for item in found if isinstance(item, dict))

        return self._read_only(ask)

    def show(self, name: ModelName) -> ShowResponse | None:
        """Return what `/api/show` says of a model; None where there is no such model."""
        client = self._client(self._patience.answer_seconds)
        try:
            return self._read_only(lambda: client.show(name.short))
        except ServerRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def digest_of(self, name: ModelName) -> str | None:
        """Return the manifest digest of the model called `name`; None where there is no such."""
        return next((tag.digest for tag in self.tags() if tag.name == name), None)

    def layers_of(self, name: ModelName) -> Layers | None:
        """Return the blobs of the model called `name`; None where there is no such model."""
        shown = self.show(name)
        return None if shown is None else read_layers(shown.modelfile or "")

    def has_blob(self, digest: str) -> bool:
        """Return whether the server holds the blob with these sha256 digits."""

        def ask() -> bool:
            response = self._http(self._patience.answer_seconds).head(blob_path(digest))
            if response.status_code == httpx.codes.NOT_FOUND:
                return False
            response.raise_for_status()
            return True

        return self._read_only(ask)

    @property
    def _shown(self) -> str:
        return safe_line(self.host.url)

    def _options(self, seconds: float) -> dict[str, Any]:
        return {
            "timeout": httpx.Timeout(seconds, connect=self._patience.connect_seconds),
            "transport": BoundedTransport(self._transport, total_seconds=2 * seconds),
            "follow_redirects": False,
        }

    def _client(self, seconds: float) -> Client:
        return Client(self.host.url, **self._options(seconds))

    def _http(self, seconds: float) -> httpx.Client:
        return httpx.Client(base_url=self.host.url, **self._options(seconds))

    def _read_only(self, ask: Callable[[], _T]) -> _T:
        """Return `ask()`; a question that changes nothing is put again if the answer broke off.

        One that ran into its time-out is not: the person has waited long enough.
        """
        for pause in self._patience.retry_pauses_seconds:
            try:
                with self._translated():
                    return ask()
            except LostAnswerError as error:
                if error.code == "server_timeout":
                    raise
            except ServerRefusedError as error:
                if error.status < httpx.codes.INTERNAL_SERVER_ERROR:
                    raise
            time.sleep(pause)
        with self._translated():
            return ask()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what httpx and the `ollama` client raise into errors for people."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            raise RefusedError(
                f"No Ollama server answers at {self._shown}.",
                "Start it with: ollama serve, or name another one with OLLAMA_HOST.",
                code="no_server",
            ) from error
        except httpx.TimeoutException as error:
            raise LostAnswerError(
                f"The server at {self._shown} did not answer in time.",
                "Look at the server's log, restart it if it hangs, and try again.",
                code="server_timeout",
            ) from error
        except httpx.TransportError as error:
            raise LostAnswerError(
                f"The connection to {self._shown} broke off: {_quoted(str(error))}.",
                "Check that the server still runs, and try again.",
                code="server_cut",
            ) from error
        except httpx.HTTPStatusError as error:
            # The client reads the error message out of the body, whatever the body is.
            with self._translated():
                raise ResponseError(error.response.text, error.response.status_code) from error
        except ResponseError as error:
            raise self._refused(error) from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # The client indexes and unpacks whatever JSON it gets: an answer that is no object,
            # or lacks a field, comes out of it as one of these.
            raise LostAnswerError(
                f"What the server at {self._shown} answered makes no sense.",
                "Check that OLLAMA_HOST names an Ollama server, and that no proxy is in between.",
                code="bad_answer",
            ) from error

    def _refused(self, error: ResponseError) -> LlamaForgeError:
        answer = _quoted(str(error.error))
        status = f" (HTTP {error.status_code})" if error.status_code > 0 else ""
        return ServerRefusedError(
            f"The server at {self._shown} answered with an error{status}: “{answer}”.",
            "Look at the server's log, and try again.",
            status=error.status_code,
            answer=answer,
        )


def _tag(item: dict[str, Any]) -> Tag:
    shown = _words(item.get("model")) or _words(item.get("name"))
    try:
        name = parse_name(shown)
    except UsageError:
        name = None
    details = item.get("details")
    details = details if isinstance(details, dict) else {}
    size = item.get("size")
    return Tag(
        shown=shown,
        name=name,
        digest=safe_line(_words(item.get("digest")).removeprefix("sha256:"), limit=64),
        size_bytes=size if isinstance(size, int) and 0 <= size < 2**63 else 0,
        modified=_moment(_words(item.get("modified_at"))),
        family=_words(details.get("family")),
        quantization=_words(details.get("quantization_level")),
        is_remote=bool(item.get("remote_host") or item.get("remote_model")),
    )


def _words(value: Any) -> str:
    return whole_text(value)[:_MAX_WORDS_CHARACTERS] if isinstance(value, str) else ""


def _moment(text: str) -> datetime | None:
    """Return the time in `text`, in UTC and whole seconds: Go writes more than Python reads."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_layers(modelfile: str) -> Layers:
    """Return the blobs that a Modelfile of `/api/show` names.

    The server writes FROM, ADAPTER and DRAFT first (`Model.String` in `server/images.go` of
    Ollama); what follows may be a system text that only looks like such lines: reading ends there.
    """
    found: dict[str, list[str]] = {"FROM": [], "ADAPTER": [], "DRAFT": []}
    for line in modelfile.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.upper().startswith(("FROM ", "ADAPTER ", "DRAFT ")):
            break
        layer = _LAYER_LINE.fullmatch(line)
        if layer is not None:
            found[layer[1].upper()].append(layer[2].lower())
    return Layers(tuple(found["FROM"]), tuple(found["ADAPTER"]), tuple(found["DRAFT"]))


def blob_path(digest: str) -> str:
    """Return the path of a blob in the server's API."""
    # Lower case and a colon: for a dash or upper case the server stores the data and answers 400.
    return f"/api/blobs/sha256:{digest.lower()}"


def _quoted(text: str) -> str:
    return safe_line(redact(text), limit=300) or "nothing"
