"""Every key of every screen, and the way to give an action another one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Key
from textual.keys import key_to_character
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList
from textual.widgets.option_list import Option

from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.models import ModelsScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.screens.rows import RowsScreen
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.welcome import WelcomeScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.title_bar import TitleBar

_OWNERS: Final = (
    ("Everywhere", LlamaForgeApp),
    ("Welcome", WelcomeScreen),
    ("Models", ModelsScreen),
    ("Questions", WizardScreen),
    ("Answers", Menu),
    ("Checks", CheckScreen),
    ("Rows as tokens", RowsScreen),
    ("Review", ReviewScreen),
    ("A run", MonitorScreen),
    ("History", RunsScreen),
)
_KEPT: Final = frozenset({"escape", "ctrl+c", "ctrl+q", "tab", "shift+tab"})
"""Keys that always mean the same; nothing can be given one of these."""
_PLACE_WIDTH: Final = 16
_WORDS_WIDTH: Final = 20
_KEY_WORDS: Final = {"escape": "Esc", "right": "→", "left": "←", "up": "↑", "down": "↓"}


@dataclass(frozen=True)
class Act:
    """One thing that has a key."""

    place: str
    id: str
    words: str
    key: str
    """As it is out of the box."""


def acts() -> Iterator[Act]:
    """Yield everything that can be given another key."""
    for place, owner in _OWNERS:
        for binding in owner.BINDINGS:
            if isinstance(binding, Binding) and binding.id and binding.show:
                yield Act(place, binding.id, binding.description, binding.key)


class KeysScreen(ForgeScreen[None]):
    """A list of actions with their keys."""

    CSS_PATH = "keys.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reset", "As it was"),
        Binding("escape", "app.pop_screen", "Back"),
    ]
    HELP_TITLE = "Keys"
    HELP_LINES = (
        "Choose an action, press Enter, then the key that it shall have. r gives it its first key "
        "back. Keys are kept in screens.yaml in LlamaForge's own folder.",
    )

    def compose(self) -> ComposeResult:
        """Lay out the list."""
        yield TitleBar()
        yield Menu(id="keys", classes="menu", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Show the keys as they are."""
        self.query_one(TitleBar).tell("Keys")
        self._acts = list(acts())
        self._show()
        self.query_one(OptionList).focus()

    @property
    def _program(self) -> LlamaForgeApp:
        app = self.app
        assert isinstance(app, LlamaForgeApp)  # noqa: S101 - there is no other program
        return app

    def _show(self) -> None:
        menu = self.query_one(OptionList)
        place = menu.highlighted
        keys = self._program.preferences.keys
        menu.clear_options()
        menu.add_options(
            Option(
                Content.assemble(
                    (f"{act.place:<{_PLACE_WIDTH}}", MUTED),
                    f"{act.words:<{_WORDS_WIDTH}}",
                    (_shown(keys.get(act.id, act.key)), "bold $primary"),
                    (_before(act, keys.get(act.id, act.key)), MUTED),
                )
            )
            for act in self._acts
        )
        menu.highlighted = place or 0

    def _chosen(self) -> Act | None:
        place = self.query_one(OptionList).highlighted
        return None if place is None else self._acts[place]

    def on_option_list_option_selected(self) -> None:
        """Ask for the new key."""
        act = self._chosen()
        if act is not None:
            self.app.push_screen(PressKey(act), lambda key: self._give(act, key))

    def _give(self, act: Act, key: str | None) -> None:
        if not key:
            return
        keys = dict(self._program.preferences.keys)
        near = {"Everywhere", act.place}
        taken = next(
            (
                other
                for other in self._acts
                if other.id != act.id
                and keys.get(other.id, other.key) == key
                and (other.place in near or act.place == "Everywhere")
            ),
            None,
        )
        if key in _KEPT or taken is not None:
            whose = "is kept for leaving and moving" if taken is None else f"is “{taken.words}”"
            self.tell(f"{key} {whose}; choose another one.", bad=True)
            return
        keys[act.id] = key
        self._program.prefer(
            replace(
                self._program.preferences,
                keys={name: key for name, key in keys.items() if key != self._first(name)},
            )
        )
        self._show()

    def _first(self, name: str) -> str:
        return next((act.key for act in self._acts if act.id == name), "")

    def action_reset(self) -> None:
        """Give the action its first key back."""
        act = self._chosen()
        if act is not None:
            self._give(act, act.key)


def _shown(keys: str) -> str:
    """Return keys as they are printed on a keyboard: `Ctrl+T`, `Esc`, `?`."""
    return " or ".join(_key_words(key.strip()) for key in keys.split(","))


def _key_words(key: str) -> str:
    words = []
    for part in key.split("+"):
        sign = key_to_character(part)
        if sign is not None and sign.isprintable() and sign != " ":
            words.append(sign)
        else:
            words.append(_KEY_WORDS.get(part, part.replace("_", " ").capitalize()))
    return "+".join(words)


def _before(act: Act, key: str) -> str:
    return f"   was {_shown(act.key)}" if key != act.key else ""


class PressKey(ModalScreen[str]):
    """Waits for one key; Esc leaves everything as it is."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self._act = act

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = Content(self._act.words)
            yield Lines(id="text")

    def on_mount(self) -> None:
        """Say what to do."""
        words = f"Press the new key for “{self._act.words}”; Esc leaves it as it is."
        self.query_one(Lines).show(Content(words).wrap)

    def on_key(self, event: Key) -> None:
        """Take the key."""
        event.stop()
        event.prevent_default()
        self.dismiss("" if event.key == "escape" else event.key)
