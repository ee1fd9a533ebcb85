"""From one screen to another: each screen is loaded when somebody goes there."""

# ruff: noqa: PLC0415 - the first picture does not wait for screens that are not open

from typing import TYPE_CHECKING, Any

from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line

if TYPE_CHECKING:
    from textual.app import App

    from llamaforge.tui.home import Home
    from llamaforge.wizard.draft import Draft


def enter(app: "App[Any]", key: str, home: "Home") -> None:
    """Go where an entry of the first screen leads; `key` is as in `home.Entry`."""
    if key == "start":
        open_models(app)
    elif key == "draft" and home.draft is not None:
        open_wizard(app, home.draft)
    elif key.startswith("draft:"):
        open_wizard(app, home.other_drafts[int(key.removeprefix("draft:"))])
    elif key == "history":
        open_history(app)
    elif key == "models":
        open_models(app)
    elif key == "demo":
        from llamaforge.wizard.demo import demo_draft

        open_wizard(app, demo_draft())
    elif key.startswith("run:"):
        watch(app, key.removeprefix("run:"))


def open_models(app: "App[Any]") -> None:
    """Choose a model, the first step of every run."""
    from llamaforge.tui.app import LlamaForgeApp
    from llamaforge.tui.screens.models import ModelsScreen

    assert isinstance(app, LlamaForgeApp)  # noqa: S101 - there is no other program
    app.push_screen(ModelsScreen(app.store_choices, app.clock))


def open_history(app: "App[Any]") -> None:
    """Look at the runs."""
    from llamaforge.tui.app import LlamaForgeApp
    from llamaforge.tui.screens.runs import RunsScreen

    assert isinstance(app, LlamaForgeApp)  # noqa: S101
    app.push_screen(RunsScreen(app.clock))


def open_wizard(app: "App[Any]", draft: "Draft") -> None:
    """Ask what is still open in a draft."""
    from llamaforge.tui.app import LlamaForgeApp
    from llamaforge.tui.screens.wizard import WizardScreen

    assert isinstance(app, LlamaForgeApp)  # noqa: S101
    app.push_screen(WizardScreen(draft, None, app.clock))


def watch(app: "App[Any]", run: str) -> None:
    """Watch a run."""
    from llamaforge.runs.directory import open_run
    from llamaforge.tui.app import LlamaForgeApp
    from llamaforge.tui.screens.monitor import MonitorScreen

    assert isinstance(app, LlamaForgeApp)  # noqa: S101
    try:
        directory = open_run(run)
    except LlamaForgeError as error:  # it was deleted a moment ago
        text = safe_line(f"{error.message} {error.hint}")
        app.notify(text, severity="error", markup=False)
        return
    app.push_screen(MonitorScreen(directory, app.clock))


def watch_instead(app: "App[Any]", run: str) -> None:
    """Watch a run in place of the one that is watched."""
    from llamaforge.tui.screens.monitor import MonitorScreen

    if isinstance(app.screen, MonitorScreen):
        app.pop_screen()
    watch(app, run)


def open_keys(app: "App[Any]") -> None:
    """Look at the keys, and give an action another one."""
    from llamaforge.tui.screens.keys import KeysScreen

    app.push_screen(KeysScreen())
