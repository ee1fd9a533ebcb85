"""What is asked of an Ollama server, with every wait bounded and every answer checked."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx

from llamaforge.catalog.names import ModelName, parse_name
from llamaforge.errors import LlamaForgeError, RefusedError, UsageError
from llamaforge.publishing.host import Host
from llamaforge.publishing.library import Client, ResponseError
from llamaforge.publishing.transport import BoundedTransport
from llamaforge.publishing.versions import ADAPTER_HINT, ServerVersion, parse_version
from llamaforge.safe_text import redact, safe_line

_T = TypeVar("_T")
_UPLOAD_PIECE_BYTES: Final = 1 << 20
_SMOKE_TOKENS: Final = 16
_LAYER_LINE: Final = re.compile(
    r'(FROM|ADAPTER)\s+"?.*?sha256[:-]([0-9a-f]{64})"?\s*', re.IGNORECASE
)

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and the whole; 0 of 0 is not known."""


@dataclass(frozen=True)
class Limits:
    """How long each kind of question may take, in seconds; twice that, where it answers slowly."""

    connect_seconds: float = 5.0
    answer_seconds: float = 30.0
    """A question that the server answers from its store."""
    upload_seconds: float = 120.0
    """Taking one piece of a file, and checking its digest at the end."""
    create_seconds: float = 300.0
    load_seconds: float = 600.0
    """Loading a model and answering; large ones are read from slow disks."""
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
    adapters: tuple[str, ...]


class OllamaServer:
    """One server; a context manager that closes its connections.

    The `ollama` client asks what it has methods for. Four things it does otherwise than needed,
    as of 0.6.3, and they are done here: it has no call for the version or for asking whether a
    blob is there (`create_blob` uploads always, without progress); it follows redirects, which
    could carry an adapter to another host; it has no time-outs; it raises whatever its parsing
    runs into.

    Every method raises:
        RefusedError: nothing listens there (`no_server`).
        LostAnswerError, ServerRefusedError: see there.
    """

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host = host
        self._limits = limits
        self._transport = httpx.HTTPTransport(trust_env=False)

    def __enter__(self) -> "OllamaServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transport.close()

    def version(self) -> ServerVersion:
        """Return the server's version."""

        def ask() -> str:
            response = self._http(self._limits.answer_seconds).get("/api/version")
            response.raise_for_status()
            return str(response.json()["version"])

        return parse_version(self._read_only(ask))

    def digest_of(self, name: ModelName) -> str | None:
        """Return the manifest digest of the model called `name`; None where there is no such."""
        client = self._client(self._limits.answer_seconds)
        for model in self._read_only(lambda: client.list().models):
            try:
                same = parse_name(model.model or "") == name
            except UsageError:
                continue  # a name that Ollama itself would not take is not the one asked for
            if same:
                return safe_line((model.digest or "").removeprefix("sha256:"), limit=64)
        return None

    def layers_of(self, name: ModelName) -> Layers | None:
        """Return the blobs of the model called `name`; None where there is no such model."""
        client = self._client(self._limits.answer_seconds)
        try:
            shown = self._read_only(lambda: client.show(name.short))
        except ServerRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return read_layers(shown.modelfile or "")

    def has_blob(self, digest: str) -> bool:
        """Return whether the server holds the blob with these sha256 digits."""

        def ask() -> bool:
            response = self._http(self._limits.answer_seconds).head(_blob_path(digest))
            if response.status_code == httpx.codes.NOT_FOUND:
                return False
            response.raise_for_status()
            return True

        return self._read_only(ask)

    def upload(self, path: Path, digest: str, on_progress: Progress) -> None:
        """Send the file at `path` as the blob with these sha256 digits; the server checks them."""
        size = path.stat().st_size
        with path.open("rb") as file, self._translated():
            self._http(self._limits.upload_seconds).post(
                _blob_path(digest),
                content=_pieces(file.read, size, on_progress),
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            ).raise_for_status()

    def create(
        self,
        name: ModelName,
        base: ModelName,
        adapter: str,
        on_progress: Progress,
        *,
        template: str | None = None,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Make the model `name` from `base` and the uploaded blob with the digits `adapter`.

        What is None the server takes over from `base`. An error inside the stream comes under
        HTTP 200, so only a last line that says `success` counts.
        """
        answers = self._client(self._limits.create_seconds).create(
            name.short,
            from_=base.short,
            adapters={"adapter.gguf": f"sha256:{adapter}"},
            template=template,
            system=system,
            parameters=parameters,
            messages=messages,
            stream=True,
        )
        last = ""
        while True:
            with self._translated():
                answer = next(answers, None)
            if answer is None:
                break
            last = answer.status or ""
            on_progress(
                safe_line(last, limit=80) or "create", answer.completed or 0, answer.total or 0
            )
        if last != "success":
            raise LostAnswerError(
                f"The server at {self._shown} ended the making of {name} without saying success.",
                "Try again; what is there now was left as it is.",
                code="no_success",
            )

    def chat(self, name: ModelName) -> str:
        """Return the beginning of the model's answer to a greeting, as the server sent it.

        The model is unloaded afterwards: a trial shall not hold the memory.
        """
        with self._translated():
            answer = self._client(self._limits.load_seconds).chat(
                name.short,
                messages=[{"role": "user", "content": "Hello"}],
                options={"num_predict": _SMOKE_TOKENS, "temperature": 0},
                keep_alive=0,
            )
        return answer.message.content or answer.message.thinking or ""

    def delete(self, name: ModelName) -> None:
        """Delete the model called `name`; that there is none is not an error."""
        try:
            with self._translated():
                self._client(self._limits.answer_seconds).delete(name.short)
        except ServerRefusedError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    @property
    def _shown(self) -> str:
        return safe_line(self.host.url)

    def _options(self, seconds: float) -> dict[str, Any]:
        return {
            "timeout": httpx.Timeout(seconds, connect=self._limits.connect_seconds),
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
        for pause in self._limits.retry_pauses_seconds:
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
        if "adapters are no longer supported" in answer.lower():
            return RefusedError(
                "This Ollama server takes no adapters: it needs a merged GGUF.",
                ADAPTER_HINT,
                code="adapters_unsupported",
            )
        status = f" (HTTP {error.status_code})" if error.status_code > 0 else ""
        return ServerRefusedError(
            f"The server at {self._shown} answered with an error{status}: “{answer}”.",
            "Look at the server's log, and try again.",
            status=error.status_code,
            answer=answer,
        )


def read_layers(modelfile: str) -> Layers:
    """Return the blobs that a Modelfile of `/api/show` names.

    The server writes FROM and ADAPTER first (`Model.String` in `server/images.go` of Ollama);
    what follows may be a system text that only looks like such lines, so reading ends there.
    """
    found: dict[str, list[str]] = {"FROM": [], "ADAPTER": []}
    for line in modelfile.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.upper().startswith(("FROM ", "ADAPTER ")):
            break
        layer = _LAYER_LINE.fullmatch(line)
        if layer is not None:
            found[layer[1].upper()].append(layer[2].lower())
    return Layers(tuple(found["FROM"]), tuple(found["ADAPTER"]))


def _blob_path(digest: str) -> str:
    # Lower case and a colon: for a dash or upper case the server stores the data and answers 400.
    return f"/api/blobs/sha256:{digest.lower()}"


def _pieces(read: Callable[[int], bytes], size: int, on_progress: Progress) -> Iterator[bytes]:
    done = 0
    while piece := read(_UPLOAD_PIECE_BYTES):
        done += len(piece)
        yield piece
        on_progress("upload", done, size)


def _quoted(text: str) -> str:
    return safe_line(redact(text), limit=300) or "nothing"
