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


def _cased(suffix: str, digits: str) -> str:
    """Return the expression of the vocabularies that cut between a small and a capital letter."""
    return (
        rf"{_LEAD}{_UPPER}*{_LOWER}+{suffix}|{_LEAD}{_UPPER}+{_LOWER}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_TEKKEN: Final = _cased("", r"\p{N}")
_GPT4O: Final = _cased(f"(?:{_CONTRACTIONS})?", r"\p{N}{1,3}")
_PUNCTUATION: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
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


def _named(pre_tokenizer: PreTokenizer, *names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names, pre_tokenizer)


PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    **_named(
        PreTokenizer((_GPT2,)),
        "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat",
        "a.x-4.0", "mellum", "exaone4",
    ),
    **_named(
        PreTokenizer((r"\p{N}", _GPT2)),
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2",
    ),
    **_named(
        PreTokenizer((_QWEN2,)),
        "qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open",
        "grok-2",
    ),
    **_named(PreTokenizer((_QWEN35,)), "qwen35"),
    **_named(
        PreTokenizer((_LLAMA3,), ignore_merges=True, adds_bos=True),
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    ),
    **_named(PreTokenizer((_LLAMA3,)), "dbrx", "smaug-bpe", "chatglm-bpe"),
    **_named(PreTokenizer((_LLAMA3,), ignore_merges=True), "glm4", "glm5"),
    **_named(PreTokenizer((_TEKKEN,), ignore_merges=True, adds_bos=True), "tekken"),
    **_named(PreTokenizer((_GPT4O,)), "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    **_named(
        PreTokenizer((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _PUNCTUATION)),
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
}  # fmt: skip
