"""A JSON array cut into its items as it streams by, without being parsed as a whole."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from llamaforge.errors import InvalidFileError
from llamaforge.safe_text import safe_line

_CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """The bytes between two commas of an array."""

    data: bytes
    """UTF-8, possibly blank or broken; empty where the item was too long to be kept."""
    oversized: bool
    at_end_of_file: bool
    """The file ended before the item or the array did."""


class ArrayScanner:
    """Cuts a JSON array into its items without parsing them.

    Only strings, brackets and commas are looked at, so a broken item costs itself and not those
    after it. All of these are ASCII, which UTF-8 never uses within another character.
    """

    # A string that ends within the chunk is passed over at once; one that does not is entered. A
    # comma means something between items only.
    _STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
    _BETWEEN: Final = re.compile(_STRING + rb'|["\[\]{},]', re.DOTALL)
    _WITHIN: Final = re.compile(_STRING + rb'|["\[\]{}]', re.DOTALL)
    _INSIDE: Final = re.compile(rb'["\\]')

    def __init__(self, stream: BinaryIO, name: str, max_item_bytes: int) -> None:
        self._stream = stream
        self._name = name
        self._max_item_bytes = max_item_bytes
        self._depth = 0
        self._in_string = False
        self._count = 0
        self._item = bytearray()
        self._oversized = False

    def items(self) -> Iterator[Item]:
        """Yield the items in order.

        Raises:
            InvalidFileError: there is text after the end of the array.
        """
        self._enter()
        skip = 0  # bytes of the next chunk that an escape at the end of the last one covers
        while chunk := self._stream.read(_CHUNK_BYTES):
            kept = 0  # where the part of the chunk begins that belongs to the item in work
            place = skip
            skip = 0
            while match := self._next_sign().search(chunk, place):
                place = match.end()
                sign = match.group()
                if len(sign) > 1:  # a whole string
                    continue
                if self._in_string:
                    if sign == b'"':
                        self._in_string = False
                    else:
                        place += 1
                        skip = max(place - len(chunk), 0)
                elif self._ends_item(sign):
                    self._keep(chunk[kept : place - 1])
                    kept = place
                    if sign == b"]":
                        yield from self._last()
                        self._require_end(chunk[kept:])
                        return
                    yield self._finished(at_end_of_file=False)
            self._keep(chunk[kept:])
        yield self._finished(at_end_of_file=True)

    def _next_sign(self) -> re.Pattern[bytes]:
        if self._in_string:
            return self._INSIDE
        return self._WITHIN if self._depth else self._BETWEEN

    def _enter(self) -> None:
        while (sign := self._stream.read(1)) and sign != b"[":
            pass

    def _ends_item(self, sign: bytes) -> bool:
        """Take one sign outside strings into account; return whether the item ends before it."""
        if sign == b'"':
            self._in_string = True
        elif sign in {b"{", b"["}:
            self._depth += 1
        elif sign in {b"}", b"]"}:
            if self._depth == 0:
                return sign == b"]"  # a stray brace stays in its item, which it makes invalid
            self._depth -= 1
        return sign == b"," and self._depth == 0

    def _keep(self, part: bytes) -> None:
        if len(self._item) + len(part) > self._max_item_bytes:
            self._oversized = True
            self._item.clear()
        if not self._oversized:
            self._item += part

    def _finished(self, *, at_end_of_file: bool) -> Item:
        item = Item(bytes(self._item), self._oversized, at_end_of_file)
        self._item.clear()
        self._oversized = False
        self._count += 1
        return item

    def _last(self) -> Iterator[Item]:
        """Yield the item before the closing bracket; `[]` has none."""
        if self._count or self._oversized or self._item.strip():
            yield self._finished(at_end_of_file=False)

    def _require_end(self, rest: bytes) -> None:
        while not rest.strip():
            rest = self._stream.read(_CHUNK_BYTES)
            if not rest:
                return
        raise InvalidFileError(
            f"{safe_line(self._name)} goes on after the end of its JSON array"
            f" ({self._count:,} items).",
            "Put all rows into one array, or write JSON Lines: one object a line.",
            code="text_after_array",
        )
