"""The models screen says what a store has, and what to do where it has nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from llamaforge import paths
from llamaforge.errors import ExitCode
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens.dialogs import Commands, Help
from llamaforge.tui.screens.models import ModelsScreen
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.widgets.notice import Notice
from tests.tui.waiting import screen_text, text_of, until, until_shown

SIZES = [(80, 24), (120, 40)]


def is_read(pilot: Pilot[Any]) -> bool:
    screen = pilot.app.screen
    if not isinstance(screen, ModelsScreen):
        return False
    has_rows = screen.query_one(DataTable).row_count > 0 and screen.query_one("#models").display
    return has_rows or screen.query_one(Notice).has_class("-shown")


def put_manifest(store: Path, name: str, body: object) -> None:
    path = store / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(body))


@pytest.mark.parametrize("size", SIZES)
async def test_a_ready_model_shows_its_facts(size: tuple[int, int]) -> None:
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=size) as pilot:
        await until(pilot, lambda: is_read(pilot))
        for fact in ("llamaforge-demo:latest", "Q4_K_M", "✓ ready", "1 of 1 ready to train"):
            await until_shown(pilot, fact)
        assert "Ready to train: press Enter." in text_of(pilot, "#facts")


async def test_a_key_shows_the_command_that_trains_the_model() -> None:
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, Commands))
        shown = " ".join(text_of(pilot, "#commands").split())
        store = paths.embedded_store()
        command = f"llamaforge train --model llamaforge-demo:latest --store {store} --data"
        assert command.replace(" ", "") in shown.replace(" ", "")
        assert "llamaforge demo" in shown
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, ModelsScreen)


async def test_a_store_that_is_not_there_is_explained_and_the_demo_is_one_key_away(
    tmp_path: Path,
) -> None:
    async with LlamaForgeApp(tmp_path / "absent").run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        told = " ".join(text_of(pilot, "Notice").split())
        assert "There is no Ollama store at" in told
        assert "Press s to look at the built-in demo store." in told
        await pilot.press("s")
        # The whole name, in the table, although the table was hidden until now.
        await until_shown(pilot, "  llamaforge-demo:latest   ")
        await pilot.press("s")
        await until(pilot, lambda: "There is no Ollama store" in screen_text(pilot))


async def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    async with LlamaForgeApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await until_shown(pilot, "This store has no models yet.")
        await until_shown(pilot, "Pull one with: ollama pull")


async def test_hostile_names_are_shown_as_they_are_and_never_obeyed(tmp_path: Path) -> None:
    for name in ("[red]evil", "esc\x1b[31m", "[0]", "[link=x]"):
        put_manifest(tmp_path, name, {"schemaVersion": 2})
    async with LlamaForgeApp(tmp_path).run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: is_read(pilot))
        for name in ("[red]evil:latest", "esc\\x1b[31m:latest", "[0]:latest", "[link=x]:latest"):
            await until_shown(pilot, name)
        assert "\x1b" not in screen_text(pilot)
        for _ in range(4):
            await pilot.press("enter", "down")
        assert "\x1b" not in screen_text(pilot)
        assert isinstance(pilot.app.screen, ModelsScreen)


async def test_a_model_that_cannot_be_trained_says_why_and_what_to_do(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 10}
    put_manifest(
        tmp_path, "half", {"schemaVersion": 2, "config": layer | {"size": 2}, "layers": [layer]}
    )
    async with LlamaForgeApp(tmp_path).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        told = " ".join(text_of(pilot, "#facts").split())
        assert "Cannot be trained" in told
        assert "missing from the store" in told
        await until_shown(pilot, "✗ file missing")


async def test_looking_again_keeps_the_cursor_on_its_model(tmp_path: Path) -> None:
    put_manifest(tmp_path, "b", {})
    put_manifest(tmp_path, "c", {})
    async with LlamaForgeApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await pilot.press("down")
        await until(pilot, lambda: text_of(pilot, "#facts").startswith("c"))
        put_manifest(tmp_path, "a", {})
        await pilot.press("u")
        await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 3)
        assert pilot.app.screen.query_one(DataTable).cursor_row == 2
        assert text_of(pilot, "#facts").startswith("c")


async def test_help_names_the_keys_and_the_runs_are_one_key_away() -> None:
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        await until(pilot, lambda: "Look again" in text_of(pilot, "#help"))
        await pilot.press("escape", "r")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        await until(pilot, lambda: "There are no runs yet." in screen_text(pilot))


async def test_resizing_to_any_size_breaks_nothing() -> None:
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        for size in ((20, 5), (200, 60), (1, 1), (120, 40), (80, 24)):
            await pilot.resize_terminal(*size)
        await until_shown(pilot, "llamaforge-demo:latest")


async def test_q_leaves_with_success() -> None:
    app = LlamaForgeApp(paths.embedded_store())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await pilot.press("q")
    assert app.return_value is ExitCode.DONE
