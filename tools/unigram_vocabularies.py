"""A Unigram vocabulary as it stands in a GGUF file, with a table that puts texts into its form."""

import random
import struct
from collections.abc import Mapping
from typing import Any, Final

from tools.random_models import CHATML, Vocabulary

FORMS: Final[Mapping[str, str]] = {
    "①": "1", "ﬁ": "fi", "Ａ": "A", "ａ": "a", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ",
    "e\u0301": "é", "a\u0301": "á", "™": "TM", "\u200b": "", "½": " 1⁄2", "ｶ": "カ", "ｶﾞ": "ガ",
    "…": "...",
}  # fmt: skip
"""A part of what NFKC replaces; longer texts before shorter ones."""


def unigram(*, table: bool = True, **keys: Any) -> Vocabulary:
    """Return a vocabulary of some letters, their pairs and some words, with random scores."""
    chosen = random.Random(4)
    letters = [*"abcdefghijklmnopqrstuvwxyzABCTM0123.,'!-⁄", "é", "ß", "д", "日", "本", "カ", "ガ"]
    pieces = ["▁", *letters, *(f"▁{letter}" for letter in letters)]
    pieces += [a + b for a in letters[:27] for b in letters[:27]]
    pieces += ["▁the", "▁th", "the", "ing", "▁hello", "llo", "日本", "▁▁", "▁▁▁▁", "123"]
    pieces = list(dict.fromkeys(pieces))
    tokens = ["<pad>", "</s>", "<unk>", *pieces, "<extra_0>", "<extra_1>", "[unused]", "ab▁cd"]
    types = [3, 3, 2, *[1] * len(pieces), 4, 4, 5, 5]
    scores = [0.0, 0.0, 0.0, *(-chosen.uniform(2, 14) for _ in pieces), 0.0, 0.0, -10_000.0, -3.0]
    special = ["<|im_start|>", "<|im_end|>"]
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens + special,
        "tokenizer.ggml.token_type": [*types, 3, 3],
        "tokenizer.ggml.scores": [*scores, 0.0, 0.0],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    if table:
        values["tokenizer.ggml.precompiled_charsmap"] = packed_table(FORMS)
    values |= {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return Vocabulary(values, len(tokens) + len(special))


def packed_table(forms: Mapping[str, str]) -> bytes:
    """Return replacements as SentencePiece packs them: a double array, and the texts."""
    texts = bytearray()
    root: dict[int, Any] = {}
    for text, instead in forms.items():
        node = root
        for byte in text.encode():
            node = node.setdefault(byte, {})
        node[0] = len(texts)
        texts += instead.encode() + b"\0"
    units: dict[int, int] = {0: 0}
    _place(units, set(), 0, root)
    size = (max(units) | 0xFF) + 1
    array = struct.pack(f"<{size}I", *(units.get(number, 0) for number in range(size)))
    return struct.pack("<I", len(array)) + array + bytes(texts)


def _place(units: dict[int, int], bases: set[int], at: int, node: dict[int, Any]) -> None:
    """Find room for the children of the node at `at`; the one of zero holds a value.

    No two nodes count from the same place, so that a child's label tells whose it is.
    """
    base = next(
        number
        for number in range(1, 1 << 20)
        if at ^ number not in bases and not any((at ^ number ^ byte) in units for byte in node)
    )
    bases.add(at ^ base)
    units[at] |= base << 10 | (0x100 if 0 in node else 0)
    for byte, child in node.items():
        units[at ^ base ^ byte] = child | 0x8000_0000 if byte == 0 else byte
    for byte, child in node.items():
        if byte:
            _place(units, bases, at ^ base ^ byte, child)
