"""Colours and keys are the person's own: chosen on the screens, kept in a file."""

from pathlib import Path
from typing import Any

import pytest
from textual.color import Color
from textual.pilot import Pilot
from textual.theme import Theme
from textual.widgets import OptionList

from llamaforge import paths
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.preferences import Preferences, keep_preferences, read_preferences
from llamaforge.tui.screens.dialogs import Help
from llamaforge.tui.screens.keys import KeysScreen, acts
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.welcome import WelcomeScreen
from llamaforge.tui.theme import THEMES
from llamaforge.tui.widgets.lines import MUTED
from tests.tui.run_builder import RunBuilder
from tests.tui.waiting import screen_text, until, until_shown


async def command(pilot: Pilot[Any], words: str) -> None:
    """Choose what is called `words` in the palette."""
    await pilot.press("ctrl+p")
    await until(pilot, lambda: bool(pilot.app.screen.query("CommandInput")))
    await pilot.press(*words)
    await until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count > 0)
    await pilot.pause(0.2)
    await pilot.press("enter")


async def to_the_keys(pilot: Pilot[Any]) -> None:
    await command(pilot, "Keys")
    await until(pilot, lambda: isinstance(pilot.app.screen, KeysScreen))
    await pilot.pause()


def stand_on(pilot: Pilot[Any], name: str) -> None:
    place = [act.id for act in acts()].index(name)
    pilot.app.screen.query_one(OptionList).highlighted = place


async def test_colours_that_are_chosen_are_kept(own_home: Path) -> None:
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        assert pilot.app.theme == "forge"
        await command(pilot, "Light")
        await until(pilot, lambda: pilot.app.theme == "forge-light")
    assert read_preferences().theme == "forge-light"
    assert LlamaForgeApp().theme == "forge-light"


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_every_text_can_be_read_on_every_ground(theme: Theme) -> None:
    """4.5 to 1, as WCAG 2.2 asks of text (1.4.3)."""
    chosen = theme.variables
    grounds = [theme.background, theme.surface, theme.panel, chosen["block-cursor-background"],
               chosen["block-cursor-blurred-background"]]  # fmt: skip
    share = float(MUTED.partition(" ")[2].rstrip("%")) / 100
    colours = [theme.foreground, theme.primary, theme.secondary, theme.warning, theme.error,
               theme.success]  # fmt: skip
    for ground in map(Color.parse, filter(None, grounds)):
        muted = ground.blend(Color.parse(theme.foreground or ""), share)
        for text in (muted, *map(Color.parse, filter(None, colours))):
            assert contrast(text, ground) >= 4.5, (text, ground)


def contrast(one: Color, two: Color) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    light, dark = sorted(map(luminance, (one, two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: Color) -> float:
    parts = [part / 255 for part in (colour.r, colour.g, colour.b)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_environment_outranks_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_preferences(Preferences(theme="forge-light"))
    monkeypatch.setenv("LLAMAFORGE_THEME", "forge-grey")
    assert LlamaForgeApp().theme == "forge-grey"


@pytest.mark.parametrize("theme", sorted(THEMES))
async def test_every_theme_shows_the_first_screen(theme: str) -> None:
    keep_preferences(Preferences(theme=theme))
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "This machine")


async def test_no_colours_are_shown_where_nobody_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "This machine")
        strips = pilot.app.screen._compositor.render_strips()
        styles = [segment.style for strip in strips for segment in strip]
        for style in styles:
            for color in (style.color, style.bgcolor) if style else ():
                if color is not None and color.triplet is not None:
                    red, green, blue = color.triplet
                    assert max(red, green, blue) - min(red, green, blue) <= 1


async def test_an_action_gets_another_key_and_its_first_one_back(running: RunBuilder) -> None:
    async with LlamaForgeApp().run_test(size=(80, 24), notifications=True) as pilot:
        await to_the_keys(pilot)
        stand_on(pilot, "welcome.history")
        await pilot.press("enter", "m")
        await until_shown(pilot, "choose another one")  # m opens the models
        await pilot.press("enter", "escape")
        assert not read_preferences().keys
        await pilot.press("enter", "f2")
        await until_shown(pilot, "was h")
        assert read_preferences().keys == {"welcome.history": "f2"}
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, WelcomeScreen))
        await pilot.press("h")
        assert isinstance(pilot.app.screen, WelcomeScreen)
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        await pilot.press("escape")
        await to_the_keys(pilot)
        stand_on(pilot, "welcome.history")
        await pilot.press("r")
        await until(pilot, lambda: not read_preferences().keys)


def test_every_action_has_an_id_of_its_own_and_no_screen_gives_a_key_twice() -> None:
    found = list(acts())
    assert len({act.id for act in found}) == len(found)
    for place in {act.place for act in found} - {"Everywhere"}:
        keys = [act.key for act in found if act.place in {place, "Everywhere"}]
        assert len(set(keys)) == len(keys), place


@pytest.mark.parametrize(
    "text", ["keys: [", "- a\n", "keys: 3\n", "theme: [x]\n", "\x00", "a: &a [*a]\n" * 3]
)
async def test_a_broken_file_changes_nothing_and_is_told(text: str) -> None:
    paths.home().mkdir(parents=True, exist_ok=True)
    (paths.home() / "screens.yaml").write_text(text)
    async with LlamaForgeApp().run_test(size=(80, 24), notifications=True) as pilot:
        await until_shown(pilot, "screens.yaml")
        assert pilot.app.theme == "forge"


async def test_help_says_what_the_screen_is_for_and_its_keys() -> None:
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        await until_shown(pilot, "teaches a model")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, WelcomeScreen))


async def test_the_palette_finds_models_and_runs(
    running: RunBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(paths.embedded_store()))
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: bool(pilot.app.screen.query("CommandInput")))
        await pilot.press(*"tickets")
        await until_shown(pilot, "Watch tickets")
        await pilot.press(*["backspace"] * 7, *"demo")
        await until_shown(pilot, "Train llamaforge-demo")
        assert "[" not in screen_text(pilot).splitlines()[-1]
