"""A Unigram vocabulary as a `tokenizer.json`, from the same metadata as `unigram`.

The search is the library's in both, so what has to be written down is the form of texts and which
tokens are never found in a text.
"""

from collections.abc import Sequence
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import Unigram

from llamaforge.gguf.header import Header
from llamaforge.gguf.unigram import (
    FOUND_FIRST,
    SPACE,
    TABLE_KEY,
    USER_DEFINED,
    charsmap_bytes,
    replacements,
    searched_pieces,
)

_HIDDEN: Final = "\U0010fffd"
"""What stands in front of tokens that no text is cut into, and is taken away when decoding."""
_MOST_REPLACED: Final = 256
"""Texts of a table, up to which each gets a step of its own."""
_NOT_EMPTY: Final = r"\A(?=[\s\S]*[^ ])"


def unigram_tokenizer(
    header: Header, tokens: Sequence[str], types: Sequence[int], unknown_id: int
) -> Tokenizer:
    """Return the tokenizer that transformers is given.

    Small tables of replacements are written step by step, and give llama.cpp's ids. Of large ones
    the library's own `Precompiled` does the work, as in the makers' own files: it reads grapheme
    clusters, so a rare text of combining characters may be cut otherwise (`is_exact`).

    Raises:
        InvalidFileError: the table is cut short.
    """
    scores = header.numbers("tokenizer.ggml.scores")
    found = [
        # A control token is found as it stands, before a text gets here, so it keeps its text.
        (text if kind in FOUND_FIRST or (text, score) == piece else f"{_HIDDEN}{text}", piece[1])
        for text, kind, score, piece in zip(
            tokens, types, scores, searched_pieces(tokens, types, scores), strict=True
        )
    ]
    tokenizer = Tokenizer(Unigram(found, unknown_id, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([*_table_steps(header), *_space_steps(header)])
    added = [
        AddedToken(text, normalized=False, special=kind != USER_DEFINED)
        for text, kind in zip(tokens, types, strict=True)
        if kind in FOUND_FIRST and text
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    steps: list[Any] = [
        decoders.Replace(_HIDDEN, ""),
        decoders.Replace(SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if header.get("tokenizer.ggml.add_space_prefix", False):
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def is_exact(header: Header) -> bool:
    """Return whether `unigram_tokenizer` gives llama.cpp's ids for every text.

    llama.cpp takes the mere beginning of a user's token for one and leaves its letters as they
    are: a text of the table that begins within it is not replaced there.
    """
    steps = _steps(header)
    if steps is None:
        return False
    begins = {text[0] for text, _ in steps}
    types = header.numbers("tokenizer.ggml.token_type")
    tokens = header.strings("tokenizer.ggml.tokens") if USER_DEFINED in types else []
    return all(
        begins.isdisjoint(token)
        for token, kind in zip(tokens, types, strict=False)
        if kind == USER_DEFINED
    )


def _steps(header: Header) -> list[tuple[str, str]] | None:
    """Return the table as replacements that give the same one after the other.

    None where there are too many, where one step would take up what an earlier one has put in, or
    where two texts of several characters can overlap: the table takes the first of them, steps the
    longer one.
    """
    table = replacements(header)
    if len(table) > _MOST_REPLACED:
        return None
    steps = sorted(table.items(), key=lambda item: (-len(item[0]), item[0]))
    put_in: set[str] = set()
    for text, instead in steps:
        if not put_in.isdisjoint(text):
            return None
        put_in.update(instead)
    several = [text for text in table if len(text) > 1]
    begins = {text[0] for text in several}
    return steps if all(begins.isdisjoint(text[1:]) for text in several) else None


def _table_steps(header: Header) -> list[Any]:
    """Return what puts in the replacements of the file's table: longer texts before shorter."""
    if not header.numbers(TABLE_KEY):
        return []
    steps = _steps(header)
    if steps is None:
        return [normalizers.Precompiled(charsmap_bytes(header))]
    return [normalizers.Replace(text, instead) for text, instead in steps]


def _space_steps(header: Header) -> list[Any]:
    """Return what makes a mark of each space, and the marks that llama.cpp puts in front."""
    if header.get("tokenizer.ggml.remove_extra_whitespaces", False):
        return [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" +"), SPACE),
            normalizers.Prepend(SPACE),
        ]
    prefix: list[Any] = []
    if header.get("tokenizer.ggml.add_space_prefix", False):
        prefix = [normalizers.Replace(Regex(_NOT_EMPTY), SPACE)]
    return [*prefix, normalizers.Replace(" ", SPACE)]
