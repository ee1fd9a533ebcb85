"""Answers of the model before training and as it is now, side by side where there is room."""

from collections.abc import Sequence
from typing import Final

from textual.content import Content

from llamaforge.tui.run_view import SampleView
from llamaforge.tui.widgets.lines import MUTED, column_width, facts, side_by_side

_TWO_COLUMNS: Final = 60
_BLANK: Final = Content("")


def probe_lines(probes: Sequence[SampleView], width: int) -> list[Content]:
    """Return the newest answers to each prompt; where there are none, how to get them."""
    if not probes:
        words = (
            "No answers yet. Press a to ask the model something as it is now, beside what it "
            "answered before training."
        )
        return Content.styled(words, MUTED).wrap(width)
    lines: list[Content] = []
    for number, sample in enumerate(reversed(probes)):
        if number:
            lines.append(_BLANK)
        now = "now" if sample.step is None else f"after step {sample.step:,}"
        lines += answer_pair(sample, ("before training", now), width)
    return lines


def answer_pair(sample: SampleView, titles: tuple[str, str], width: int) -> list[Content]:
    """Return a prompt with both answers, each under its title; right ones have a mark."""
    lines = facts([("asked", Content.styled(sample.prompt.strip() or "–", "bold"))], width)
    if sample.expected:
        lines += facts([("right", sample.expected.strip())], width)
    texts = (sample.base, sample.tuned)
    now = "after" if sample.step is None else "now"
    if width < _TWO_COLUMNS:
        shown = [
            (title, _marked(text, sample.expected))
            for title, text in zip(("before", now), texts, strict=True)
        ]
        lines += facts(shown, width)
    else:
        room = column_width(len(texts), width)
        lines += side_by_side(
            [
                [Content.styled(title, MUTED), *_marked(text, sample.expected).wrap(room)]
                for title, text in zip(titles, texts, strict=True)
            ],
            width,
        )
    if sample.cut:
        lines.append(Content.styled("An answer was cut: it took too long.", MUTED))
    return lines


def _marked(text: str, expected: str) -> Content:
    shown = text.strip() or "(nothing)"
    if not expected:
        return Content(shown)
    right = text.strip() == expected.strip()
    mark, style = ("✓ ", "$text-success") if right else ("✗ ", "$text-error")
    return Content.assemble((mark, style), shown)
