"""The small layers of a model: its config and its texts, read within bounds.

Source of the formats: `server/images.go` and `types/model/config.go` of Ollama.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from llamaforge.catalog.blobs import Blobs, short_digest
from llamaforge.catalog.bounded import parse_json, read_bytes, whole_text
from llamaforge.catalog.manifest import Layer
from llamaforge.errors import InvalidFileError

MAX_TEXT_BYTES: Final = 1024 * 1024
"""Of one layer."""
MAX_TEXTS_BYTES: Final = 4 * 1024 * 1024
"""Of all text layers of a model together: a manifest may name one blob thousands of times."""

_MAX_KNOWN_BYTES: Final = 16 * 1024 * 1024
"""Of the texts that are held while a store is read."""

_CONFIG_TEXTS: Final = (
    "model_format",
    "model_family",
    "model_type",
    "file_type",
    "renderer",
    "parser",
    "requires",
    "remote_host",
    "remote_model",
    "base_name",
)
_CONFIG_LISTS: Final = ("model_families", "capabilities")
_CONFIG_NUMBERS: Final = ("context_length", "embedding_length")
TEXT_KINDS: Final = frozenset({"template", "prompt", "system", "params", "messages", "license"})


@dataclass
class Texts:
    """What the text layers say; where one kind is named twice, the last one counts."""

    template: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, Any], ...] = ()
    licenses: tuple[str, ...] = ()


class TextReader:
    """Reads the small layers of a store's models; one that many models share is read once."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: dict[str, bytes] = {}
        self._known_bytes = 0

    def config(self, layer: Layer | None) -> dict[str, Any]:
        """Return the known fields of the config blob that have the right kind of value.

        Raises:
            NotFoundError: the blob is not there, or cannot be read.
            InvalidFileError: it is too large, or not a JSON object.
        """
        if layer is None:
            return {}
        body = parse_json(self._read(layer, "the config blob"), "the config blob")
        if not isinstance(body, dict):
            raise _wrong("the config blob", layer, "a JSON object")
        return _known_fields(body)

    def fill(self, texts: Texts, layers: tuple[Layer, ...]) -> None:
        """Read the text layers of a model into `texts`, which keeps what was read before an error.

        Raises:
            NotFoundError: a layer's blob is not there, or cannot be read.
            InvalidFileError: one is too large, not UTF-8 JSON where it should be, or they are too
                large together.
        """
        left = MAX_TEXTS_BYTES
        for layer in layers:
            if layer.kind not in TEXT_KINDS:
                continue
            what = f"the {layer.kind} layer"
            data = self._read(layer, what)
            left -= len(data)
            if left < 0:
                raise InvalidFileError(
                    f"its text layers have more than {MAX_TEXTS_BYTES:,} bytes together.",
                    "Pull the model again.",
                    code="too_large",
                )
            _take(texts, layer, data, what)

    def _read(self, layer: Layer, what: str) -> bytes:
        known = self._known.get(layer.digest)
        if known is not None and len(known) == layer.size:
            return known
        data = read_bytes(self._blobs.of_layer(layer, what), MAX_TEXT_BYTES, what)
        self._known_bytes += len(data)
        if self._known_bytes <= _MAX_KNOWN_BYTES:
            self._known[layer.digest] = data
        return data


def _known_fields(body: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key in _CONFIG_TEXTS:
        if isinstance(body.get(key), str) and body[key]:
            config[key] = body[key]
    for key in _CONFIG_LISTS:
        items = body.get(key)
        if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
            config[key] = items
    for key in _CONFIG_NUMBERS:
        number = body.get(key)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            config[key] = number
    return config


def _take(texts: Texts, layer: Layer, data: bytes, what: str) -> None:
    match layer.kind:
        case "template":
            texts.template = _text(data)
        case "prompt" if texts.template is None:  # the template's name in old manifests
            texts.template = _text(data)
        case "system":
            texts.system = _text(data)
        case "license":
            texts.licenses += (_text(data),)
        case "params":
            value = parse_json(data, what)
            if not isinstance(value, dict):
                raise _wrong(what, layer, "a JSON object")
            texts.parameters = value
        case "messages":
            value = parse_json(data, what)
            if not isinstance(value, list) or not all(map(_is_message, value)):
                raise _wrong(what, layer, "a list of messages")
            texts.messages = tuple(value)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _text(data: bytes) -> str:
    """Bytes that are not UTF-8 become U+FFFD, as they do in Ollama's own JSON answers."""
    return whole_text(data.decode("utf-8", "replace"))


def _wrong(what: str, layer: Layer, wanted: str) -> InvalidFileError:
    return InvalidFileError(
        f"{what} {short_digest(layer.digest)} is not {wanted}.",
        "Pull the model again; the file was damaged.",
        code="bad_layer",
    )
