"""What is published: the request, its checks that need no server, and the result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from llamaforge.catalog.host import Host, resolve_host
from llamaforge.catalog.names import ModelName, parse_digest, parse_name
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.files import sha256_of
from llamaforge.gguf.header import read_header
from llamaforge.safe_text import safe_line

TRIAL_TAG: Final = "llamaforge-trial-"
"""How the tag of every trial model begins: what has it is ours to delete."""


Form = Literal["adapter", "gguf"]
"""An adapter over the model that was trained, or one file with both merged."""


@dataclass(frozen=True)
class MergedFile:
    """A GGUF with an adapter merged in, as llama.cpp was seen to take it."""

    path: Path
    sha256: str
    """64 hexadecimal digits."""


@dataclass(frozen=True)
class Companion:
    """A file that the original has beside its weights, as it lies in the store."""

    path: Path
    sha256: str
    """64 hexadecimal digits."""


@dataclass(frozen=True)
class PublishRequest:
    """What is published, and under which name.

    A model made of an adapter inherits from its base (template, system text, parameters, messages,
    renderer and parser): these are given only where they shall differ. A merged file inherits
    nothing, so everything is given with it.
    """

    name: str
    """The new Ollama name."""
    base: str
    """The Ollama name of the model that was trained."""
    base_blob_digest: str
    """`sha256:<hex>` of that model's GGUF file."""
    file: Path
    """The adapter or the merged GGUF."""
    file_sha256: str
    """64 hexadecimal digits: what the verification looked at."""
    form: Form = "adapter"
    base_has_adapters: bool = False
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    licenses: Sequence[str] = ()
    """The texts; for a merged file only."""
    renderer: str | None = None
    """The server's built-in renderer of prompts; for a merged file only."""
    parser: str | None = None
    """The server's built-in parser of answers; for a merged file only."""
    projectors: tuple[Companion, ...] = ()
    """What turns pictures or sounds into tokens; for a merged file only."""
    drafts: tuple[Companion, ...] = ()
    """Small models that guess tokens ahead; for a merged file only."""
    requires: str | None = None
    """The oldest Ollama that runs the model; for a merged file only."""
    left_out: tuple[str, ...] = ()
    """What the original has and cannot go along: `projector`, `draft model`."""
    host: str | None = None
    """The server, written as in `OLLAMA_HOST`; None means that variable."""
    overwrite: bool = False
    """Replace a model that already has the name."""
    allow_remote: bool = False
    """Send the file to a server that is not on this machine."""


@dataclass(frozen=True)
class PublishResult:
    """What is on the server now. `answer` is as the model gave it: make it safe before printing."""

    name: str
    server: str
    version: str
    digest: str
    """Digest of the new manifest, which `ollama list` shows the beginning of."""
    previous_digest: str | None
    """Digest of the manifest that had the name before; None where the name was free."""
    base: str
    form: Form
    file_sha256: str
    base_checked: bool | None
    """Whether the server told which blob its base is; None for a file that needs no base."""
    answer: str
    """What the model answered to a greeting, at most 16 tokens."""
    leftover: str
    """A trial model that could not be deleted; empty where all is clean."""
    left_out: tuple[str, ...] = ()
    """What the original has and this model has not: `projector`, `draft model`."""


@dataclass(frozen=True)
class Plan:
    """A request whose own parts have been checked."""

    request: PublishRequest
    host: Host
    name: ModelName
    base: ModelName
    base_digest: str
    file_digest: str
    architecture: str

    @property
    def trial(self) -> ModelName:
        """The name under which the layers are tried: the same at every attempt."""
        key = hashlib.sha256(f"{self.name.key}\n{self.content}".encode()).hexdigest()[:12]
        return ModelName(self.name.host, self.name.namespace, self.name.model, TRIAL_TAG + key)

    @property
    def content(self) -> str:
        """A fingerprint of everything that goes into the model, the name left out."""
        request = self.request
        body: list[Any] = [
            self.base.key, self.base_digest, self.file_digest, request.template, request.system,
            request.parameters, request.messages,
        ]  # fmt: skip
        if request.form == "gguf":
            body += [list(request.licenses), request.renderer, request.parser]
            more = [*request.projectors, *request.drafts]
            if more or request.requires:
                body += [[item.sha256 for item in more], request.requires]
        text = json.dumps(body, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def checked_plan(request: PublishRequest) -> Plan:
    """Return the request's plan; everything that needs no server is looked at here.

    Raises:
        UsageError: a name or the server's address is not valid.
        NotFoundError: the adapter file is gone.
        RefusedError: the server is another machine, the name is the base's own, the base has
            adapters already, or the file is not the adapter that was verified.
    """
    name, base = parse_name(request.name), parse_name(request.base)
    host = resolve_host(request.host)
    if not (host.is_loopback or request.allow_remote):
        raise RefusedError(
            f"The Ollama server at {safe_line(host.url)} is not on this machine.",
            "Add --allow-remote to send the model there, or set OLLAMA_HOST.",
            code="remote_host",
        )
    if name == base and not request.overwrite:
        raise RefusedError(
            f"{name} is the name of the model that was trained.",
            "Choose another name, or add --overwrite to replace the model itself.",
            code="name_is_base",
        )
    if request.base_has_adapters:
        raise stacked(base)
    file_digest = parse_digest(f"sha256:{request.file_sha256}")
    return Plan(
        request=request,
        host=host,
        name=name,
        base=base,
        base_digest=parse_digest(request.base_blob_digest),
        file_digest=file_digest,
        architecture=_verified_file(request, file_digest),
    )


def _verified_file(request: PublishRequest, digest: str) -> str:
    """Return the file's architecture if it is of the form asked, and the one that was verified."""
    path, is_adapter = request.file, request.form == "adapter"
    header = read_header(path)
    if (header.get("general.type") == "adapter") != is_adapter:
        # Ollama would take an adapter that does not say so for a second set of weights.
        raise InvalidFileError(
            f"{safe_line(path.name)} is {'not a LoRA adapter' if is_adapter else 'an adapter'}.",
            "Export the run again.",
            code="not_an_adapter" if is_adapter else "not_a_model",
        )
    actual = sha256_of(path)
    if actual != digest:
        raise InvalidFileError(
            f"{safe_line(path.name)} changed after it was verified: its sha256 is {actual}, "
            f"and {digest} was verified.",
            "Export and verify the run again.",
            code="adapter_changed" if is_adapter else "file_changed",
        )
    return header.architecture


def stacked(base: ModelName) -> RefusedError:
    """Return why nothing is published over a base that has an adapter of its own."""
    return RefusedError(
        f"{base} already has an adapter of its own, and the new one would be laid over it.",
        "Train and publish on the model without adapters that it was made from.",
        code="adapters_stack",
    )
