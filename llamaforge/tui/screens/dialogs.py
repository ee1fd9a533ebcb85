"""Small screens over a screen: a question, a command to copy, and help."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button

from llamaforge.tui.widgets.lines import MUTED, Lines, facts


class Question(ModalScreen[bool]):
    """Asks yes or no; no is what Enter and Escape mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "Yes"),
        ("n,escape", "answer(False)", "No"),
        ("left,right", "app.focus_next", "Other answer"),
    ]

    def __init__(self, title: str, text: str, yes: str, no: str) -> None:
        super().__init__()
        self._title, self._text, self._yes, self._no = title, text, yes, no

    def compose(self) -> ComposeResult:
        """Lay out the question and its two answers."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = Content(self._title)
            yield Lines(id="text")
            with Horizontal(classes="buttons"):
                yield Button(Content(f"{self._yes} (y)"), id="yes", variant="warning", compact=True)
                yield Button(Content(f"{self._no} (n)"), id="no", compact=True)

    def on_mount(self) -> None:
        """Stand on the answer that changes nothing."""
        self.query_one("#text", Lines).show(Content(self._text).wrap)
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        """Take the answer."""
        self.dismiss(answer)


class Commands(ModalScreen[None]):
    """Shows commands that can be typed in a shell, and puts the first on the clipboard."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("c", "copy", "Copy the command"),
        ("escape,enter,q", "dismiss", "Close"),
    ]

    def __init__(self, title: str, commands: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._commands = title, tuple(commands)

    def compose(self) -> ComposeResult:
        """Lay out each sentence with its command under it."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = Content(self._title)
            dialog.border_subtitle = Content("c copies the first command · Esc closes")
            yield Lines(id="commands")

    def on_mount(self) -> None:
        """Fill in the commands."""
        self.query_one(Lines).show(self._lines)

    def _lines(self, width: int) -> list[Content]:
        lines: list[Content] = []
        for sentence, command in self._commands:
            if lines:
                lines.append(Content(""))
            lines += Content(sentence).wrap(width)
            # The shell's own line folding must not cut a word: no indent, so that it can be copied.
            lines += Content.styled(command, "bold $primary").wrap(width)
        return lines

    def action_copy(self) -> None:
        """Put the first command on the clipboard, as far as the terminal lets a program do so."""
        self.app.copy_to_clipboard(self._commands[0][1])
        self.notify("Copied, if your terminal allows it.", markup=False)


class Help(ModalScreen[None]):
    """Says what a screen is for and which keys it has."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,enter,question_mark,q", "dismiss", "Close")]

    def __init__(
        self, title: str, sentences: Sequence[str], keys: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__()
        self._title, self._sentences, self._keys = title, tuple(sentences), tuple(keys)

    def compose(self) -> ComposeResult:
        """Lay out sentences and keys."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = Content(self._title)
            dialog.border_subtitle = Content("Esc closes")
            yield Lines(id="help")

    def on_mount(self) -> None:
        """Fill in the text."""
        self.query_one(Lines).show(self._lines)

    def _lines(self, width: int) -> list[Content]:
        lines: list[Content] = []
        for sentence in self._sentences:
            lines += [*Content(sentence).wrap(width), Content("")]
        lines.append(Content.styled("Keys", MUTED))
        return lines + facts(self._keys, width)
