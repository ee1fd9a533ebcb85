"""A Unigram vocabulary: of all ways to cut a text the one whose pieces are likeliest together.

Text is first put into the vocabulary's own form, which its file holds as a table of replacements.
Source: `llm_tokenizer_ugm` in `llama-vocab.cpp` of llama.cpp, whose ids these are; the search
itself is that of the `tokenizers` library.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from tokenizers.models import Unigram

from llamaforge.errors import InvalidFileError
from llamaforge.gguf.header import Header

MODEL: Final = "t5"
"""What `tokenizer.ggml.model` says of such a vocabulary."""
DEFAULT_IDS: Final = {"eos": 1, "unknown": 2, "padding": 0}
"""Where a file does not say them."""
_NORMAL, _UNKNOWN, CONTROL, USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
FOUND_FIRST: Final = frozenset({CONTROL, USER_DEFINED, _UNKNOWN})
"""Types of tokens that are looked for as they stand, before a text is put into its form."""
SPACE: Final = "▁"
_SPACE_BYTES: Final = len(SPACE.encode())
_REPLACEMENT: Final = "\ufffd".encode()
_BYTE_TOKEN: Final = re.compile("<0x([0-9A-Fa-f]{2})>")
TABLE_KEY: Final = "tokenizer.ggml.precompiled_charsmap"

Ids = list[int]
Offsets = list[tuple[int, int]]


class UnigramCutter:
    """Cuts texts into the ids that llama.cpp gives."""

    def __init__(
        self, header: Header, tokens: Sequence[str], types: Sequence[int], unknown_id: int
    ) -> None:
        """Take a vocabulary.

        Raises:
            InvalidFileError: it contradicts itself.
        """
        scores = header.numbers("tokenizer.ggml.scores")
        if len(scores) != len(tokens) or not all(map(_is_number, scores)):
            raise _contradiction(header, "it does not give each token a score")
        if len(set(tokens)) != len(tokens):
            raise _contradiction(header, "its tokens cannot all be told apart")
        self._tokens, self._types, self._unknown = tokens, types, unknown_id
        self._model = Unigram(
            searched_pieces(tokens, types, scores), unknown_id, byte_fallback=False
        )
        # llama.cpp looks for the longest first, wherever it stands.
        self._first = sorted(
            (
                (text, number, kind)
                for number, (text, kind) in enumerate(zip(tokens, types, strict=True))
                if kind in FOUND_FIRST and text
            ),
            key=lambda item: -len(item[0].encode()),
        )
        self._form = _Form(header, [text for text, _, kind in self._first if kind == USER_DEFINED])

    def encode(self, text: str, *, parse_special: bool) -> tuple[Ids, Offsets]:
        """Return the ids of `text` and, for each, the characters [start, end) it stands for."""
        ids: Ids = []
        offsets: Offsets = []
        for start, end, found in self._fragments(text, parse_special=parse_special):
            if found is not None:
                ids.append(found)
                offsets.append((start, end))
                continue
            normal, origins = self._form.of(text[start:end])
            for token in self._model.tokenize(normal) if normal else ():
                first, last = token.offsets
                ids.append(token.id)
                offsets.append((start + origins[first][0], start + origins[last - 1][1]))
        return ids, offsets

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Return the text of `ids`, without the space that is put in front of every text."""
        parts: list[bytes] = []
        for number in ids:
            text, kind = self._tokens[number], self._types[number]
            byte = _BYTE_TOKEN.fullmatch(text) if kind == _BYTE else None
            if byte is not None:
                parts.append(bytes.fromhex(byte[1]))
            elif kind not in {CONTROL, _UNKNOWN}:
                parts.append(text.replace(SPACE, " ").encode())
            elif not skip_special:
                parts.append(text.encode())
        text = b"".join(parts).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._form.adds_space else text

    def _fragments(
        self, text: str, *, parse_special: bool
    ) -> Iterator[tuple[int, int, int | None]]:
        """Yield the stretches of `text`; those that are one token as they stand, with its id."""
        parts: list[tuple[int, int, int | None]] = [(0, len(text), None)]
        for token, number, kind in self._first:
            if token not in text or (kind != USER_DEFINED and not parse_special):
                continue
            parts = [piece for part in parts for piece in _split(text, part, token, number)]
        yield from (part for part in parts if part[0] < part[1])


def _split(
    text: str, part: tuple[int, int, int | None], token: str, number: int
) -> Iterator[tuple[int, int, int | None]]:
    start, end, known = part
    if known is not None:
        yield part
        return
    while (found := text.find(token, start, end)) >= 0:
        yield start, found, None
        start = found + len(token)
        yield found, start, number
    yield start, end, None


class _Form:
    """The form into which texts are put before they are cut."""

    def __init__(self, header: Header, kept: Sequence[str]) -> None:
        self.adds_space = bool(header.get("tokenizer.ggml.add_space_prefix", False))
        self._merges_spaces = bool(header.get("tokenizer.ggml.remove_extra_whitespaces", False))
        # llama.cpp passes over what is the beginning of a token that stands as it is.
        data = [text.encode() for text in kept]
        self._kept = frozenset(text[:end] for text in data for end in range(1, len(text) + 1))
        self._table = _Table(header)

    def of(self, text: str) -> tuple[str, Offsets]:
        """Return the form of `text` and, for each of its bytes, the characters it was made of."""
        data = text.encode("utf-8", "surrogatepass")
        characters = _character_of_bytes(text)
        made: list[str] = []
        origins: Offsets = []
        in_word = has_space = False
        at = 0
        while at < len(data):
            replaced, used = self._prefix(data, at)
            origin = characters[at], characters[at + used - 1] + 1
            at += used
            for character in replaced.decode("utf-8", "replace"):
                if character != " ":
                    if not in_word:
                        in_word = True
                        if self._merges_spaces or (self.adds_space and not has_space):
                            made.append(SPACE)
                            origins += [(origin[0], origin[0])] * _SPACE_BYTES
                            has_space = True
                    made.append(character)
                    origins += [origin] * len(character.encode())
                else:
                    in_word = False
                    if not self._merges_spaces:
                        made.append(SPACE)
                        origins += [origin] * _SPACE_BYTES
        return "".join(made), origins

    def _prefix(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return what takes the place of the bytes at `at`, and how many they are."""
        end = at
        while data[at : end + 1] in self._kept and end < len(data):
            end += 1
        if end > at:
            return data[at:end], end - at
        found = self._table.longest(data, at)
        if found is not None:
            return found
        size = _size_of_character(data[at])
        return (data[at : at + size], size) if size else (_REPLACEMENT, 1)


def is_unigram(header: Header) -> bool:
    """Return whether a file has such a vocabulary."""
    return bool(header.get("tokenizer.ggml.model") == MODEL)


def charsmap_bytes(header: Header) -> bytes:
    """Return the file's table of replacements as it stands there; empty where it has none."""
    return bytes(value & 0xFF for value in header.numbers(TABLE_KEY))


def replacements(header: Header) -> dict[str, str]:
    """Return the texts of the file's table, each with what takes its place.

    Raises:
        InvalidFileError: the table is cut short.
    """
    return {
        text.decode("utf-8", "replace"): instead.decode("utf-8", "replace")
        for text, instead in _Table(header).entries()
    }


class _Table:
    """The replacements of a file: a trie packed as a double array, and the texts it points to.

    The entries of the array are those of the Darts library that SentencePiece uses.
    """

    def __init__(self, header: Header) -> None:
        values = charsmap_bytes(header)
        self._units: tuple[int, ...] = ()
        self._texts = b""
        if not values:
            return
        size = struct.unpack_from("<I", values)[0] if len(values) >= 4 else len(values)
        if size % 4 or size > len(values) - 4:
            raise _contradiction(header, "its table of replacements is cut short")
        self._units = struct.unpack_from(f"<{size // 4}I", values, 4)
        self._texts = values[4 + size :]
        if self._units and self._texts[-1:] != b"\0":
            raise _contradiction(header, "its table of replacements is cut short")

    def longest(self, data: bytes, at: int) -> tuple[bytes, int] | None:
        """Return the replacement of the longest text of the table at `at`, and its bytes."""
        if not self._units:
            return None
        node = _base(self._units[0])
        found: tuple[int, int] | None = None
        for place in range(at, len(data)):
            byte = data[place]
            node ^= byte
            if byte == 0 or node >= len(self._units) or self._label(node) != byte:
                break
            has_value = self._units[node] >> 8 & 1
            node ^= _base(self._units[node])
            if has_value and node < len(self._units):
                found = self._units[node] & 0x7FFF_FFFF, place - at + 1
        if found is None or found[0] >= len(self._texts):
            return None
        return self._texts[found[0] : self._texts.index(b"\0", found[0])], found[1]

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every text of the table with what takes its place."""
        waiting = [(b"", _base(self._units[0]))] if self._units else []
        seen = {0}  # a damaged table may lead in a circle
        while waiting:
            text, base = waiting.pop()
            for byte in range(1, 256):
                node = base ^ byte
                if node >= len(self._units) or self._label(node) != byte or node in seen:
                    continue
                seen.add(node)
                longer = text + bytes([byte])
                waiting.append((longer, node ^ _base(self._units[node])))
                found = self.longest(longer, 0) if self._units[node] >> 8 & 1 else None
                if found is not None and found[1] == len(longer):
                    yield longer, found[0]

    def _label(self, node: int) -> int:
        return self._units[node] & 0x8000_00FF


def _base(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _size_of_character(first: int) -> int:
    """Return the bytes of the character that begins with `first`; 0 where none does."""
    if first < 0x80:
        return 1
    return 2 if 0xC2 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4 if first >= 0xF0 else 0


def _character_of_bytes(text: str) -> list[int]:
    found: list[int] = []
    for number, character in enumerate(text):
        found += [number] * len(character.encode("utf-8", "surrogatepass"))
    return found


def searched_pieces(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, float]]:
    """Return what is searched, each piece in its token's place.

    Control tokens, and unused ones that are less likely than any other, are never found: a text
    that no one writes stands in their place.
    """
    normal = [score for score, kind in zip(scores, types, strict=True) if kind == _NORMAL]
    least = min(normal, default=0.0)
    found = []
    for number, (text, kind, score) in enumerate(zip(tokens, types, scores, strict=True)):
        if kind == USER_DEFINED:
            found.append((text, 0.0))
        elif kind == _NORMAL or (kind == _UNUSED and score >= least):
            found.append((text, score))
        else:
            found.append((f"\U0010fffd{number}\U0010fffd", least))
    return found


def _is_number(score: float) -> bool:
    return math.isfinite(score)


def _contradiction(header: Header, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The vocabulary of {header.path.name} contradicts itself: {what}.",
        "Pull the model again.",
        code="bad_vocabulary",
    )
