"""The page of a download says what went wrong, whatever that is."""

import pytest

from llamaforge import paths
from llamaforge.catalog import hub_plan
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens.download import DownloadScreen
from tests.tui.test_models_screen import is_read
from tests.tui.waiting import until, until_shown


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
