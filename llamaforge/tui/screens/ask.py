"""A small screen that asks the model in training something now: typed, or what the run asks."""

from collections.abc import Sequence
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.words import plural

_LONGEST: Final = 8_000
"""Characters of a question, as a recipe may have."""


class AskScreen(ModalScreen[tuple[str, ...]]):
    """Answers with the questions to ask; without any, the run's own or held-out rows are meant."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("down", "to_list", "To the list", show=False),
    ]

    def __init__(self, questions: Sequence[str], *, knows_before: bool = True) -> None:
        """Offer `questions`, which are the run's own.

        Where every weight is trained, `knows_before` is false: only of these it is known then what
        the model answered before.
        """
        super().__init__()
        self._questions = tuple(questions)
        self._knows_before = knows_before

    def compose(self) -> ComposeResult:
        """Lay out the line to type in over what the run asks by itself."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = Content("Ask the model now")
            dialog.border_subtitle = Content("Enter asks · ↓ to the list · Esc closes")
            yield Lines(id="words")
            yield SafeInput(
                id="question", placeholder="Type a question", max_length=_LONGEST, compact=True
            )
            yield Menu(*self._entries(), id="questions", classes="menu", markup=False)

    def _entries(self) -> list[Option]:
        count = len(self._questions)
        if not count:
            title, words = "Some of the held-out rows", "with their right answers beside"
        elif count == 1:
            title, words = "The question of this run", ""
        else:
            title, words = "All of them", plural(count, "question") + " of this run"
        first = Option(Content.assemble((title, "bold"), (f"  {words}", MUTED)))
        single = self._questions if count > 1 else ()
        others = [Option(Content(safe_line(text, limit=200))) for text in single]
        if count == 1:
            asked = safe_line(self._questions[0], limit=200)
            first = Option(Content.assemble((title, "bold"), (f"  {asked}", MUTED)))
        return [first, *others]

    def on_mount(self) -> None:
        """Say what will happen, and wait for a question."""
        words = "It answers after the step that it is at, beside what it answered before training."
        if not self._knows_before:
            words += (
                " Every weight is trained here, so what it would have answered before is known of "
                "the run's own questions only."
            )
        self.query_one("#words", Lines).show(Content(words).wrap)
        self.query_one(Input).focus()

    def action_to_list(self) -> None:
        """Go from the line to the list."""
        self.query_one(Menu).focus()

    @on(Input.Submitted)
    def on_typed(self, event: Input.Submitted) -> None:
        """Ask what was typed; nothing typed means what stands first in the list."""
        text = event.value.strip()
        self.dismiss((text,) if text else ())

    @on(OptionList.OptionSelected)
    def on_chosen(self, event: OptionList.OptionSelected) -> None:
        """Ask one question of the run, or all."""
        place = event.option_index
        self.dismiss((self._questions[place - 1],) if place else ())
