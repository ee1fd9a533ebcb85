"""The models that a server lists, for where its store cannot be read from here."""

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import whole_text
from llamaforge.catalog.host import Host
from llamaforge.catalog.licenses import license_names
from llamaforge.catalog.model import ModelStatus, Problem, StoredModel
from llamaforge.catalog.ollama_server import OllamaServer, Patience, Tag, read_layers
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line

_CONNECT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 2.0
_ALL_DETAILS_SECONDS: Final = 4.0
"""For asking about all models one by one; what is not known by then stays unknown."""
_MAX_TEXT_CHARACTERS: Final = 1 << 20
_FROM_LINE: Final = re.compile(
    r"^FROM\s+\"?(.+?[\\/]blobs[\\/]sha256-[0-9a-f]{64})\"?\s*$", re.MULTILINE
)


class Served:
    """What one server has: its list at once, and each model's details when they are asked for."""

    def __init__(self, host: Host, tags: Iterable[Tag], *, unreadable: Iterable[Path]) -> None:
        """Take a server's list.

        Args:
            host: the server.
            tags: its list.
            unreadable: the stores of this machine that may not be read.
        """
        self.host = host
        self.tags = tuple(tags)
        self._unreadable = tuple(unreadable)
        self._until = time.monotonic() + _ALL_DETAILS_SECONDS

    def store_root(self) -> Path | None:
        """Return the folder of the server's store, if the server is on this machine and says so.

        A server names a model's blob by its path. Only a path that ends in `blobs/sha256-…` is
        believed, and the store there is read like any other: within its bounds.
        """
        if not self.host.is_loopback:
            return None
        with _connection(self.host) as server:
            for tag in self.tags:
                if tag.name is None or tag.is_remote:
                    continue
                shown = server.show(tag.name)
                found = _FROM_LINE.search((shown.modelfile or "") if shown else "")
                return Path(found[1]).parents[1] if found else None
        return None

    def model(self, tag: Tag) -> StoredModel:
        """Return a model that only the server has: with what it says, and why it is not ready."""
        bare = StoredModel(
            name=tag.name.short if tag.name else safe_line(tag.shown),
            full_name=tag.name.full if tag.name else safe_line(tag.shown),
            server=self.host.url,
            digest=tag.digest,
            modified=tag.modified,
            size_bytes=tag.size_bytes,
            architecture=tag.family,
            quantization=tag.quantization,
            sources=_sources(tag),
            problem=self._problem(tag),
        )
        if tag.name is None or tag.is_remote or time.monotonic() > self._until:
            return bare
        try:
            with _connection(self.host) as server:
                shown = server.show(tag.name)
        except LlamaForgeError:
            return bare  # the list said enough to name it
        return bare if shown is None else _detailed(bare, shown)

    def _problem(self, tag: Tag) -> Problem:
        if tag.is_remote:
            return Problem(
                ModelStatus.REMOTE,
                "remote",
                "it runs on another machine, and the store has no weights of it",
                "Pull a model that runs on this machine, such as: ollama pull qwen2.5:3b",
            )
        if not self.host.is_loopback:
            return Problem(
                ModelStatus.REMOTE,
                "on_server",
                f"it lies on the server at {safe_line(self.host.url)}, and its file is not on "
                "this machine",
                "Run LlamaForge on that machine, or pull the model on this one.",
            )
        where = " or ".join(safe_line(str(path)) for path in self._unreadable)
        return Problem(
            ModelStatus.MISSING_BLOB,
            "unreadable_store",
            f"the server at {safe_line(self.host.url)} has it, but its file cannot be read by "
            "this user" + (f": {where} may not be entered" if where else ""),
            "Add yourself to the group that owns the store (sudo usermod -aG ollama $USER) and log "
            "in again, or name a store that you may read with --store DIR.",
        )


def ask_server(host: Host, *, unreadable: Iterable[Path] = ()) -> Served:
    """Ask the server at `host` for its models; it takes some seconds at most.

    Raises:
        LlamaForgeError: it does not answer (`no_server`), or not as an Ollama server does.
    """
    with _connection(host) as server:
        return Served(host, server.tags(), unreadable=unreadable)


def _connection(host: Host) -> OllamaServer:
    return OllamaServer(host, Patience(_CONNECT_SECONDS, _ANSWER_SECONDS, ()))


def _sources(tag: Tag) -> dict[str, str]:
    known = {"architecture": tag.family, "quantization": tag.quantization}
    return {key: "server" for key, value in known.items() if value}


def _detailed(model: StoredModel, shown: Any) -> StoredModel:
    """Return `model` with what `/api/show` says of it."""
    info: dict[str, Any] = dict(shown.modelinfo or {})
    architecture = _text(info.get("general.architecture"))
    parameters = _whole(info.get("general.parameter_count"))
    context = _whole(info.get(f"{architecture}.context_length"))
    weights = read_layers(shown.modelfile or "").weights
    license_text = _text(shown.license)
    known = {
        "architecture": architecture,
        "parameter_count": parameters,
        "context_length": context,
    }
    return replace(
        model,
        architecture=architecture or model.architecture,
        parameter_count=parameters,
        context_length=context,
        sources=model.sources | {key: "server" for key, value in known.items() if value},
        blob_digest=weights[0] if len(weights) == 1 else "",
        template=_text(shown.template) or None,
        licenses=(license_text,) if license_text else (),
        license_names=license_names((license_text,), info.get("general.license")),
        details={
            whole_text(key): whole_text(value) if isinstance(value, str) else value
            for key, value in info.items()
            if key.startswith(("general.", f"{architecture}.")) and _is_plain(value)
        },
        capabilities=tuple(_text(word) for word in shown.capabilities or ()),
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= 500


def _text(value: Any) -> str:
    return whole_text(value)[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""


def _whole(value: Any) -> int:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if sound else 0
