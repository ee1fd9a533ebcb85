"""Text from outside is shown on the screens of the wizard as text, and obeyed by nothing."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Footer, OptionList

from llamaforge import paths
from llamaforge.catalog.hub_plan import DownloadPlan
from llamaforge.data.preview import Preview, PreviewProblem, PreviewToken
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.previews import PreviewAnswer
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import check, rows
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.download import DownloadScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.screens.rows import RowsScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.wizard.bases import BaseFacts, about
from llamaforge.wizard.checks import Check, Fix
from llamaforge.wizard.draft import Draft, whole_sources
from llamaforge.wizard.facts import Facts, gathered
from llamaforge.wizard.looking import rows_about
from llamaforge.wizard.row_files import RowFiles
from tests.tui.test_models_screen import is_read
from tests.tui.waiting import screen_text, until, until_shown

BAD = '[/foo][red]x[@click=quit()]{"b": [true]}\x1b[2J\x1b]0;title\x07\r\x9b31m\u202egnp.exe\u200b'
LONG = "n" * 10_000
TEXTS = [BAD, LONG, "界" * 400]
IDS = ["markup", "long", "wide"]
SIZE = (80, 24)


def is_sound(pilot: Pilot[Any]) -> None:
    """The picture is as large as the terminal, the keys are at its end, and nothing is obeyed."""
    lines = pilot.app.screen._compositor.render_strips()
    assert [strip.cell_length for strip in lines] == [pilot.app.size.width] * pilot.app.size.height
    obeyed = [
        strip.text
        for strip in lines
        if {unicodedata.category(char) for char in strip.text} & {"Cc", "Cf", "Cs"}
    ]
    assert not obeyed
    (footer,) = pilot.app.screen.query(Footer)
    assert footer.region.bottom == pilot.app.size.height
    assert pilot.app.is_running


def draft_of(folder: Path, **answers: Any) -> Draft:
    path = folder / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 60)
    store = str(paths.embedded_store())
    draft = Draft(model="llamaforge-demo:latest", store=store, base="gguf", sources=(str(path),))
    usual = {"goal": "style", "preset": "quick", "held_out": "0.1"}
    return draft.with_answers(**usual | answers)


def facts_of(draft: Draft, text: str = "fine") -> Facts:
    report = {
        "sources": [{"path": f"/x/{text}", "container": text, "format": text, "confidence": 1.0}],
        "rows": {"read": 60, "accepted": 60, "repaired": 0, "rejected": 0, "left_out": 0},
        "analysis": {"lengths": {"tokens": {"p50": 20, "max": 30}, "suggested_max_length": 64}},
        "model": {"template": text},
        "problems": [{"level": "warn", "code": "else", "message": text}],
    }
    base = BaseFacts(about(draft), text, "certain", (text, text), license=text, gated=True)
    files = RowFiles(whole_sources(draft), tuple(map(Path, draft.sources)))
    return replace(
        gathered([paths.embedded_store()]), report=report, report_of=rows_about(draft), base=base,
        files=files, prompts=(text,),
    )  # fmt: skip


async def shown(pilot: Pilot[Any], screen: Screen[Any], holds: Callable[[], bool]) -> None:
    pilot.app.push_screen(screen)
    await until(pilot, lambda: pilot.app.screen is screen and holds())
    await pilot.pause(0.05)
    is_sound(pilot)


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
async def test_text_from_outside_is_only_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LlamaForgeApp(paths.embedded_store()).run_test(size=SIZE) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await every_question(pilot, text, tmp_path)
        await rows_as_tokens(pilot, text, tmp_path, monkeypatch)
        await checks_and_a_download(pilot, text, tmp_path, monkeypatch)
        await the_last_page(pilot, text, tmp_path)


async def every_question(pilot: Pilot[Any], text: str, folder: Path) -> None:
    """Settings, choices, columns, files and texts, one after the other on one screen."""
    odd = folder / f"{text.replace('/', '-').encode()[:200].decode(errors='ignore')}.csv"
    odd.write_text(f'"{text.replace(chr(34), "")}",b\n' + "is it?,yes\n" * 60)
    draft = draft_of(
        folder, sources=(str(odd), f"hf:a/{'b' * 90}"), map=f"prompt={json.dumps(text)}",
        settings={"lora_r": "8", "target_modules": json.dumps([text]), "interface": text},
        probes=(text[:8_000], "other"), name=text, publish=text, system=text, preset="",
    )  # fmt: skip
    known = facts_of(draft, text)
    known = replace(known, files=RowFiles(whole_sources(draft), (odd, odd)))
    screen = WizardScreen(draft, known, lambda: 0.0)
    await shown(pilot, screen, lambda: bool(screen.query("#answer > *")))
    for question in screen._questions():
        await screen._ask(replace(question, needs=""))
        await pilot.pause(0.05)
        is_sound(pilot)
        for menu in screen.query(OptionList):
            menu.highlighted = menu.option_count - 1 if menu.option_count else None
        await pilot.pause(0.05)
        is_sound(pilot)
    screen._tell_problem(text)
    await pilot.pause()
    is_sound(pilot)


async def rows_as_tokens(
    pilot: Pilot[Any], text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tuple(
        PreviewToken(number, text[number * 40 : number * 40 + 40], 0, 0, number % 2 == 0, False)
        for number in range(len(text) // 40 + 1)
    )
    shows = Preview(
        text, tokens, 3, 2, problems=(PreviewProblem("error", "x", text),), source=text, row=7
    )
    answer = PreviewAnswer(text, text, 9, (shows,))
    monkeypatch.setattr(rows, "token_row", lambda *_: answer)
    draft = draft_of(folder)
    place = folder / text.replace("/", "-")[:40]
    known = replace(facts_of(draft), files=RowFiles(whole_sources(draft), (place, place)))
    screen = RowsScreen(draft, known)
    await shown(pilot, screen, lambda: "3 tokens" in screen_text(pilot))
    for key in ("end", "f"):
        await pilot.press(key)
        await pilot.pause(0.05)
        is_sound(pilot)


async def checks_and_a_download(
    pilot: Pilot[Any], text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Check(text, "fail", text, text, Fix(text, {}, fetches=text)),
        Check("Rows", "warn", text, text, Fix(text, {"map": text})),
    ]
    monkeypatch.setattr(check, "checks", lambda *_: found)
    plan = DownloadPlan(text, "1" * 40, text, (), 9, 5, 10, folder, text, text, "manual")
    monkeypatch.setattr("llamaforge.catalog.hub_plan.plan_download", lambda repo: plan)
    draft = draft_of(folder)
    screen = CheckScreen(draft, facts_of(draft, text))
    await shown(pilot, screen, lambda: screen.found is not None)
    await pilot.press("end")
    await pilot.pause()
    is_sound(pilot)
    await pilot.press("f")
    await until(pilot, lambda: isinstance(pilot.app.screen, DownloadScreen))
    await until_shown(pilot, "Press y to download it")
    is_sound(pilot)
    pilot.app.screen.post_message(DownloadScreen.Ended(LlamaForgeError(text, text)))
    await pilot.pause(0.1)
    is_sound(pilot)
    await pilot.press("escape")
    await until(pilot, lambda: pilot.app.screen is screen)


async def the_last_page(pilot: Pilot[Any], text: str, folder: Path) -> None:
    draft = draft_of(folder, probes=(text[:8_000],), publish=text, system=text)
    found = [Check(text, "warn", text, text)]
    screen = ReviewScreen(draft, facts_of(draft, text), lambda: 0.0, found)
    await shown(pilot, screen, lambda: "Before it begins" in screen_text(pilot))
    for _ in range(2):
        await pilot.press("pagedown")
        await pilot.pause()
        is_sound(pilot)
