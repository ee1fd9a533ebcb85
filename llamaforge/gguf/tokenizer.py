"""The tokenizer that a GGUF file carries, built from its own metadata.

Source: the keys of `docs/gguf.md` of the ggml repository.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from llamaforge.errors import InvalidFileError
from llamaforge.gguf import unigram
from llamaforge.gguf.ends import END_TEXTS, TURN_END, end_ids, plain_ends, token_id
from llamaforge.gguf.header import Header
from llamaforge.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from llamaforge.gguf.unigram import UnigramCutter
from llamaforge.gguf.unigram_json import unigram_tokenizer
from llamaforge.gguf.vocabulary import check_vocabulary

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6

_FILL_IN_TEXTS: Final = frozenset(
    {
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<|code_prefix|>", "<|prefix|>",
        "<PRE>", "▁<PRE>", "<｜fim▁begin｜>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",
        "<|code_suffix|>", "<|suffix|>", "<SUF>", "▁<SUF>", "<｜fim▁hole｜>", "<|fim_middle|>",
        "<fim-middle>", "<fim_middle>", "<|code_middle|>", "<|middle|>", "<MID>", "▁<MID>",
        "<｜fim▁end｜>",
    }
)  # fmt: skip
"""Tokens that mark a gap to be filled in: control tokens in llama.cpp wherever they stand."""

_MOST_CUTS: Final = 16_000_000
"""Characters of all pieces together; each is a place where a piece may have been merged."""
_LONGEST_PIECE: Final = 1_000
"""Characters of one piece: its cuts cost the square of its length."""


class GgufTokenizer:
    """Text to token ids and back, with the ids that llama.cpp gives for the same file."""

    def __init__(self, header: Header) -> None:
        """Build the tokenizer.

        Raises:
            RefusedError: the file's kind of vocabulary or pre-tokenizer is not known yet.
            InvalidFileError: the vocabulary contradicts itself.
        """
        tokens = header.strings("tokenizer.ggml.tokens")
        if any(map(_SURROGATE.search, tokens)):
            raise _contradiction(header, "one of its tokens is not text in UTF-8")
        types = header.numbers("tokenizer.ggml.token_type") or [1] * len(tokens)
        if not tokens or len(types) != len(tokens):
            raise InvalidFileError(
                f"{header.path.name} carries no usable vocabulary.",
                "Pull the model again; without a vocabulary it cannot be trained.",
                code="no_vocabulary",
            )
        self.tokens: list[str] = tokens
        self._plain_ends = plain_ends(tokens)
        self.special_ids: dict[str, int] = {
            text: number
            for number, (text, kind) in enumerate(zip(tokens, types, strict=True))
            # As llama.cpp does it: these texts are control tokens, whatever the file says.
            if (kind in {_CONTROL, _UNKNOWN} or text in END_TEXTS or text in _FILL_IN_TEXTS)
            and text
            and text not in self._plain_ends
        }
        self.bos_id = token_id(header, "bos", len(tokens))
        self.eos_id = token_id(header, "eos", len(tokens))
        self.pad_id = token_id(header, "padding", len(tokens))
        self.unknown_id = token_id(header, "unknown", len(tokens))
        self._unigram: UnigramCutter | None = None
        self._whole: Callable[[], Tokenizer]
        """Makes what `to_json` writes."""
        self.end_ids = end_ids(header, tokens)
        template = header.get("tokenizer.chat_template")
        self.chat_template: str | None = template if isinstance(template, str) else None
        kind = check_vocabulary(header)
        if kind == unigram.MODEL:
            self._unigram = self._unigram_cutter(header, tokens, types)
            self._whole = partial(unigram_tokenizer, header, tokens, types, self.unknown_id or 0)
            adds_bos = False
        elif kind == "gpt2":
            pre = PRE_TOKENIZERS[header.get("tokenizer.ggml.pre", "default")]
            build = _spaced if pre.spaced else partial(_byte_level, pre=pre)
            self._tokenizer = build(header, tokens)
            adds_bos = pre.adds_bos
        elif kind == "llama":
            self._tokenizer = _sentencepiece(header, tokens, types)
            adds_bos = True
        else:
            self._tokenizer = _spaced(header, tokens)
            adds_bos = True
        wanted = header.get("tokenizer.ggml.add_bos_token")
        # Of Gemma 4 there are files that deny it wrongly: llama.cpp does not listen to them.
        if isinstance(wanted, bool) and not _is_of_gemma4(header):
            adds_bos = wanted
        self.add_bos = adds_bos and self.bos_id is not None
        if self._unigram is None:
            self._add_tokens(header, types)
            self._whole = lambda: Tokenizer.from_str(self._tokenizer.to_str())

    def _unigram_cutter(self, header: Header, tokens: list[str], types: list[int]) -> UnigramCutter:
        defaults = {
            key: number for key, number in unigram.DEFAULT_IDS.items() if number < len(tokens)
        }
        self.eos_id = defaults.get("eos") if self.eos_id is None else self.eos_id
        self.pad_id = defaults.get("padding") if self.pad_id is None else self.pad_id
        if self.unknown_id is None:
            self.unknown_id = defaults.get("unknown", 0)
        return UnigramCutter(header, tokens, types, self.unknown_id)

    def _add_tokens(self, header: Header, types: list[int]) -> None:
        """Let control tokens, and those that stand as they are, be looked for in a text."""
        tokens = self.tokens
        self._tokenizer.add_special_tokens(
            [AddedToken(text, normalized=False, special=True) for text in self.special_ids]
        )
        self._tokenizer.add_tokens(
            [
                AddedToken(text, normalized=False, special=False)
                for text, kind in zip(tokens, types, strict=True)
                if text
                and text not in self.special_ids
                and _is_found_first(header, text, kind, self._plain_ends)
            ]
        )
        if self._tokenizer.get_vocab_size() != len(set(tokens)):
            raise _contradiction(header, "its tokens cannot all be told apart")

    def text_of(self, number: int | None) -> str:
        """Return the text of one token as it stands in the vocabulary; empty for None."""
        return "" if number is None else self.tokens[number]

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`, without BOS; special tokens' text is a token if parsed."""
        return self.encode_with_offsets(text, parse_special=parse_special)[0]

    def encode_with_offsets(
        self, text: str, *, parse_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of `text` and, for each, the characters [start, end) it stands for."""
        if self._unigram is not None:
            return self._unigram.encode(text, parse_special=parse_special)
        self._tokenizer.encode_special_tokens = not parse_special
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def with_bos(self, ids: list[int]) -> list[int]:
        """Return `ids` with BOS in front where the model wants one; never two of them."""
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def to_json(self) -> str:
        """Return it as the content of a `tokenizer.json`, which also puts BOS where one belongs."""
        whole = self._whole()
        if self.add_bos and self.bos_id is not None:
            bos = self.text_of(self.bos_id)
            whole.post_processor = processors.TemplateProcessing(
                single=[bos, "$A"],
                pair=[bos, "$A", f"{bos}:1", "$B:1"],
                special_tokens=[(bos, self.bos_id)],
            )
        text: str = whole.to_str(pretty=True)
        return text

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Return the text of `ids`."""
        if self._unigram is not None:
            return self._unigram.decode(ids, skip_special=skip_special)
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special)
        return text


def _is_of_gemma4(header: Header) -> bool:
    """Return whether a vocabulary is Gemma 4's, or one that llama.cpp treats as that one."""
    if header.get("tokenizer.ggml.model") == "gemma4":
        return True
    pre = PRE_TOKENIZERS.get(header.get("tokenizer.ggml.pre", ""))
    return pre is not None and pre.spaced and pre.adds_bos


def _is_found_first(header: Header, text: str, kind: int, plain: frozenset[str]) -> bool:
    """Return whether a token is looked for before a text is cut, though it is no control token."""
    if text in plain:
        return text == TURN_END
    # A run of line ends is one token here, whatever the merges say.
    is_run = _is_of_gemma4(header) and not text.strip("\n")
    return kind == _USER_DEFINED or is_run


def _contradiction(header: Header, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"The vocabulary of {header.path.name} contradicts itself: {what}.",
        "Pull the model again.",
        code="bad_vocabulary",
    )


def _byte_level(header: Header, tokens: list[str], pre: PreTokenizer) -> Tokenizer:
    """Return a byte-level BPE tokenizer as GPT-2 defined it."""
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = _merges(header, vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre.ignore_merges)
    )
    cuts: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre.patterns
    ]
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(header: Header, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the file's merges, those left out that join or make what is no token."""
    merges: list[tuple[str, str]] = []
    for line in header.strings("tokenizer.ggml.merges"):
        cut = line.find(" ", 1)
        left, right = line[:cut], line[cut + 1 :]
        is_whole = cut > 0 and right != ""
        if is_whole and left + right in vocabulary and left in vocabulary and right in vocabulary:
            merges.append((left, right))
    return merges


def _spaced(header: Header, tokens: list[str]) -> Tokenizer:
    """Return Gemma 4's tokenizer: merges over whole lines, in which spaces are `▁`.

    Characters without a token become their UTF-8 bytes' tokens.
    """
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = _merges(header, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _sentencepiece(header: Header, tokens: list[str], types: list[int]) -> Tokenizer:
    """Return a SentencePiece BPE tokenizer: merges follow from the pieces' scores.

    The pair whose joined piece scores highest is merged first, as in `llm_tokenizer_spm` of
    llama.cpp; characters without a piece become their UTF-8 bytes' tokens.
    """
    scores = header.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise _contradiction(header, f"it has {len(tokens)} tokens and {len(scores)} scores")
    if any(map(math.isnan, scores)):
        raise _contradiction(header, "one of its scores is not a number")
    if max(map(len, tokens)) > _LONGEST_PIECE or sum(map(len, tokens)) > _MOST_CUTS:
        raise _contradiction(header, "its tokens are too long")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    ranked: list[tuple[float, int, str, str]] = []
    for number, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in {_CONTROL, _UNKNOWN, _BYTE}:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[number], number, left, right))
    ranked.sort(key=lambda item: item[:2])
    unknown = token_id(header, "unknown", len(tokens))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for _, _, left, right in ranked],
            unk_token=tokens[unknown] if unknown is not None else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    if header.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer
