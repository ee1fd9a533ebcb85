"""Names of models and digests of blobs: what Ollama accepts, and nothing that leaves the store.

Source of the rules: `types/model/name.go` of Ollama.
"""

import re
from dataclasses import dataclass
from typing import Final

from llamaforge.errors import InvalidFileError, UsageError
from llamaforge.safe_text import safe_line

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

# `[0-9A-Za-z]` and not `\w`: letters of other scripts are refused, as Ollama does.
_PARTS: Final = {
    "host": re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]{0,349}"),
    "namespace": re.compile(r"[0-9A-Za-z_][0-9A-Za-z_-]{0,79}"),
    "model": re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,79}"),
    "tag": re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,79}"),
}
_SCHEME: Final = re.compile(r"https?://", re.IGNORECASE)
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


@dataclass(frozen=True, eq=False)
class ModelName:
    """A model's name in its four parts. Two names that differ only in case are equal."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """The name as people type it: host and namespace only where they are not the default."""
        local = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{local}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{local}"
        return local

    @property
    def full(self) -> str:
        """All four parts: `host/namespace/model:tag`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What is compared: the full name in lower case."""
        return self.full.lower()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelName) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.short


def parse_name(text: str) -> ModelName:
    """Return the name that `text` means, with Ollama's defaults for the parts left out.

    `http://` and `https://` in front are dropped, so a pasted address works.

    Raises:
        UsageError: a part is empty, too long, or has a character that Ollama does not take.
    """
    rest = _SCHEME.sub("", text.strip(), count=1)
    host, namespace, tag = DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG
    # A colon before the last slash belongs to the host: `localhost:5000/me/model`.
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    if slash:
        rest, slash, namespace = rest.rpartition("/")
    if slash:
        host = rest
    return name_of_parts(host, namespace, model, tag, shown=text)


def name_of_parts(
    host: str, namespace: str, model: str, tag: str, *, shown: str | None = None
) -> ModelName:
    """Return the name made of four parts, as of the four levels of a manifest's path.

    Raises:
        UsageError: a part breaks the rules; the message shows `shown`, or the four parts.
    """
    parts = {"host": host, "namespace": namespace, "model": model, "tag": tag}
    for kind, value in parts.items():
        if not _PARTS[kind].fullmatch(value):
            whole = f"{host}/{namespace}/{model}:{tag}" if shown is None else shown
            raise UsageError(
                f"{safe_line(whole, limit=80)!r} is not a model's name: its {kind} is "
                f"{safe_line(value, limit=40)!r}.",
                "Write it as MODEL:TAG, such as qwen2.5:3b; see: llamaforge models",
                code="model_name",
            )
    return ModelName(host, namespace, model, tag)


def parse_digest(text: str) -> str:
    """Return the 64 lower-case hexadecimal digits of a digest `sha256:…` or `sha256-…`.

    Raises:
        InvalidFileError: `text` has any other form, an empty one included.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise InvalidFileError(
            f"{safe_line(text, limit=80)!r} is not a sha256 digest.",
            "Pull the model again; its manifest is damaged.",
            code="bad_digest",
        )
    return found[1].lower()
