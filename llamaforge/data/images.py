"""Images in rows: a text model learns from none, so a person says what becomes of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from llamaforge.data.json_row import kind
from llamaforge.data.records import RowError

Images = Literal["refuse", "drop", "link"]
"""What becomes of images: their row is refused, they are left out, or their address is text."""

IMAGE_CHOICES: Final[tuple[Images, ...]] = ("refuse", "drop", "link")
PLACEHOLDER: Final = re.compile(r"<image>")
"""Stands in a text for the next of the row's own images, as in LLaVA's files."""

_ROW_KEYS: Final = ("images", "image", "image_url")
_ADDRESS_KEYS: Final = ("url", "path", "file_name")
_LONGEST_ADDRESS: Final = 8_192
_DEPTH: Final = 8
_WAY_OUT: Final = "images can be left out or kept as links where that is chosen"


def refusal(where: str) -> RowError:
    """Return the reason for a row whose image in `where`, a message or the row, is not wanted."""
    return RowError(
        f"{where} holds a part of type image, which a text model cannot learn from; {_WAY_OUT}"
    )


def address_of(image: object, where: str) -> str:
    """Return where an image is: an address, or a path.

    Raises:
        RowError: it stands in the row itself and has no address.
    """
    if isinstance(image, Mapping):
        image = next((image[key] for key in _ADDRESS_KEYS if image.get(key) is not None), image)
    if not isinstance(image, str):
        raise RowError(f"an image of {where} is {kind(image)} without an address to keep as a link")
    address = image.strip()
    if not address or address[:5].lower() == "data:":
        raise RowError(f"an image of {where} stands in the row itself and has no address")
    if not _is_address(address):
        raise RowError(f"an image of {where} has an address that is neither a link nor a path")
    return address


def addresses_in(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the addresses of all images of a row, in messages and beside them."""
    for image in (*row_images(fields), *_parts(fields, _DEPTH)):
        try:
            yield address_of(image, "the row")
        except RowError:
            continue


def _is_address(text: str) -> bool:
    if len(text) > _LONGEST_ADDRESS or not text.isprintable():
        return False
    if "://" not in text:
        return True
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return " " not in text and bool(parts.netloc or parts.scheme == "file")


def _parts(value: object, depth: int) -> Iterator[object]:
    """Yield the images among the parts of messages, as OpenAI and Hugging Face write them."""
    if depth == 0:
        return
    if isinstance(value, list):
        for item in value:
            yield from _parts(item, depth - 1)
    elif isinstance(value, Mapping):
        if str(value.get("type", "")).startswith("image"):
            yield next((value[key] for key in ("image_url", "image") if value.get(key)), value)
            return
        for key, item in value.items():
            if isinstance(item, list | Mapping) and key not in _ROW_KEYS:
                yield from _parts(item, depth - 1)


def row_images(fields: Mapping[str, Any]) -> list[object]:
    """Return the images that a row has beside its messages; empty values are none."""
    found: list[object] = []
    for key in _ROW_KEYS:
        value = fields.get(key)
        found += value if isinstance(value, list) else [value] if value else []
    return found


def without_placeholders(text: str) -> str:
    """Return `text` without the marks of images."""
    return PLACEHOLDER.sub("", text)


def with_links(text: str, links: Iterator[str]) -> str:
    """Return `text` with each mark of an image replaced by the next of `links`, while there are."""
    return PLACEHOLDER.sub(lambda mark: next(links, mark.group()), text)
