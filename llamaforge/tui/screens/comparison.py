"""Several runs beside each other: curves, figures, and what differs in their recipes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer

from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.safe_text import redact, safe_line
from llamaforge.tui.run_feed import RunFeed
from llamaforge.tui.run_view import RunView
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging
from llamaforge.tui.widgets.overlay import LETTERS, Curve, Overlay, style_of
from llamaforge.tui.widgets.run_parts import STATE_MARKS
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.wizard.reusing import differences
from llamaforge.words import duration_words, loss_words, percent_words

MOST_RUNS: Final = len(LETTERS)
_BLANK: Final = Content("")

Differences = tuple[tuple[str, tuple[str, ...]], ...]


class ComparisonScreen(FollowingScreen[None]):
    """A page to read; runs that are at work go on on it."""

    CSS_PATH = "comparison.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", id="comparison.back"),
    ]
    HELP_TITLE = "Runs beside each other"
    HELP_LINES = (
        "Each run has a letter, which stands at the end of its curve. Losses over different "
        "rows or models say little about each other; the held-out answers say more.",
    )

    @dataclass
    class Read(Message):
        """The runs were read."""

        views: tuple[RunView, ...]
        differences: Differences

        def can_replace(self, message: Message) -> bool:
            """Let newer views take the place of those that are not shown yet."""
            return isinstance(message, ComparisonScreen.Read)

    def __init__(self, runs: Sequence[RunDirectory]) -> None:
        super().__init__()
        self._left_out = max(len(runs) - MOST_RUNS, 0)
        self._runs = list(runs[:MOST_RUNS])
        self._feeds = [RunFeed(run) for run in self._runs]
        self._differences: Differences | None = None
        self.views: tuple[RunView, ...] = ()

    def compose(self) -> ComposeResult:
        """Lay out the curves above the figures."""
        yield TitleBar()
        with VerticalScroll(id="page"):
            yield Overlay(id="curves")
            yield Lines(id="figures")
            yield Lines(id="recipes")
        yield Footer()

    def on_mount(self) -> None:
        """Say what is compared."""
        more = f", and {self._left_out} more are left out" if self._left_out else ""
        self.query_one(TitleBar).tell(f"{len(self._runs)} runs beside each other{more}")
        self.query_one("#page").focus()

    def read(self) -> Message:
        """Return the runs as they are now."""
        if self._differences is None:
            self._differences = _differences(self._runs)
        views = []
        for run, feed in zip(self._runs, self._feeds, strict=True):
            try:
                views.append(feed.read())
            except OSError:  # it was deleted a moment ago
                views.append(RunView(run=run.id))
        return self.Read(tuple(views), self._differences)

    def on_comparison_screen_read(self, message: Read) -> None:
        """Show what is new."""
        if message.views == self.views:
            return
        self.views = message.views
        curves = tuple(
            Curve(view.run, view.losses.all_points(), view.evals) for view in message.views
        )
        self.query_one(Overlay).show(curves)
        self.query_one("#figures", Lines).show(partial(_figure_lines, message.views))
        self.query_one("#recipes", Lines).show(partial(_recipe_lines, message.differences))


def _differences(runs: Sequence[RunDirectory]) -> Differences:
    try:
        found = differences([RunSpec.load(run.spec_file) for run in runs])
    except LlamaForgeError as error:
        return (("recipe", (f"{error.message} {error.hint}",)),)
    return tuple(
        (safe_line(key, limit=60), tuple(safe_line(redact(value), limit=300) for value in values))
        for key, values in found
    )


def _figure_lines(views: tuple[RunView, ...], width: int) -> list[Content]:
    """Return a line of figures for each run, under headings."""
    heads = ("loss", "held-out", "before", "after", "took")
    cells = [
        (
            loss_words(view.loss),
            loss_words(view.eval_loss),
            percent_words(view.sets[0].base if view.sets else None),
            percent_words(view.sets[0].tuned if view.sets else None),
            duration_words(view.t),
        )
        for view in views
    ]
    widths = [max(len(row[at]) for row in (heads, *cells)) + 2 for at in range(len(heads))]
    room = max(min(max(len(view.run) for view in views) + 6, width - sum(widths)), 12)
    head = "".join(f"{text:>{size}}" for text, size in zip(heads, widths, strict=True))
    lines = [_BLANK, Content.styled(f"{'':<{room}}{head}", MUTED).truncate(width)]
    for number, (view, row) in enumerate(zip(views, cells, strict=True)):
        mark, style = STATE_MARKS[view.state]
        name = Content.assemble(
            (LETTERS[number], style_of(number)), " ", (mark, style), f" {view.run}"
        ).truncate(room, ellipsis=True)
        texts = "".join(f"{text:>{size}}" for text, size in zip(row, widths, strict=True))
        line = name.pad_right(max(room - name.cell_length, 0)) + Content(texts)
        lines.append(line.truncate(width))
    return lines


def _recipe_lines(found: Differences, width: int) -> list[Content]:
    """Return each setting that is not the same, with its value in each run."""
    lines = [_BLANK, Content.styled("What differs in their recipes", "bold $primary")]
    if not found:
        return [*lines, Content.styled("Nothing: they are the same.", MUTED)]
    for key, values in found:
        lines.append(Content.styled(key, "bold").truncate(width, ellipsis=True))
        for number, value in enumerate(values):
            letter = Content.styled(f"  {LETTERS[number]}", style_of(number))
            lines += hanging(letter, Content(value or "(empty)"), indent=4, width=width)
    return lines
