"""The weights that a run needs are fetched from the page of the checks, by a key."""

from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import OptionList

from llamaforge import paths
from llamaforge.catalog import hub_plan
from llamaforge.catalog.hub_cache import cache_of
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import check
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.download import DownloadScreen
from llamaforge.wizard.checks import Check
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import gathered
from llamaforge.wizard.looking import rows_about
from tests.contract.hub.fake_hub import FakeHub, Fault
from tests.contract.hub.hub_desk import NAME, parts, serve
from tests.tui.test_models_screen import is_read
from tests.tui.waiting import screen_text, until, until_shown
from tests.unit.catalog.store_builder import StoreBuilder

REPORT = {
    "sources": [],
    "rows": {"read": 60, "accepted": 60, "repaired": 0, "rejected": 0, "left_out": 0},
    "model": {"template": "file"},
    "problems": [],
}


async def test_a_base_is_fetched_stopped_and_fetched_to_its_end(
    made: tuple[bytes, dict[str, bytes]], hub: FakeHub, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        check, "measured_checks", lambda *_: [Check("Time", "pass", "It takes a minute.")]
    )
    builder = StoreBuilder(tmp_path / "store")
    builder.add("mine:1", made[0])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "is it red?", "completion": "yes"}\n' * 60)
    draft = Draft(model="mine:1", store=str(builder.root), base="other", full_base=NAME,
                  sources=(str(rows),), goal="style", preset="quick", held_out="0.1")  # fmt: skip
    known = gathered([builder.root])
    known = replace(known, report=REPORT, report_of=rows_about(draft))
    screen = CheckScreen(draft, known)
    async with LlamaForgeApp(builder.root).run_test(size=(80, 24)) as pilot:

        async def open_download(words: str) -> DownloadScreen:
            await until_shown(pilot, words)
            await until_shown(pilot, "Enter: Download it")
            await until(pilot, lambda: pilot.app.screen is screen)
            assert screen.query_one(OptionList).options[0].disabled, "it cannot begin like this"
            await pilot.press("f")
            await until(pilot, lambda: isinstance(pilot.app.screen, DownloadScreen))
            found = pilot.app.screen
            assert isinstance(found, DownloadScreen)
            return found

        await until(pilot, lambda: is_read(pilot))
        pilot.app.push_screen(screen)

        await open_download(f"{NAME} is not on this machine yet")
        await until_shown(pilot, "is not on the Hub, or is private")
        await pilot.press("y")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)

        serve(hub, made[1], cardData={"license": "apache-2.0"})
        hub.faults["model.safetensors"] = [Fault(drip=True)]
        await open_download(f"{NAME} is not on this machine yet")
        await until_shown(pilot, "apache-2.0")
        assert not hub.asked("resolve"), "nothing is fetched before somebody agrees"
        await pilot.press("y")
        await until_shown(pilot, "model.safetensors")
        await until_shown(pilot, " left")
        assert " a second" in screen_text(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        await until(pilot, lambda: not hub.faults["model.safetensors"])
        assert parts(tmp_path / "hub"), "what was fetched stays"

        await pilot.press("u")
        await open_download(f"{NAME} is not complete on this machine")
        await until_shown(pilot, "the rest is here")
        await pilot.press("y")
        await until(pilot, lambda: pilot.app.screen is screen)
        await until_shown(pilot, "✓ Offline: All that the run needs is on this machine.")
        await until_shown(pilot, "Go on to the last page")
    assert cache_of(NAME).state == "complete"
    [again] = [seen for seen in hub.seen if seen.at_store and "range" in seen.headers]
    assert again.headers["range"] != "bytes=0-", "it went on where it had been stopped"


async def test_a_failure_that_nobody_foresaw_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(repo: str) -> None:
        raise PermissionError(13, "Permission denied", repo)

    monkeypatch.setattr(hub_plan, "plan_download", fails)
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        pilot.app.push_screen(DownloadScreen("a/b"))
        await until_shown(pilot, "Permission denied")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, DownloadScreen))
