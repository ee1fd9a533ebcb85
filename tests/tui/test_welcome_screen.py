"""The first screen says what there is, and the obvious key leads on."""

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from llamaforge import paths
from llamaforge.errors import ExitCode
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import review
from llamaforge.tui.screens.models import ModelsScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.welcome import WelcomeScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.wizard.draft import Draft, keep_draft
from tests.tui.run_builder import RunBuilder
from tests.tui.waiting import screen_text, until, until_shown


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(paths.embedded_store()))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")


async def looked(pilot: Pilot[Any]) -> None:
    def known() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, WelcomeScreen) and screen.home.server is not None

    await until(pilot, known)
    await pilot.pause()


def highlighted(pilot: Pilot[Any]) -> str:
    menu = pilot.app.screen.query_one(OptionList)
    assert menu.highlighted is not None
    return str(menu.get_option_at_index(menu.highlighted).prompt)


@pytest.mark.usefixtures("models")
async def test_start_is_the_first_choice_and_leads_to_the_models() -> None:
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await looked(pilot)
        await until_shown(pilot, "1 can be trained")
        assert highlighted(pilot).startswith("Start")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, WelcomeScreen))


async def test_without_ollama_it_says_what_to_type_and_offers_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[RunDirectory] = []
    monkeypatch.setattr(review, "launch", begun.append)
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await looked(pilot)
        await until_shown(pilot, "qwen2.5:3b")
        assert highlighted(pilot).startswith("Demo")
        await pilot.press("enter")
        await until_shown(pilot, "1,500 can be trained on")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        await until_shown(pilot, "The name in Ollama")
        await pilot.press("enter")
        await until_shown(pilot, "Go on to the last page")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ReviewScreen))
        await until_shown(pilot, "✓ Memory")
        await pilot.press("b")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
        assert len(begun) == 1


@pytest.mark.usefixtures("models")
async def test_a_run_at_work_and_one_that_was_stopped_are_offered(running: RunBuilder) -> None:
    stopped = RunBuilder("old")
    stopped.begin()
    stopped.state(RunState.STOPPED, stage="train", step=9, total=100)
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await looked(pilot)
        await until_shown(pilot, "Watch tickets")
        await until_shown(pilot, "stopped at 9 of 100 steps; it can go on")
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
        await pilot.press("escape", "h")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))


@pytest.mark.usefixtures("models")
async def test_a_draft_is_offered_and_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n}?", "completion": "yes"}}\n' for n in range(60)))
    keep_draft(Draft(model="llamaforge-demo", base="gguf", sources=(str(rows),)))
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await looked(pilot)
        await until_shown(pilot, "llamaforge-demo with rows.jsonl: answered, not begun")
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        await until_shown(pilot, "How many rows to hold back")
        await pilot.press("escape")
        await until_shown(pilot, "/rows.jsonl")


async def test_a_draft_of_a_model_that_is_gone_says_so(tmp_path: Path) -> None:
    keep_draft(Draft(model="gone:1b", store=str(paths.embedded_store())))
    async with LlamaForgeApp().run_test(size=(80, 24), notifications=True) as pilot:
        await looked(pilot)
        await pilot.press("down", "down", "enter")
        await until_shown(pilot, "There is no model gone:1b")
        assert isinstance(pilot.app.screen, WelcomeScreen)


async def test_hostile_names_on_the_first_screen_are_shown_and_never_obeyed() -> None:
    keep_draft(Draft(model="[red]\x1b[2Jx[/foo]", sources=('{"b": [true]}\u202e',)))
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await looked(pilot)
        await until_shown(pilot, "[red]")
        shown = screen_text(pilot)
        assert "\x1b" not in shown
        assert "\u202e" not in shown


async def test_a_run_that_is_watched_is_named_when_the_program_ends(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(getattr(pilot.app.screen, "live_run", "")))
        assert "goes on in the background" in str(app._farewell())
        await pilot.press("q")
    assert app.return_value is ExitCode.DONE
