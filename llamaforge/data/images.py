"""Images in rows: a text model learns from none, so a person says what becomes of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from llamaforge.data.json_row import kind
from llamaforge.data.records import RowError

Images = Literal["refuse", "drop", "link"]
"""What becomes of images: their row is refused, they are left out, or their address is text."""

IMAGE_CHOICES: Final[tuple[Images, ...]] = ("refuse", "drop", "link")
PLACEHOLDER: Final = re.compile(r"<image>")
"""Stands in a text for the next of the row's own images, as in LLaVA's files."""

_ROW_KEYS: Final = ("images", "image", "image_url")
_ADDRESS_KEYS: Final = ("url", "path", "file_name")
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
    return address


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
