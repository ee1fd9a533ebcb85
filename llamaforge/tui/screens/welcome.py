"""The first screen: what this machine has, and the way to a run as the obvious key."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, OptionList
from textual.widgets.option_list import Option

from llamaforge.tui.home import Entry, Home, advice_lines, entries, machine_lines
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.title_bar import TitleBar

if TYPE_CHECKING:
    from llamaforge.tui.home_reader import HomeReader

_TITLE_WIDTH = 12


class WelcomeScreen(FollowingScreen[None]):
    """A short menu over what was found."""

    CSS_PATH = "welcome.tcss"
    PERIOD_SECONDS = 1.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "open('start')", "Start", id="welcome.start"),
        Binding("h", "open('history')", "History", id="welcome.history"),
        Binding("m", "open('models')", "Models", id="welcome.models"),
        Binding("u", "look_again", "Look again", id="welcome.look_again"),
    ]
    HELP_TITLE = "LlamaForge"
    HELP_LINES = (
        "LlamaForge teaches a model that you already have in Ollama something of your own: a tone, "
        "a format, a task, your texts. You bring rows of questions with the answers you want; it "
        "trains a small adapter on top of the model, here on this machine, and gives it back to "
        "Ollama under a new name. The model itself is never changed.",
        "Start leads there step by step. Nothing is written before the last page, and every answer "
        "can be changed on the way.",
    )

    @dataclass
    class Read(Message):
        """More is known."""

        home: Home

        def can_replace(self, message: Message) -> bool:
            """Let what is known now take the place of what is not shown yet."""
            return isinstance(message, WelcomeScreen.Read)

    def __init__(self, reader: "HomeReader | None" = None) -> None:
        super().__init__()
        self.home = Home()
        self._reader = reader
        self._entries: list[Entry] = []

    def compose(self) -> ComposeResult:
        """Lay out the greeting, the menu and what was found."""
        yield TitleBar()
        with VerticalScroll(id="page", can_focus=False):
            yield Lines(id="greeting")
            yield Menu(id="menu", classes="menu", markup=False)
            yield Lines(id="advice")
            yield Lines(id="machine")
        yield Footer()

    def on_mount(self) -> None:
        """Show the menu at once; looking begins when it is on the screen."""
        self.query_one(TitleBar).tell("Welcome")
        self.query_one("#greeting", Lines).show(_greeting)
        self._show()
        self.query_one(OptionList).focus()

    def read(self) -> Message:
        """Return what is known now; the reader is loaded here, in the thread."""
        if self._reader is None:
            from llamaforge.tui.home_reader import HomeReader  # noqa: PLC0415 - after first paint

            self._reader = HomeReader()
        for home in self._reader.parts():
            self.post_message(self.Read(home))
        return self.Read(self._reader.home)

    def on_welcome_screen_read(self, message: Read) -> None:
        """Show what is new."""
        if message.home != self.home:
            self.home = message.home
            self._show()

    def _show(self) -> None:
        self._show_menu(entries(self.home))
        self.query_one("#machine", Lines).show(partial(machine_lines, self.home))
        self.query_one("#advice", Lines).show(partial(advice_lines, self.home))

    def _show_menu(self, found: list[Entry]) -> None:
        """Bring the menu up to date, with the cursor on the entry that it was on."""
        if found == self._entries:
            return
        menu = self.query_one(OptionList)
        keys = [entry.key for entry in found]
        place = menu.highlighted
        on = self._entries[place].key if place is not None and self._entries else ""
        first = not self._entries
        self._entries = found
        width = max(_TITLE_WIDTH, *(len(entry.title) + 2 for entry in found))
        menu.clear_options()
        menu.add_options(
            Option(
                Content.assemble((f"{entry.title:<{width}}", "bold"), (entry.words, MUTED)),
                id=f"{number}",
            )
            for number, entry in enumerate(found)
        )
        # Until somebody moves, the cursor stands on what is most likely wanted.
        menu.highlighted = keys.index(on) if on in keys and not (first or place == 0) else 0

    @on(OptionList.OptionSelected)
    def on_chosen(self, event: OptionList.OptionSelected) -> None:
        """Go where the entry leads."""
        self.action_open(self._entries[event.option_index].key)

    def action_open(self, key: str) -> None:
        """Go where an entry leads."""
        from llamaforge.tui import navigation  # noqa: PLC0415 - after first paint

        navigation.enter(self.app, key, self.home)

    def action_look_again(self) -> None:
        """Look at the models and the server anew."""
        if self._reader is not None:
            self._reader.forget()
            self.home = replace(self.home, models=None, server=None)
            self._show()


def _greeting(width: int) -> list[Content]:
    words = "Teach a model you have in Ollama something of your own, on this machine."
    return [*Content.styled(words, MUTED).wrap(width), Content("")]
