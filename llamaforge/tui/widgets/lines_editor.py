"""Several short texts: typed one after the other, or taken from what is proposed."""

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option as Row

from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.answers import Answered, Kept, Pending
from llamaforge.tui.widgets.helpful import Helpful
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.wizard.question import Option


class LinesEditor(Vertical, Helpful, Pending):
    """A line to type in over what was typed before and what is proposed."""

    def __init__(self, texts: Sequence[str], proposed: Sequence[Option], typed: str = "") -> None:
        """Begin with the texts of before; `typed` stands in the line and was not taken yet."""
        super().__init__()
        self._typed = typed
        self._texts = list(texts)
        self._proposed = [option for option in proposed if option.value not in texts]
        self._rows: list[str] = []

    def help_text(self) -> str:
        """Return how texts are taken."""
        return (
            "Type one and press Enter; Enter on an empty line goes on. In the list Enter takes "
            "what is proposed, and takes away what was taken."
        )

    @property
    def pending(self) -> str:
        """What stands in the line."""
        return self.query_one(Input).value

    def compose(self) -> ComposeResult:
        """Lay out the line and the list."""
        yield SafeInput(self._typed, id="input", placeholder="Type one, or Enter to go on")
        yield Menu(id="texts", markup=False)

    def on_mount(self) -> None:
        """Show what there is."""
        self._fill()
        self.query_one(Input).focus()

    def _fill(self) -> None:
        menu = self.query_one(OptionList)
        menu.clear_options()
        own = [(text, f"✓ {text}", "Enter takes it away") for text in self._texts]
        others = [
            (option.value, f"+ {option.title}", option.explanation)
            for option in self._proposed
            if option.value not in self._texts
        ]
        self._rows = [value for value, _, _ in (*own, *others)]
        menu.add_options(
            Row(Content.assemble(safe_line(title, limit=100), (f"  {safe_line(words)}", MUTED)))
            for _, title, words in (*own, *others)
        )
        menu.display = bool(self._rows)
        menu.highlighted = 0 if self._rows else None

    @on(Input.Changed)
    def on_typed(self, event: Input.Changed) -> None:
        """Keep it to this widget."""
        event.stop()

    @on(Input.Submitted)
    def on_text(self, event: Input.Submitted) -> None:
        """Add a text, or go on."""
        event.stop()
        text = event.value.strip()
        if not text:
            self.post_message(Answered(tuple(self._texts)))
            return
        if text not in self._texts:
            self._texts.append(text)
        event.input.value = ""
        self._changed()

    @on(OptionList.OptionSelected)
    def on_row(self, event: OptionList.OptionSelected) -> None:
        """Take what is proposed, or take away what was taken; then stand in the line again."""
        event.stop()
        value = self._rows[event.option_index]
        if value in self._texts:
            self._texts.remove(value)
        else:
            self._texts.append(value)
        self._changed()
        self.query_one(Input).focus()

    def _changed(self) -> None:
        self._fill()
        self.post_message(Kept(tuple(self._texts)))
