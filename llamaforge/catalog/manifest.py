"""A model's manifest: which blobs it is made of.

Source of the format: `manifest/manifest.go` and `manifest/layer.go` of Ollama. Fields that are
not known here are passed over.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import parse_json, read_bytes
from llamaforge.catalog.names import parse_digest
from llamaforge.errors import InvalidFileError

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""A model of a thousand safetensors layers has a manifest of some 300 KB."""
_MAX_LAYER_BYTES: Final = 2**63 - 1
_OLLAMA_KIND: Final = "application/vnd.ollama.image."


@dataclass(frozen=True)
class Layer:
    """One blob of a model, as its manifest names it."""

    media_type: str
    digest: str
    """64 lower-case hexadecimal digits."""
    size: int
    """Bytes."""
    from_: str = ""
    """The model or file that the layer was taken from."""
    name: str = ""
    """A tensor's or a file's name, in models kept as safetensors."""

    @property
    def kind(self) -> str:
        """`model`, `template`, `license` and so on; another vendor's media type as it stands."""
        return self.media_type.removeprefix(_OLLAMA_KIND)


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, and the digest of the manifest itself."""

    config: Layer | None
    """None where the manifest has no config, or one with an empty digest."""
    layers: tuple[Layer, ...]
    digest: str
    """sha256 of the manifest's bytes, which is what `ollama list` shows the beginning of."""

    @property
    def size_bytes(self) -> int:
        """All layers and the config together, as `ollama list` counts."""
        return sum(layer.size for layer in self.blobs)

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Every blob that it names."""
        return self.layers if self.config is None else (*self.layers, self.config)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at `path`, a regular file inside the store.

    Raises:
        InvalidFileError: it is too large, not JSON, or a field it needs has no sound value.
        NotFoundError: it cannot be read.
    """
    return parse_manifest(read_bytes(path, MAX_MANIFEST_BYTES, "the manifest"))


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`.

    Raises:
        InvalidFileError: it is not JSON, or a field it needs has no sound value.
    """
    body = parse_json(data, "the manifest")
    if not isinstance(body, dict):
        raise _refuse("is not a JSON object")
    layers = body.get("layers")
    if layers is None:
        layers = []
    if not isinstance(layers, list):
        raise _refuse("has layers that are not a list")
    return Manifest(
        config=_config(body.get("config")),
        layers=tuple(_layer(item, f"layer {number}") for number, item in enumerate(layers, 1)),
        digest=hashlib.sha256(data).hexdigest(),
    )


def _config(value: Any) -> Layer | None:
    if value is None or (isinstance(value, dict) and not value.get("digest")):
        return None
    return _layer(value, "config")


def _layer(value: Any, where: str) -> Layer:
    if not isinstance(value, dict):
        raise _refuse(f"has a {where} that is not a JSON object")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_LAYER_BYTES:
        raise _refuse(f"gives no sound size for its {where}")
    return Layer(
        media_type=_text(value, "mediaType", where),
        digest=parse_digest(_text(value, "digest", where)),
        size=size,
        from_=_text(value, "from", where),
        name=_text(value, "name", where),
    )


def _text(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _refuse(f"gives no text as the {key} of its {where}")
    return found


def _refuse(what: str) -> InvalidFileError:
    return InvalidFileError(
        f"the manifest {what}.",
        "Pull the model again; its manifest is damaged.",
        code="bad_manifest",
    )
