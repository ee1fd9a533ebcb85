"""At which tokens an answer ends, as llama.cpp has it."""

from collections.abc import Sequence
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header

_END_KEYS: Final = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
END_TEXTS: Final = frozenset(
    {
        "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
        "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|return|>",
        "<|call|>", "<|calls|>", "<|flush|>", "</s>", "<eos>", "<end_of_utterance>", "<turn|>",
        "<|tool_response>", "[e~[", "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<fim-pad>",
        "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
        "<reponame>", "<|file_sep|>",
    }
)  # fmt: skip
"""Tokens that end an answer in llama.cpp wherever a vocabulary has them."""

TURN_END: Final = "<|end|>"
"""The end of a turn; of a message, in vocabularies that also have calls and returns."""
_TEXT_END: Final = "</s>"


def end_ids(header: Header, tokens: Sequence[str]) -> frozenset[int]:
    """Return the ids at which llama.cpp ends an answer."""
    plain = plain_ends(tokens)
    named = {token_id(header, key, len(tokens)) for key in _END_KEYS}
    by_text = {number for number, text in enumerate(tokens) if text in END_TEXTS}
    ends = by_text | {number for number in named if number is not None}
    return frozenset(number for number in ends if tokens[number] not in plain)


def check_ends(header: Header) -> None:
    """Refuse a vocabulary of which no token ends an answer.

    Its tokens are only looked through where the file does not name one.

    Raises:
        RefusedError: `no_eos`.
    """
    size = header.length("tokenizer.ggml.tokens")
    if not size or token_id(header, "eos", size) is not None:
        return
    if not end_ids(header, header.strings("tokenizer.ggml.tokens")):
        raise RefusedError(
            f"{header.path.name} names no token at which an answer ends (EOS), so a model trained "
            "with it would never stop.",
            "Choose another model.",
            code="no_eos",
        )


def plain_ends(tokens: Sequence[str]) -> frozenset[str]:
    """Return which of the texts that end answers elsewhere do not in this vocabulary.

    Source: `llama_vocab::impl::load` in `llama-vocab.cpp` of llama.cpp.
    """
    present = set(tokens)
    plain = set()
    calls = bool({"<|call|>", "<|calls|>"} & present)
    if TURN_END in present and calls and ("<|return|>" in present or "<|flush|>" in present):
        plain.add(TURN_END)
    if _TEXT_END in present and "<|tool_response>" in present:
        plain.add(_TEXT_END)
    return frozenset(plain)


def token_id(header: Header, key: str, size: int) -> int | None:
    """Return the id that the file names for a role such as `eos`, if it is one of `size`."""
    value = header.get(f"tokenizer.ggml.{key}_token_id")
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
    return value if sound else None
