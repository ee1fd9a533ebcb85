"""Texts as sets of hashed 5-grams, and MinHash signatures of many such sets at once.

Source: A. Broder, "On the resemblance and containment of documents" (1997). The permutations are
datasketch's (scheme `affine32`), and so are the signatures: `MinHash.update_batch` of the same
hashes gives the same numbers. It works them out set by set, here numpy does it for many sets at
once, which takes a fifth of the time; and it loads scipy, which takes longer than some rows.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

GRAM: Final = 5
"""Words (or characters of scripts without spaces) of one shingle."""
PERMUTATIONS: Final = 128
_SEED: Final = 1
MAX_SHINGLES: Final = 20_000
"""Shingles of one text that are looked at, from its beginning: a book is known by its first
pages, and one row cannot take all the memory."""
_MAX_CHARACTERS: Final = 8 * MAX_SHINGLES
_MAX_WORDS_KNOWN: Final = 500_000
_BLOCK_SHINGLES: Final = 4_096
"""Shingles of one block: 128 permutations of them are 2 MiB, which stay in a core's cache."""

# Thai, Lao, Tibetan, Burmese, Khmer, kana, Han: no spaces between words, so a letter is a unit.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003fffd"
)
_UNIT: Final = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_ASCII_GAPS: Final = {
    code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")
}
_IN_WORD: Final = np.array([code not in _ASCII_GAPS for code in range(128)])
_BITS: Final = 2**64
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd


def units_of(text: str) -> list[str]:
    """Return the words of `text`, or its letters where they are of a script without spaces."""
    if text.isascii():  # the same, three times faster
        return text.translate(_ASCII_GAPS).split()
    return _UNIT.findall(text)


_STEP: Final = 0xD1342543DE82EF95
"""What a byte of a word weighs more than the one before it: odd, so that it can be divided by."""


def _powers(step: int, count: int) -> npt.NDArray[np.uint64]:
    """Return `step` to the power of 0, 1, … modulo 2^64."""
    steps = np.full(count, step, np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


class _Powers:
    """Powers of `_STEP` and of what divides by it, as many as the longest text has needed."""

    def __init__(self) -> None:
        self.up = self.down = np.empty(0, np.uint64)

    def grow(self, count: int) -> None:
        """Have at least `count` of each."""
        if len(self.up) < count:
            self.up = _powers(_STEP, 2 * count)
            self.down = _powers(pow(_STEP, -1, _BITS), 2 * count)


class _WordHashes(dict[str, int]):
    """64 bits for each word, the same on every machine; worked out once a word."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_WORDS_KNOWN:
            self.clear()
        number, power = 0, 1
        for byte in word.encode("utf-8", "surrogatepass"):
            number += byte * power
            power = power * _STEP % _BITS
        self[word] = number % _BITS
        return self[word]


class Shingler:
    """Turns texts into shingles; remembers the hashes of words it has met."""

    def __init__(self) -> None:
        self._words = _WordHashes()
        self._powers = _Powers()

    def shingles(self, text: str) -> Words:
        """Return the distinct shingles of `text`, sorted, shape [n]; none for a text without words.

        Case and punctuation do not count. A text of fewer than five words is one shingle.
        """
        hashes = self._word_hashes(text[:_MAX_CHARACTERS].casefold())[: MAX_SHINGLES + GRAM - 1]
        if not len(hashes):
            return np.empty(0, np.uint32)
        if len(hashes) < GRAM:
            hashes = np.concatenate([hashes, np.zeros(GRAM - len(hashes), np.uint64)])
        # Sums of bytes times powers of one number leave the lower bits alike.
        hashes ^= hashes >> np.uint64(32)
        hashes *= _FACTOR
        hashes ^= hashes >> np.uint64(29)
        grams = hashes[: len(hashes) - GRAM + 1].copy()
        for place in range(1, GRAM):
            grams *= _FACTOR
            grams += hashes[place : len(hashes) - GRAM + 1 + place]
        grams ^= grams >> np.uint64(29)
        grams *= _FACTOR
        return _distinct((grams >> np.uint64(32)).astype(np.uint32))

    def _word_hashes(self, text: str) -> npt.NDArray[np.uint64]:
        """Return 64 bits for each word of `text`, in order: a sum of its bytes times powers.

        Of plain ASCII all are worked out at once: the sums of all bytes so far are taken at both
        ends of each word, and their difference is divided by the power of where it begins.
        """
        if not text.isascii():
            units = units_of(text)
            return np.fromiter(map(self._words.__getitem__, units), np.uint64, count=len(units))
        data = np.frombuffer(text.encode(), np.uint8)
        self._powers.grow(len(data) + 1)
        inside = np.zeros(len(data) + 2, np.bool_)
        inside[1:-1] = _IN_WORD[data]
        borders = np.flatnonzero(inside[1:] != inside[:-1])
        starts, stops = borders[::2], borders[1::2]
        sums = np.zeros(len(data) + 1, np.uint64)
        np.cumsum(data * self._powers.up[: len(data)], out=sums[1:])
        return (sums[stops] - sums[starts]) * self._powers.down[starts]


def _distinct(numbers: Words) -> Words:
    """Return `numbers` sorted, each once: `np.unique` without its detours, which cost more here."""
    numbers.sort()
    is_new = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=is_new[1:])
    return numbers[is_new]


class Signer:
    """Works out MinHash signatures."""

    def __init__(self) -> None:
        chance = np.random.RandomState(_SEED)
        halves = chance.randint(0, 1 << 31, PERMUTATIONS, dtype=np.uint32)
        offsets = chance.randint(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)
        # An odd factor makes h → factor · h + offset one to one modulo 2^32.
        self._factors: Words = (halves * np.uint32(2) + np.uint32(1))[:, None]  # (128, 1)
        self._offsets: Words = offsets[:, None]

    def signatures(self, sets: Sequence[Words]) -> Words:
        """Return the signatures of `sets`, none of them empty: shape [sets, 128]."""
        result = np.empty((len(sets), PERMUTATIONS), np.uint32)
        for start, stop in _blocks(sets):
            block = sets[start:stop]
            starts = np.cumsum([0, *(len(part) for part in block[:-1])])
            permuted = np.multiply(_mixed(np.concatenate(block)), self._factors)
            permuted += self._offsets
            result[start:stop] = np.minimum.reduceat(permuted, starts, axis=1).T
        return result


def _blocks(sets: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """Yield stretches of `sets` that have some thousand shingles together."""
    start, size = 0, 0
    for place, part in enumerate(sets):
        size += len(part)
        if size >= _BLOCK_SHINGLES:
            yield start, place + 1
            start, size = place + 1, 0
    if start < len(sets):
        yield start, len(sets)


def _mixed(hashes: Words) -> Words:
    """Return the finalizer of MurmurHash3 (32 bits) of each number, as datasketch applies it."""
    mixed = hashes ^ (hashes >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed
