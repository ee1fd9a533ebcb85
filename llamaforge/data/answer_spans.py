"""Which characters of a rendered conversation are trained: each answer, and what ends it.

What a template puts between the prompt's end and the answer must come from the model when it is
served, so it is trained too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from llamaforge.data.pieces import ControlTokens, Piece, PieceCutter, before
from llamaforge.data.records import Message, RowError, is_raw_text
from llamaforge.data.rendering import CompiledTemplate
from llamaforge.data.tool_calls import call_names


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, stop) of a rendered conversation."""

    start: int
    stop: int
    terminated: bool
    """Whether the last of them end the turn."""


class AnswerSpans:
    """Finds what is trained in conversations rendered with one template."""

    def __init__(
        self, template: CompiledTemplate, cutter: PieceCutter, control: ControlTokens
    ) -> None:
        self._template = template
        self._cutter = cutter
        self._control = control

    def find(
        self, messages: Sequence[Message], pieces: Sequence[Piece], targets: frozenset[int]
    ) -> Iterator[Span]:
        """Yield the characters to train: each answer in `targets` and what ends it.

        Raw text is trained whole; it has no end, since most are passages of something longer. An
        answer that the template does not show, or in a place that cannot be told, has none.

        Raises:
            RowError: a call is not shown, or in a place that cannot be told.
        """
        if is_raw_text(messages):
            yield Span(0, sum(len(piece.text) for piece in pieces), terminated=True)
            return
        calling = {place for place in targets if messages[place].calls}
        for place in sorted(calling):
            yield self._call_span(messages, pieces, place)
        targets -= calling
        if not targets:
            return
        opening, lead = self._answer_opening(messages, pieces)
        position = 0
        for number, piece in enumerate(pieces):
            if piece.message in targets:
                # What a template puts between the prompt's end and the answer (an empty thinking
                # block) must come from the model when it is served, so it is trained too.
                before = pieces[number - 1].text if number else ""
                place = before.rfind(opening) if opening else -1
                extra = len(before) - place - len(opening) if place >= 0 else 0
                if lead and before.endswith(lead):
                    extra = len(lead)
                after = pieces[number + 1].text if number + 1 < len(pieces) else ""
                end = next(self._control.within(after), None)
                stop = end.stop if end is not None and end.ends else 0
                yield Span(position - extra, position + len(piece.text) + stop, stop > 0)
            position += len(piece.text)

    def _call_span(self, messages: Sequence[Message], pieces: Sequence[Piece], place: int) -> Span:
        """Return the characters of an answer that calls tools, words in front of the call included.

        It begins where the template asks for it, behind the message before, and ends with the
        first token at which a model stops.

        Raises:
            RowError: the template does not show the call, or in a place that cannot be told.
        """
        numbers = [piece.message for piece in pieces]
        opening = self._opening_after(messages[:place])
        if opening is None or place - 1 not in numbers:
            raise RowError("the chat template shows a call of a tool in a place that is not clear")
        first = numbers.index(place - 1) + 1
        begins = sum(len(piece.text) for piece in pieces[:first])
        start = begins + self._shared(opening, pieces[first].text)
        for piece in pieces[first:]:
            if piece.message is not None and piece.message > place:
                raise RowError("the chat template does not end a call of a tool")
            if piece.message is None:
                for token in self._control.within(piece.text, max(start - begins, 0)):
                    if token.ends:
                        found = Span(start, begins + token.stop, terminated=True)
                        return _shown_call(messages[place], pieces, found)
            begins += len(piece.text)
        return _shown_call(messages[place], pieces, Span(start, begins, terminated=False))

    def _opening_after(self, messages: Sequence[Message]) -> str | None:
        """Return what the template writes behind the last message to ask for an answer."""
        pieces = self._cutter.cut(messages, generation_prompt=True)
        is_told = len(pieces) > 1 and pieces[-2].message == len(messages) - 1
        return pieces[-1].text if is_told else None

    def _shared(self, opening: str, text: str) -> int:
        """Return how much of `opening` begins `text`; what stands in <> is shared whole or not."""
        pairs = zip(opening, text, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        for token in self._control.within(text):
            if token.start < shared < token.stop:
                return token.start
        tag = text.rfind("<", 0, shared)
        return tag if tag >= 0 and ">" not in text[tag:shared] else shared

    def _answer_opening(
        self, messages: Sequence[Message], pieces: Sequence[Piece]
    ) -> tuple[str, str]:
        """Return what the template adds to ask for an answer, such as `<|im_start|>assistant`.

        Where it adds nothing, the second text is the white space that it writes in front of an
        answer, which the model has to write itself then.
        """
        asked = next(
            (place for place, message in enumerate(messages) if message.role == "assistant"), 0
        )
        if asked == 0:
            return "", ""
        question = messages[:asked]
        without = self._template.render(question)
        with_prompt = self._template.render(question, generation_prompt=True)
        if with_prompt != without:
            return with_prompt[len(without) :] if with_prompt.startswith(without) else "", ""
        front = "".join(piece.text for piece in before(pieces, asked))
        lead = front.removeprefix(with_prompt)
        return "", lead if lead.isspace() and lead != front else ""


def _shown_call(message: Message, pieces: Sequence[Piece], span: Span) -> Span:
    """Return `span`, in which the template shows what `message` calls.

    Raises:
        RowError: it does not.
    """
    shown = "".join(piece.text for piece in pieces)[span.start : span.stop]
    if any(name not in shown for name in call_names(message)):
        raise RowError("the chat template does not show which tools an answer calls")
    return span
