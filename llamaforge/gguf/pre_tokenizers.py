"""How a byte-level BPE vocabulary cuts text into pieces before it merges within each.

A GGUF file names its cut in `tokenizer.ggml.pre`. The names and what they mean are those of
`llm_tokenizer_bpe` in `llama-vocab.cpp` of llama.cpp: the expressions here give the pieces that
it gives, also where it departs from the model's original tokenizer (it treats letters beyond
ASCII as both upper and lower case, for one), because a model is trained for what serves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_CONTRACTIONS: Final = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_SYMBOLS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2: Final = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_LLAMA3: Final = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN35: Final = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)

_UPPER: Final = r"(?:(?=\p{L})[^a-z])"
_LOWER: Final = r"(?:(?=\p{L})[^A-Z])"
_LEAD: Final = r"[^\r\n\p{L}\p{N}]?"

_SENTENCE: Final = r" ?[^(\s|.,!?…。，、।۔،)]+"
_MARKS: Final = "21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3001-3002"


def _cased(suffix: str, digits: str) -> str:
    """Return the expression of the vocabularies that cut between a small and a capital letter."""
    return (
        rf"{_LEAD}{_UPPER}*{_LOWER}+{suffix}|{_LEAD}{_UPPER}+{_LOWER}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_TEKKEN: Final = _cased("", r"\p{N}")
_GPT4O: Final = _cased(f"(?:{_CONTRACTIONS})?", r"\p{N}{1,3}")
_MARKED_WORD: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
)
_PUNCTUATION: Final = rf"{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_KANA: Final = "[一-龥\u3040-ゟ゠-ヿ]+"


_CASED_LETTERS: Final = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f "
    "386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd "
    "1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 "
    "1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 "
    "1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 "
    "2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 "
    "2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 "
    "a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 "
    "104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943 "
)
"""The letters that DeepSeek LLM's tokenizer lists, as ranges of code points in hexadecimal."""


def _class(ranges: str) -> str:
    """Return ranges such as `41-5a b5` as the inside of a character class."""
    return "".join(
        "-".join(rf"\x{{{point}}}" for point in part.split("-")) for part in ranges.split()
    )


@dataclass(frozen=True)
class PreTokenizer:
    """How a byte-level BPE vocabulary cuts text before it merges."""

    patterns: tuple[str, ...]
    """Expressions, each applied to the pieces that the one before it left."""
    ignore_merges: bool = False
    """Whether a piece that is a token as it stands is taken whole."""
    adds_bos: bool = False
    """Whether BOS stands in front of a text, where the file does not say."""
    spaced: bool = False
    """Whether merges run over characters, in which spaces are `▁`, instead of over bytes."""


_IDEOGRAPHS: Final = rf"(?:(?=\S)[{_class('800-9fa5 ac00-d7ff')}])+"
"""As DeepSeek's tokenizers list them; the range holds spaces too, which llama.cpp leaves out."""


_HAN: Final = _class(
    "4e00-9fff 3400-4dbf 20000-2a6df 2a700-2b73f 2b740-2b81f 2b820-2ceaf 2ceb0-2ebef f900-faff "
    "2f800-2fa1f"
)
_EAST_ASIAN: Final = _class(
    "4e00-9fff 3400-4dbf 8c48-d7ff e000-faff 3040-309f 30a0-30ff ff65-ff9f 2f00-2fdf e40-e7f "
    "e80-eff 1780-17ff 1000-109f aa60-aa7f a9e0-a9ff ac00-d7af 1100-11ff"
)
"""As AFMoE's expression has it, one of whose ranges begins elsewhere than its maker meant."""
_YOUTU_SCRIPTS: Final = (
    rf"[{_class('ac00-d7a3 3131-318e')}]+"
    rf"|[{_class('ff01 2026 201c 201d 2018 2019 2014 ff1a ff1b ff0c 3001-303f fe30-fe4f')}]+"
    rf"|[{_class('3105-312f')}]+|[{_class('4e00-9fa5 3040-309f 30a0-30ff')}]+"
)
_FROM_THE_RIGHT: Final = r"\P{N}*(?:\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{3})"
"""Numbers are cut into threes from their end; what stands before one stays with its first part."""
_RUNS: Final = "".join(rf"|\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4))


def _joined(digits: str) -> str:
    """Return the expression of those that keep marks with letters, and contractions with words."""
    return (
        rf"{_LEAD}[\p{{L}}\p{{M}}]+(?:{_CONTRACTIONS})?|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


def _accented(suffix: str, digits: str) -> str:
    """Return the expression of `_cased`, with marks among the letters."""
    upper, lower = r"(?:(?=[\p{L}\p{M}])[^a-z])", r"(?:(?=[\p{L}\p{M}])[^A-Z])"
    return (
        rf"{_LEAD}{upper}*{lower}+{suffix}|{_LEAD}{upper}+{lower}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


def _named(pre_tokenizer: PreTokenizer, *names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names, pre_tokenizer)


PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    **_named(
        PreTokenizer((_GPT2,)),
        "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat",
        "a.x-4.0", "mellum", "exaone4", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
        "modern-bert",
    ),
    **_named(
        PreTokenizer((r"\p{N}", _GPT2)),
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2",
    ),
    **_named(
        PreTokenizer((_QWEN2,)),
        "qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open",
        "grok-2", "f2llmv2",
    ),
    **_named(PreTokenizer((_QWEN35,)), "qwen35"),
    **_named(
        PreTokenizer((_LLAMA3,), ignore_merges=True, adds_bos=True),
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano",
    ),
    **_named(PreTokenizer((_LLAMA3,)), "dbrx", "smaug-bpe", "chatglm-bpe"),
    **_named(PreTokenizer((_LLAMA3,), ignore_merges=True), "glm4", "glm5"),
    **_named(PreTokenizer((_TEKKEN,), ignore_merges=True, adds_bos=True), "tekken"),
    **_named(PreTokenizer((_GPT4O,)), "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    **_named(
        PreTokenizer((r"\p{N}{1,3}", _KANA, _PUNCTUATION)),
        "deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4",
    ),
    **_named(
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")), "falcon",
    ),
    **_named(
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")), "default",
    ),
    **_named(
        PreTokenizer(
            (
                rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+"
                rf"|{_SPACES}",
            )
        ),
        "seed-coder",
    ),
    **_named(
        PreTokenizer(
            (
                rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SYMBOLS}"
                r"|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
        "bailingmoe", "bailingmoe2", "llada-moe",
    ),
    **_named(
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{_class(_CASED_LETTERS)}]+",
                rf"\s?[{_class(_MARKS)}]+",
                r"\s+\z",
                _IDEOGRAPHS,
                r"\p{N}+",
            )
        ),
        "deepseek-llm",
    ),
    **_named(
        PreTokenizer(
            (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, r"\p{N}")
        ),
        "deepseek-coder",
    ),
    **_named(PreTokenizer((_SENTENCE,)), "poro-chat", "bloom", "gpt3-finnish"),
    **_named(PreTokenizer((_SENTENCE, r"\p{N}")), "viking"),
    **_named(
        PreTokenizer(
            (
                rf"{_CONTRACTIONS}|{_LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
        "exaone-moe",
    ),
    **_named(
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}",
            ),
            ignore_merges=True,
        ),
        "minicpm5",
    ),
    **_named(PreTokenizer((rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)), "ufakzeka"),
    **_named(PreTokenizer((r"[^\n]+|\n+", _QWEN2)), "laguna"),
    **_named(
        PreTokenizer(
            (
                rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+{_RUNS}"
                r"|\s{1,2}(?!\S)|\s",
            )
        ),
        "jais-2",
    ),
    **_named(
        PreTokenizer(
            (
                "<sentinel:[0-9]+>", "(?:IMGIMG)[A-I]{1,4}Z", r"[\t\n]|    |  ", r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]", _GPT2,
            ),
            adds_bos=True,
        ),
        "chameleon",
    ),
    **_named(
        PreTokenizer(
            (
                r"\p{N}{1,3}", _KANA,
                rf"{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}",
            )
        ),
        "spark2_5",
    ),
    **_named(
        PreTokenizer((_YOUTU_SCRIPTS, _joined(r"\p{N}")), ignore_merges=True), "youtu"
    ),
    **_named(
        PreTokenizer((_FROM_THE_RIGHT, _joined(r"\p{N}{1,3}"))), "tiny_aya", "cohere2moe"
    ),
    **_named(
        PreTokenizer((_FROM_THE_RIGHT, f"[{_EAST_ASIAN}]+", _PUNCTUATION)), "afmoe"
    ),
    **_named(
        PreTokenizer(
            (
                rf"[{_HAN}]+|{_LEAD}(?:(?![{_HAN}])\p{{L}})+(?:{_CONTRACTIONS})?"
                rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",
            )
        ),
        "kimi-k2",
    ),
    **_named(PreTokenizer((r"\p{N}+", "(?=(?:[0-9]{3})+(?![0-9]))")), "superbpe"),
    **_named(
        PreTokenizer(
            (_accented(f"(?:{_CONTRACTIONS})?", r"\p{N}{1,3}"),), ignore_merges=True
        ),
        "granite-embed-multi-97m",
    ),
    **_named(PreTokenizer((r"[^\n]+|\n+",), spaced=True), "sarvam-moe"),
    **_named(
        PreTokenizer((r"[^\n]+|\n+",), spaced=True, adds_bos=True),
        "gemma4", "granite-embed-multi-311m",
    ),
}  # fmt: skip
