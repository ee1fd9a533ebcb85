"""Which chat template a model's rows are rendered with, and where it was taken from."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from llamaforge.errors import UsageError

CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PLAIN: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
"""Prompt and answer with nothing between them, as Ollama serves a model without a template."""

_KNOWN: Final = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}
_NAMED: Final = {name: text for name, (text, _) in _KNOWN.items()} | {"plain": PLAIN}


def tokens_of(name: str) -> tuple[str, ...]:
    """Return the control tokens that the known template `name` is made of; none of others."""
    return _KNOWN[name][1] if name in _KNOWN else ()


@dataclass(frozen=True, slots=True)
class Template:
    """A Jinja template for conversations."""

    source: str
    """`file` (the model's own), `given` (by the person), or the name of a known one."""
    text: str


def choose_template(
    given: str | None, own: str | None, special_tokens: Collection[str]
) -> Template:
    """Return the template to render with.

    Args:
        given: what the person set: a known name or Jinja text; outranks everything.
        own: the template in the model's file.
        special_tokens: texts of the vocabulary's control tokens; where the file has no template
            they tell which family the model is of.

    Raises:
        UsageError: `given` is neither a known name nor Jinja text.
    """
    if given:
        if given in _NAMED:
            return Template(given, _NAMED[given])
        if "{" not in given:
            raise UsageError(
                f"{given[:40]!r} is no chat template.",
                f"Use one of {', '.join(_NAMED)}, or Jinja text.",
                code="chat_template",
            )
        return Template("given", given)
    if own and own.strip():
        return Template("file", own)
    for name, (text, needed) in _KNOWN.items():
        if all(token in special_tokens for token in needed):
            return Template(name, text)
    return Template("plain", PLAIN)
