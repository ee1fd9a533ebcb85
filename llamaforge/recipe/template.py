"""Whether the chat template of a run can be used at all, told before anything is rendered."""

from typing import Final

from llamaforge.data.rendering import check_syntax
from llamaforge.data.templates import choose_template, tokens_of
from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header

_MOST_CHARACTERS: Final = 500_000
"""A longer one is left to the process that renders, whose time is limited."""


def check_template(given: str | None, own: str | None, header: Header) -> None:
    """Return unless the template cannot be read, or is made of tokens that the model lacks.

    Args:
        given: what the person set: a known name or Jinja text.
        own: that of the full-precision base, where there is one.
        header: the model's file.

    Raises:
        UsageError: `given` is neither a known name nor Jinja text (`chat_template`).
        InvalidFileError: it is not valid Jinja (`chat_template`).
        RefusedError: a token of it is not in the vocabulary (`chat_template`).
    """
    in_file = header.get("tokenizer.chat_template")
    own = own or (in_file if isinstance(in_file, str) else None)
    if not given and not (own and own.strip()):
        return  # chosen by the vocabulary then, or plain
    template = choose_template(given, own, ())
    if len(template.text) <= _MOST_CHARACTERS:
        check_syntax(template.text)
    needed = tokens_of(template.source)
    if not needed:
        return
    vocabulary = set(header.strings("tokenizer.ggml.tokens"))
    for token in needed:
        if vocabulary and token not in vocabulary:
            raise RefusedError(
                f"The template {template.source} is made of {token}, which the model's vocabulary "
                "does not have.",
                "Leave chat_template out, or give Jinja text that ends answers with a token of "
                "this model.",
                code="chat_template",
            )
