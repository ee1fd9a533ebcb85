"""Everything that can be done, by its name: actions of the screen, models, runs, colours, keys."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from llamaforge.catalog.inventory import Inventory
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import list_runs
from llamaforge.safe_text import safe_line
from llamaforge.tui import navigation
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.theme import THEME_WORDS
from llamaforge.wizard.draft import Draft

_MOST_NAMES = 2_000


@dataclass(frozen=True)
class _Command:
    title: str
    """Safe to print."""
    run: Callable[[], Any]
    help: str = ""
    """The program's own words."""


class ForgeCommands(Provider):
    """Actions first; models and runs once something is typed."""

    _models: tuple[str, ...] = ()
    _runs: tuple[str, ...] = ()

    @property
    def _app(self) -> LlamaForgeApp:
        app = self.app
        assert isinstance(app, LlamaForgeApp)  # noqa: S101 - there is no other program
        return app

    async def startup(self) -> None:
        """Read the names of models and runs."""
        self._models, self._runs = await asyncio.to_thread(_names)

    async def discover(self) -> Hits:
        """Yield what can be done here and everywhere."""
        for command in self._actions():
            yield DiscoveryHit(
                Content(command.title), command.run, text=command.title, help=command.help or None
            )

    async def search(self, query: str) -> Hits:
        """Yield what fits the query."""
        matcher = self.matcher(query)
        for command in (*self._actions(), *self._places()):
            score = matcher.match(command.title)
            if score > 0:
                yield Hit(
                    score,
                    Content(command.title),
                    command.run,
                    text=command.title,
                    help=command.help or None,
                )

    def _actions(self) -> Iterator[_Command]:
        """Yield the actions of the screen, then those of the program."""
        app, screen = self._app, self.screen
        seen = set()
        if isinstance(screen, ForgeScreen):
            for active in screen.active_bindings.values():
                binding = active.binding
                if not binding.description or not active.enabled or binding.system:
                    continue
                if binding.description in seen or binding.action.startswith("app."):
                    continue
                seen.add(binding.description)
                run = partial(app.run_action, binding.action, active.node)
                yield _Command(binding.description, run, f"Key: {app.get_key_display(binding)}")
        yield _Command("Start a new run", partial(navigation.open_models, app))
        yield _Command("History of runs", partial(navigation.open_history, app))
        for name, words in THEME_WORDS.items():
            if name != app.theme:
                look = partial(app.prefer, replace(app.preferences, theme=name))
                yield _Command(words, look, "Change how the screens look")
        yield _Command("Keys", partial(navigation.open_keys, app), "Give an action another key")

    def _places(self) -> Iterator[_Command]:
        app = self._app
        for name in self._models:
            run = partial(navigation.open_wizard, app, Draft(model=name))
            yield _Command(f"Train {safe_line(name, limit=80)}", run)
        for name in self._runs:
            run = partial(navigation.watch, app, name)
            yield _Command(f"Watch {safe_line(name, limit=80)}", run)


def _names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        models = Inventory.open().names[:_MOST_NAMES]
    except LlamaForgeError:
        models = ()
    try:
        runs = tuple(run.id for run in list_runs())[:_MOST_NAMES]
    except OSError:
        runs = ()
    return models, runs
