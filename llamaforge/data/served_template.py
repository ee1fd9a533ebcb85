"""Whether Ollama asks the model in the words that it is trained on: two renderings side by side.

Ollama renders a chat with the Go template of its own layer, training with the Jinja template of
the GGUF file. Both are given one conversation, and the first character that differs is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from llamaforge.data.chat import ChatRenderer
from llamaforge.data.go_parse import GoTemplateError
from llamaforge.data.go_template import GoTemplate
from llamaforge.data.records import Message, RowError, is_raw_text
from llamaforge.safe_text import safe_line

SAMPLE: Final = (
    Message("system", "Answer in one sentence."),
    Message("user", "What is the capital of France?"),
    Message("assistant", "It is Paris."),
    Message("user", "And of Spain?"),
)
"""Two questions, so that the end of an answer is compared too."""


@dataclass(frozen=True, slots=True)
class TemplateComparison:
    """One prompt as training and as Ollama writes it. The texts are not yet safe to print."""

    state: str
    """`same`, `different`, `not_compared` or `no_template` (of Ollama's own)."""
    reason: str = ""
    """Why it was not compared, one clause that is safe to print."""
    trained: str = ""
    """The prompt of training, a BOS in front aside."""
    served: str = ""
    """That of Ollama's template, likewise."""
    first_difference: int | None = None
    """The place of the first character that differs, in both texts."""
    left_out: tuple[str, ...] = ()
    """Roles of the sample left out since the Jinja template refuses them."""


def compare_templates(
    renderer: ChatRenderer,
    go_template: str | None,
    *,
    built_in: str = "",
    messages: Sequence[Message] = SAMPLE,
    own_system: str = "",
) -> TemplateComparison:
    """Return how the two templates of a model write the prompt `messages`.

    Args:
        renderer: renders with the Jinja template that training uses.
        go_template: the text of Ollama's TEMPLATE layer, where there is one.
        built_in: the name of Ollama's built-in renderer, which then writes the prompt instead.
        messages: a conversation; a last answer is left out, since it is what is asked for.
        own_system: the model's SYSTEM text in Ollama, which a chat gets that begins with none.
    """
    if built_in:
        return _not_compared(
            f"Ollama writes the prompt with its built-in renderer {safe_line(built_in, limit=40)},"
            " which cannot be rendered here"
        )
    if not go_template or not go_template.strip():
        return TemplateComparison("no_template", "the model has no TEMPLATE layer in Ollama")
    turns = list(messages)
    if turns and turns[-1].role == "assistant":
        turns.pop()
    if reason := _beyond_comparison(turns, go_template):
        return _not_compared(reason)
    try:
        template = GoTemplate(go_template)
        trained, turns, left_out = _prompt(renderer, turns)
        if own_system and turns[:1] and turns[0].role != "system":
            turns = [Message("system", own_system), *turns]
        served = template.render(turns)
    except GoTemplateError as error:
        reason = safe_line(str(error), limit=120)
        return _not_compared(f"Ollama's template cannot be rendered here: {reason}")
    except RowError as error:
        return _not_compared(str(error))
    bos = renderer.tokenizer.text_of(renderer.tokenizer.bos_id)
    trained, served = _without(trained, bos), _without(served, bos)
    place = first_difference(trained, served)
    state = "same" if place is None else "different"
    return TemplateComparison(state, "", trained, served, place, left_out)


def _beyond_comparison(turns: Sequence[Message], go_template: str) -> str:
    """Return why a conversation is not compared at all; nothing where it is."""
    if is_raw_text(turns):
        return "raw text is trained without a template"
    if not any(turn.role == "tools" or turn.calls for turn in turns):
        return ""
    if ".Tools" in go_template:
        return "how Ollama writes tools is not rendered here"
    return "the row has tools, and Ollama's template has no place for them"


def first_difference(one: str, other: str) -> int | None:
    """Return the place of the first character that differs; None where the texts are equal."""
    if one == other:
        return None
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _prompt(
    renderer: ChatRenderer, turns: list[Message]
) -> tuple[str, list[Message], tuple[str, ...]]:
    """Return the prompt of training, without a system message where the template wants none."""
    try:
        return renderer.render(turns, generation_prompt=True), turns, ()
    except RowError:
        bare = [turn for turn in turns if turn.role != "system"]
        if len(bare) == len(turns):
            raise
        return renderer.render(bare, generation_prompt=True), bare, ("system",)


def _without(text: str, bos: str) -> str:
    # The tokenizer puts BOS in front anyway, and never a second one.
    return text.removeprefix(bos) if bos else text


def _not_compared(reason: str) -> TemplateComparison:
    return TemplateComparison("not_compared", reason)
