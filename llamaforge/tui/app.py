"""The program with screens: it looks at stores and runs, and never carries a run itself."""

# ruff: noqa: PLC0415 - the first picture does not wait for screens that are not open

import gc
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType

from llamaforge.errors import ExitCode
from llamaforge.safe_text import safe_line
from llamaforge.tui.preferences import Preferences, keep_preferences, read_preferences
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.terminal import has_hung_up
from llamaforge.tui.theme import DARK, THEMES

if TYPE_CHECKING:
    from textual.command import Provider
    from textual.dom import DOMNode
    from textual.widget import Widget

    from llamaforge.tui.store_view import StoreChoice


_TERMINAL_SECONDS = 1.0
"""How often it is looked whether there still is a terminal."""
_GOODBYE_SECONDS = 5.0
"""What leaving may take where nobody looks any more."""


def _commands() -> "type[Provider]":
    from llamaforge.tui.palette import ForgeCommands

    return ForgeCommands


class LlamaForgeApp(App[ExitCode]):
    """Begins with what there is, with the models of a store, or with one run."""

    TITLE = "LlamaForge"
    CSS_PATH = "app.tcss"
    COMMANDS = {_commands}  # noqa: RUF012 - Textual's name
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", key_display="?", id="app.help"),
        Binding("f1", "help", "Help", show=False, priority=True, id="app.help_anywhere"),
        Binding("q", "leave", "Quit", id="app.quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True, id="app.quit_anywhere"),
        # With priority the focus moves before the next key is handed on: Textual's own are found
        # after a key has gone up from the focused widget, and what is typed meanwhile goes there.
        Binding("tab", "focus_next", "Next part", show=False, priority=True),
        Binding("shift+tab", "focus_previous", "Part before", show=False, priority=True),
    ]

    def __init__(
        self,
        store_root: Path | None = None,
        initial_run: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_first_picture: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.clock = clock
        self._on_first_picture = on_first_picture
        self._store_root = store_root
        self._initial_run = None
        if initial_run:
            from llamaforge.runs.directory import open_run

            self._initial_run = open_run(initial_run)
        self.preferences = read_preferences()
        for theme in THEMES.values():
            self.register_theme(theme)
        chosen = os.environ.get("LLAMAFORGE_THEME", "") or self.preferences.theme
        self.theme = chosen if chosen in THEMES else DARK.name

    @property
    def store_choices(self) -> "tuple[StoreChoice, ...]":
        """The stores whose models can be looked at."""
        from llamaforge.tui.store_view import store_choices

        return store_choices(self._store_root)

    def on_mount(self) -> None:
        """Begin with the first screen, and on top of it what was named."""
        if self._store_root is not None:
            from llamaforge.tui.navigation import open_models

            open_models(self)
        else:
            from llamaforge.tui.screens.welcome import WelcomeScreen

            self.push_screen(WelcomeScreen())
        if self._initial_run is not None:
            from llamaforge.tui.screens.monitor import MonitorScreen

            self.push_screen(MonitorScreen(self._initial_run, self.clock))
        self.set_keymap(dict(self.preferences.keys))
        if not self.is_headless:
            self.set_interval(_TERMINAL_SECONDS, self._leave_without_terminal)
        self.call_after_refresh(self._on_first_picture)
        problem = self.preferences.problem
        if problem:
            self.notify(safe_line(problem), severity="warning", markup=False)

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: "DOMNode") -> None:
        """Say once that two actions were given one key."""
        del node
        names = " and ".join(sorted(binding.description for binding in clashed_bindings))
        self.notify(
            safe_line(f"One key was given to two actions; these have none now: {names}."),
            severity="warning",
            markup=False,
        )

    def prefer(self, preferences: Preferences) -> None:
        """Take other colours and keys, now and the next time."""
        self.preferences = preferences
        if preferences.theme in THEMES:
            self.theme = preferences.theme
        self.set_keymap(dict(preferences.keys))
        try:
            keep_preferences(preferences)
        except OSError as error:
            self.notify(
                safe_line(f"It holds until you leave; it could not be kept: {error.strerror}."),
                severity="warning",
                markup=False,
            )

    def action_leave(self) -> None:
        """End the program; asks only where something would be lost."""
        losses = [
            screen.would_lose
            for screen in self.screen_stack
            if isinstance(screen, ForgeScreen) and screen.would_lose
        ]
        if not losses:
            self.leave()
            return
        from llamaforge.tui.screens.dialogs import Question

        question = Question("Quit?", " ".join(losses), "Quit", "Stay")
        if not any(isinstance(screen, Question) for screen in self.screen_stack):
            self.push_screen(question, lambda yes: self.leave() if yes else None)

    def leave(self) -> None:
        """End the program; a run that is watched goes on, and the last line says so."""
        self.exit(ExitCode.DONE, message=self._farewell())

    def _leave_without_terminal(self) -> None:
        """End the program where its terminal is gone and no signal told so (under nohup, say).

        Without this it would read from what is closed, again and again, as fast as it can.
        """
        if sys.__stdin__ is None or not has_hung_up(sys.__stdin__.fileno()):
            return
        # Its last words may never be taken: nothing is to hold it back then.
        end = threading.Timer(_GOODBYE_SECONDS, os._exit, (int(ExitCode.FAILED),))
        end.daemon = True
        end.start()
        self.leave()

    def _farewell(self) -> Text | None:
        live = [
            screen.live_run
            for screen in self.screen_stack
            if isinstance(screen, ForgeScreen) and screen.live_run
        ]
        if not live:
            return None
        name = shlex.quote(live[-1])
        return Text(
            f"The run {live[-1]} goes on in the background.\n"
            f"Watch it again with: llamaforge runs attach {name}"
        )

    def action_help_quit(self) -> None:
        """Answer Ctrl-C, which ends neither this program nor a run."""
        self.notify("Press q to leave. A run goes on without this screen.", markup=False)

    def action_help(self) -> None:
        """Say what the screen is for, what has the focus, and which keys there are."""
        from llamaforge.tui.screens.dialogs import Help

        screen = self.screen
        if not isinstance(screen, ForgeScreen):
            return
        keys = [
            (self.get_key_display(active.binding), active.binding.description)
            for active in screen.active_bindings.values()
            if active.binding.show and active.enabled
        ]
        keys.append(("↑ ↓ PgUp PgDn", "Move or scroll"))
        keys.append(("Tab", "Go to the next part of the screen"))
        keys.append(("Ctrl+P", "Find any action, model or run by its name"))
        sentences = (*_help_of(screen.focused), *screen.HELP_LINES)
        self.push_screen(Help(screen.HELP_TITLE, sentences, keys))


def _help_of(widget: "Widget | None") -> Iterable[str]:
    """Return what the focused widget, or what holds it, says of itself."""
    from llamaforge.tui.widgets.helpful import Helpful

    found = next(
        (
            node.help_text()
            for node in (widget.ancestors_with_self if widget is not None else ())
            if isinstance(node, Helpful)
        ),
        "",
    )
    return (found,) if found else ()


def main(store: Path | None = None, run: str | None = None) -> ExitCode:
    """Show the screens until a person leaves them.

    `store` is looked at in place of Ollama's own; `run` is watched from the beginning.

    Raises:
        NotFoundError: there is no such run.
    """
    gc.disable()  # what a start makes stays
    result = LlamaForgeApp(store, run, on_first_picture=_settle).run()
    return ExitCode.FAILED if result is None else result


def _settle() -> None:
    """Let the collector pass over all that is there: modules, styles and the first screens.

    A full collection walks through every object, which takes 30 ms and, on a busy machine, several
    times that; a key that is pressed meanwhile waits for it.
    """
    gc.freeze()
    gc.enable()
