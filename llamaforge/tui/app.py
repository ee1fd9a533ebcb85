"""The program with screens: it looks at stores and runs, and never carries a run itself."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType

from llamaforge.errors import ExitCode
from llamaforge.runs.directory import RunState, open_run
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.screens.dialogs import Help
from llamaforge.tui.screens.models import ModelsScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.store_view import store_choices
from llamaforge.tui.theme import FORGE


class LlamaForgeApp(App[ExitCode]):
    """Begins with the models of a store, or with one run."""

    TITLE = "LlamaForge"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - Textual's name
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        store_root: Path | None = None,
        initial_run: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._choices = store_choices(store_root)
        self._initial_run = open_run(initial_run) if initial_run else None
        self._clock = clock

    def on_mount(self) -> None:
        """Begin with the models, and on top of them the run that was named."""
        self.register_theme(FORGE)
        self.theme = FORGE.name
        self.push_screen(ModelsScreen(self._choices, self._clock))
        if self._initial_run is not None:
            self.push_screen(MonitorScreen(self._initial_run, self._clock))

    def action_leave(self) -> None:
        """End the program; a run that is watched goes on, and the last line says so."""
        self.exit(ExitCode.DONE, message=self._farewell())

    def _farewell(self) -> Text | None:
        live = [
            screen.run_directory.id
            for screen in self.screen_stack
            if isinstance(screen, MonitorScreen)
            and screen.view is not None
            and screen.view.state is RunState.RUNNING
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
        """Say what the screen is for and which keys it has."""
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
        self.push_screen(Help(screen.HELP_TITLE, screen.HELP_LINES, keys))


def main(store: Path | None = None, run: str | None = None) -> ExitCode:
    """Show the screens until a person leaves them.

    `store` is looked at in place of Ollama's own; `run` is watched from the beginning.

    Raises:
        NotFoundError: there is no such run.
    """
    result = LlamaForgeApp(store, run).run()
    return ExitCode.FAILED if result is None else result
