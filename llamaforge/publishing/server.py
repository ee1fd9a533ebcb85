"""What is asked of an Ollama server in publishing: files sent, models made, tried and deleted."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from llamaforge.catalog.host import Host
from llamaforge.catalog.names import ModelName
from llamaforge.catalog.ollama_client import ResponseError
from llamaforge.catalog.ollama_server import (
    LostAnswerError,
    OllamaServer,
    Patience,
    ServerRefusedError,
    blob_path,
)
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.publishing.versions import ADAPTER_HINT, ServerVersion, parse_version
from llamaforge.safe_text import safe_line

_UPLOAD_PIECE_BYTES: Final = 1 << 20
_SMOKE_TOKENS: Final = 16

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and the whole; 0 of 0 is not known."""


@dataclass(frozen=True)
class Limits(Patience):
    """How long each kind of request may take, in seconds; twice that, where it answers slowly."""

    upload_seconds: float = 120.0
    """Taking one piece of a file, and checking its digest at the end."""
    create_seconds: float = 300.0
    load_seconds: float = 600.0
    """Loading a model and answering; large ones are read from slow disks."""


class PublishingServer(OllamaServer):
    """A server that models are made on; its methods raise what `OllamaServer`'s raise."""

    def __init__(self, host: Host, limits: Limits) -> None:
        super().__init__(host, limits)
        self._limits = limits

    def version(self) -> ServerVersion:
        """Return the server's version."""

        def ask() -> str:
            response = self._http(self._limits.answer_seconds).get("/api/version")
            response.raise_for_status()
            return str(response.json()["version"])

        return parse_version(self._read_only(ask))

    def upload(self, path: Path, digest: str, on_progress: Progress) -> None:
        """Send the file at `path` as the blob with these sha256 digits; the server checks them."""
        size = path.stat().st_size
        with path.open("rb") as file, self._translated():
            self._http(self._limits.upload_seconds).post(
                blob_path(digest),
                content=_pieces(file.read, size, on_progress),
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            ).raise_for_status()

    def create(self, name: ModelName, body: Mapping[str, Any], on_progress: Progress) -> None:
        """Make the model `name` as `body` says, in the words of `POST /api/create`.

        An error inside the stream comes under HTTP 200, so only a last line that says `success`
        counts. The `ollama` client cannot send all that a merged model needs.
        """
        last = ""
        words = {"model": name.short, **body, "stream": True}
        with (
            self._translated(),
            self._http(self._limits.create_seconds) as client,
            client.stream("POST", "/api/create", json=words) as response,
        ):
            if not response.is_success:
                response.read()
            response.raise_for_status()
            for line in response.iter_lines():
                answer = json.loads(line)
                if error := answer.get("error"):
                    raise ResponseError(str(error))
                last = str(answer.get("status") or "")
                on_progress(
                    safe_line(last, limit=80) or "create",
                    int(answer.get("completed") or 0),
                    int(answer.get("total") or 0),
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

    def _refused(self, error: ResponseError) -> LlamaForgeError:
        found = super()._refused(error)
        answer = found.answer if isinstance(found, ServerRefusedError) else ""
        if "adapters are no longer supported" in answer.lower():
            return RefusedError(
                "This Ollama server takes no adapters: it needs a merged GGUF.",
                ADAPTER_HINT,
                code="adapters_unsupported",
            )
        return found


def _pieces(read: Callable[[int], bytes], size: int, on_progress: Progress) -> Iterator[bytes]:
    done = 0
    while piece := read(_UPLOAD_PIECE_BYTES):
        done += len(piece)
        yield piece
        on_progress("upload", done, size)
