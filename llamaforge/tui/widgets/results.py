"""What came out of a run: before and after, the proof, samples, files, and what to do next."""

from typing import Final

from textual.content import Content

from llamaforge.tui.reports import FidelityReport, SetReport
from llamaforge.tui.run_view import ArtifactView, RunView, SampleView
from llamaforge.tui.run_words import next_commands
from llamaforge.tui.widgets.lines import MUTED, facts, hanging
from llamaforge.tui.widgets.probes import answer_pair
from llamaforge.words import loss_words, percent_words, plural, short_number

_ARTIFACT_WORDS: Final = {
    "adapter": "adapter",
    "learned": "trained weights",
    "merged": "merged model",
    "modelfile": "Modelfile",
    "verify": "proof",
    "evaluation": "comparison",
}
_FIGURE_WIDTH: Final = 11
_BLANK: Final = Content("")


def result_lines(view: RunView, width: int) -> list[Content]:
    """Return all results that there are, under headings; nothing where there are none."""
    sections: list[tuple[str, list[Content]]] = [
        ("What to do next", facts(next_commands(view), width)),
        ("Before and after training", _set_lines(view.sets, width)),
        ("Is what is served what was trained?", _fidelity_lines(view.fidelity, width)),
        ("Answers to held-out rows", _sample_lines(view.samples, width)),
        ("Files", _artifact_lines(view.artifacts, width)),
    ]
    lines: list[Content] = []
    for title, body in sections:
        if body:
            lines += [Content.styled(title, "bold $primary"), *body, _BLANK]
    return lines


def _set_lines(sets: tuple[SetReport, ...], width: int) -> list[Content]:
    if not sets:
        return []
    names = [f"{part.name} ({part.rows:,})" if part.rows else part.name for part in sets]
    room = max(min(max(map(len, names)), width - 3 * _FIGURE_WIDTH), 16)
    heading = f"{'answers that are exactly right':<{room}}"[:room]
    lines = [_row(Content.styled(heading, MUTED), ("before", "after", "change"), room, MUTED)]
    for part, name in zip(sets, names, strict=True):
        label = Content(name).truncate(room, ellipsis=True)
        change, style = "–", MUTED
        if part.base is not None and part.tuned is not None:
            points = round((part.tuned - part.base) * 100, 1)
            change = f"{points:+g} pts" if points else "same"
            style = "bold $text-success" if points > 0 else "bold $text-error" if points else MUTED
        figures = (percent_words(part.base), percent_words(part.tuned), change)
        lines.append(_row(label, figures, room, "bold", style))
    return lines


def _row(
    label: Content, figures: tuple[str, str, str], room: int, style: str, last: str = ""
) -> Content:
    styles = (style, style, last or style)
    cells = [
        Content.styled(f"{figure:>{_FIGURE_WIDTH}}", own)
        for figure, own in zip(figures, styles, strict=True)
    ]
    return Content("").join([label.pad_right(room - label.cell_length), *cells])


def _fidelity_lines(report: FidelityReport | None, width: int) -> list[Content]:
    if report is None:
        return []
    rows = "the held-out rows" if report.rows is None else f"{plural(report.rows, 'row')}"
    served = "merged file" if report.is_merged else "adapter"
    kl, limit = short_number(report.kl_mean), short_number(report.kl_limit)
    if report.passed:
        mark = Content.styled("✓", "bold $text-success")
        text = (
            f"Yes. On {rows}, llama.cpp with the {served} differs from the trained model by "
            f"{kl} nats per token; {limit} are allowed."
        )
    else:
        mark = Content.styled("✗", "bold $text-error")
        text = f"No: {report.reason or 'the figures are out of bounds'}. Do not use the {served}."
    losses = (
        f"Loss per token: {loss_words(report.loss_base)} before, "
        f"{loss_words(report.loss_trained)} as trained, "
        f"{loss_words(report.loss_served)} as served."
    )
    lines = hanging(mark, Content(text), indent=2, width=width)
    return lines + hanging(_BLANK, Content.styled(losses, MUTED), indent=2, width=width)


def _sample_lines(samples: tuple[SampleView, ...], width: int) -> list[Content]:
    lines: list[Content] = []
    for number, sample in enumerate(samples):
        if number:
            lines.append(_BLANK)
        lines += answer_pair(sample, ("before training", "after training"), width)
    return lines


def _artifact_lines(artifacts: tuple[ArtifactView, ...], width: int) -> list[Content]:
    return facts(
        [(_ARTIFACT_WORDS.get(item.kind, item.kind), item.path) for item in artifacts], width
    )
