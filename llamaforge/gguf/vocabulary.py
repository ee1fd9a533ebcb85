"""Whether a file's kind of vocabulary is one whose tokens are those that the server cuts."""

from collections.abc import Mapping
from typing import Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.pre_tokenizers import PRE_TOKENIZERS

_BYTE_LEVEL: Final = "gpt2"
_UNIGRAM: Final = "t5"
KINDS: Final = frozenset({_BYTE_LEVEL, "llama", "gemma4", _UNIGRAM})
"""What `tokenizer.ggml.model` may say: byte-level BPE, SentencePiece's BPE, Gemma 4's, Unigram."""
_WHY_NOT: Final[Mapping[str, str]] = {
    "bert": "has a WordPiece vocabulary, which belongs to models that make embeddings and write "
    "no text",
    "no_vocab": "has no vocabulary: what it reads and writes is no text",
    "none": "has no vocabulary: what it reads and writes is no text",
}


def check_vocabulary(header: Header) -> str:
    """Return the file's kind of vocabulary.

    Raises:
        RefusedError: it is not known, or cuts text in a way that is not known.
    """
    kind = header.get("tokenizer.ggml.model", "")
    name = header.path.name
    if kind not in KINDS:
        why = _WHY_NOT.get(
            str(kind), f"has a vocabulary of the kind {str(kind)[:40]!r}, which is not known yet"
        )
        raise RefusedError(f"{name} {why}.", "Choose another model.", code="unsupported_tokenizer")
    pre = header.get("tokenizer.ggml.pre", "default")
    if kind == _BYTE_LEVEL and pre not in PRE_TOKENIZERS:
        raise RefusedError(
            f"The pre-tokenizer {str(pre)[:40]!r} of {name} is not known yet, so its text would "
            "be cut into other tokens than when it is served.",
            "Choose another model; docs/models.md lists the pre-tokenizers that are known.",
            code="unsupported_tokenizer",
        )
    return str(kind)


def check_chat(header: Header) -> None:
    """Refuse a vocabulary with which the server cannot let a model go on from a prompt.

    Raises:
        RefusedError: the server ends every prompt with the token that ends a text.
    """
    is_unigram = header.get("tokenizer.ggml.model") == _UNIGRAM
    if header.get("tokenizer.ggml.add_eos_token", is_unigram) is True:
        raise RefusedError(
            f"{header.path.name} asks for the end-of-text token after every prompt, so what the "
            "model answers would stand after the end.",
            "Choose a model that chats.",
            code="unsupported_tokenizer",
        )
