"""The wizard leads from a model to a run, forward and back, and loses no answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from llamaforge import paths
from llamaforge.cli.main import main
from llamaforge.runs.directory import RunDirectory, open_run
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import check, review
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.models import ModelsScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.wizard.checks import Check
from llamaforge.wizard.draft import kept_draft
from tests.tui.test_models_screen import is_read
from tests.tui.waiting import screen_text, text_of, type_ahead, until, until_shown

ROWS = '{"prompt": "is it red, number %d of them all?", "completion": "yes"}\n'


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "my rows.jsonl"
    path.write_text("".join(ROWS % number for number in range(60)))
    return path


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    begun: list[RunDirectory] = []
    monkeypatch.setattr(review, "launch", begun.append)
    time = [Check("Time", "pass", "The whole run takes 2 min to 4 min.")]
    monkeypatch.setattr(check, "measured_checks", lambda draft, facts, tell: time)
    return begun


def app() -> LlamaForgeApp:
    return LlamaForgeApp(paths.embedded_store())


def wizard(pilot: Pilot[Any]) -> WizardScreen:
    screen = pilot.app.screen
    assert isinstance(screen, WizardScreen)
    return screen


async def begin(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: is_read(pilot))
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
    await until(pilot, lambda: asked(pilot, "base"))
    await pilot.press("enter")
    await until(pilot, lambda: asked(pilot, "sources"))


def asked(pilot: Pilot[Any], key: str) -> bool:
    screen = pilot.app.screen
    if not isinstance(screen, WizardScreen) or screen.question is None:
        return False
    return screen.question.key == key and bool(screen.query("#answer > *"))


async def say(pilot: Pilot[Any], text: str) -> None:
    field = wizard(pilot).query_one(Input)
    field.value = text
    field.focus()
    await pilot.press("enter")


async def choose(pilot: Pilot[Any], value: str) -> None:
    menu = wizard(pilot).query_one(OptionList)
    menu.highlighted = [option.id for option in menu.options].index(f"o-{value}")
    await pilot.press("enter")


async def to_the_goal(pilot: Pilot[Any], rows: Path) -> None:
    await begin(pilot)
    await say(pilot, str(rows))
    await keep_the_split(pilot)


async def keep_the_split(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: asked(pilot, "held_out"))
    await pilot.press("enter")
    await until(pilot, lambda: asked(pilot, "goal"))


async def to_the_checks(pilot: Pilot[Any], rows: Path) -> None:
    await to_the_goal(pilot, rows)
    await choose(pilot, "extract")
    await until(pilot, lambda: asked(pilot, "preset"))
    await choose(pilot, "quick")
    await until(pilot, lambda: asked(pilot, "settings"))
    await say(pilot, "seed=7")
    await until_shown(pilot, "Go on with 1 changed")
    await pilot.press("enter")
    await until(pilot, lambda: asked(pilot, "probes"))
    await pilot.press("enter")
    await until(pilot, lambda: asked(pilot, "name"))
    await say(pilot, "mine")
    await until(pilot, lambda: asked(pilot, "publish"))
    await say(pilot, "")
    await checked(pilot)


async def checked(pilot: Pilot[Any]) -> None:
    """Wait for the checks."""

    def are_shown() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, CheckScreen) and screen.found is not None

    await until(pilot, are_shown)


async def pass_the_checks(pilot: Pilot[Any]) -> None:
    await checked(pilot)
    await until_shown(pilot, "✓ Time: The whole run takes 2 min to 4 min.")
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, ReviewScreen))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_whole_way_ends_with_a_run(
    size: tuple[int, int], rows: Path, launched: list[RunDirectory]
) -> None:
    async with app().run_test(size=size) as pilot:
        await to_the_checks(pilot, rows)
        await pass_the_checks(pilot)
        await until_shown(pilot, "✓ Rows: 60 can be trained on")
        assert "seed: 7" in text_of(pilot, "#review")
        assert not (paths.runs_folder()).exists(), "nothing is written before it is confirmed"
        await pilot.press("b")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
        assert [run.id for run in launched] == ["mine"]
        assert "seed: 7" in open_run("mine").spec_file.read_text()
        assert kept_draft() is None
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def test_going_back_loses_no_answer(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_checks(pilot, rows)
        await pass_the_checks(pilot)
        await pilot.press("escape")
        await checked(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "publish"))
        for key in ("name", "probes", "settings", "preset", "goal", "held_out", "sources", "base"):
            await pilot.press("escape")
            await until(pilot, lambda key=key: asked(pilot, key))  # type: ignore[misc]
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "sources"))
        assert "rows.jsonl" in wizard(pilot).query_one(Input).value
        await pilot.press("enter")  # the same rows need not be read again
        await keep_the_split(pilot)
        menu = wizard(pilot).query_one(OptionList)
        assert menu.highlighted_option is not None
        assert menu.highlighted_option.id == "o-extract"
        await pilot.press("escape", "escape", "escape", "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def test_what_was_left_behind_is_offered_again(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_goal(pilot, rows)
        await pilot.press("escape", "escape", "escape", "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await pilot.press("enter")
        await until_shown(pilot, "Go on with them")
        await pilot.press("y")
        await until(pilot, lambda: asked(pilot, "goal"))  # the first that stands open
        await pilot.press("escape", "escape")
        await until(pilot, lambda: asked(pilot, "sources"))
        assert "rows.jsonl" in wizard(pilot).query_one(Input).value


async def test_an_answer_that_cannot_be_says_why_and_stays(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await pilot.press("enter")
        await until_shown(pilot, "Name at least one file.")
        await say(pilot, "/nowhere/rows.jsonl")
        await until_shown(pilot, "There is no file /nowhere/rows.jsonl")
        await say(pilot, str(rows))
        await keep_the_split(pilot)


async def test_unknown_columns_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("frage,antwort\n" + "wie viele sind es?,drei\n" * 60)
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await say(pilot, str(path))
        await until(pilot, lambda: asked(pilot, "map"))
        await until_shown(pilot, "frage → antwort")
        await until_shown(pilot, "row 2 user  wie viele")
        await pilot.press("down")
        await until_shown(pilot, "row 2 user  drei")
        await say(pilot, "prompt=frage,completion=nichts")
        await until_shown(pilot, "which no row looked at")
        await say(pilot, "prompt=frage,completion=antwort")
        await keep_the_split(pilot)
        await until_shown(pilot, "60 can be used")


async def test_hostile_rows_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "[red]x.jsonl"
    path.write_text('{"prompt": "\\u001b[2J[bold]", "completion": "y", "\\u001b]0;": 1}\n{"a":1}\n')
    async with app().run_test(size=(80, 24), notifications=True) as pilot:
        await begin(pilot)
        await say(pilot, str(path))
        await keep_the_split(pilot)
        await choose(pilot, "style")
        await until(pilot, lambda: asked(pilot, "preset"))
        assert "\x1b" not in screen_text(pilot)


async def test_what_keeps_a_run_from_beginning_is_mended_by_a_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(ROWS % number for number in range(40)) + '{"prompt": "none"}\n' * 5)
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_checks(pilot, path)
        await until_shown(pilot, "✗ Rows:")
        await until_shown(pilot, "Enter: Leave those rows out")
        screen = pilot.app.screen
        assert isinstance(screen, CheckScreen)
        go = screen.query_one(OptionList).options[0]
        assert go.disabled
        await pilot.press("f")
        await until_shown(pilot, "Go on to the last page")
        assert screen.draft.settings["max_rejected_fraction"] == "1"
        await pass_the_checks(pilot)
        await until_shown(pilot, "✓ Rows: 40 can be trained on")
        await pilot.press("escape")
        await checked(pilot)
        await pilot.press("escape")  # going back loses nothing of what was mended
        await until(pilot, lambda: asked(pilot, "publish"))
        assert wizard(pilot).draft.settings["max_rejected_fraction"] == "1"


async def test_the_way_without_training_writes_a_modelfile(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_goal(pilot, rows)
        await choose(pilot, "prompt")
        await until(pilot, lambda: asked(pilot, "system"))
        await say(pilot, "Be brief.")
        await until(pilot, lambda: asked(pilot, "publish"))
        await say(pilot, "brief")
        await until(pilot, lambda: isinstance(pilot.app.screen, ReviewScreen))
        await pilot.press("w")
        await until_shown(pilot, "ollama create brief:latest")
        assert 'SYSTEM "Be brief."' in (tmp_path / "Modelfile").read_text()


async def test_paths_are_completed(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (rows.parent / "folder").mkdir()
    (rows.parent / "folder" / "a.csv").write_text("x")
    monkeypatch.chdir(rows.parent)
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await pilot.press(*"fol")
        field = wizard(pilot).query_one(Input)
        await until(pilot, lambda: field._suggestion == "folder/")
        await until_shown(pilot, "folder/  folder")
        await pilot.press("right", *"/a"[1:])
        await until(pilot, lambda: field._suggestion == "folder/a.csv")


async def test_weights_that_nobody_knows_cannot_be_chosen_and_can_be_named(tmp_path: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_read(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "base"))
        menu = wizard(pilot).query_one(OptionList)
        assert [option.disabled for option in menu.options] == [False, True, False]
        await until_shown(pilot, "obody knows what this model was made from")
        await choose(pilot, "other")
        await until(pilot, lambda: asked(pilot, "full_base"))
        await say(pilot, str(tmp_path))
        await until_shown(pilot, "folder that holds a config.json")
        (tmp_path / "config.json").write_text("{}")
        await pilot.press("enter")
        await until_shown(pilot, "complete model")
        await say(pilot, "maker/tiny")  # it would have to be downloaded
        await until(pilot, lambda: asked(pilot, "sources"))
        assert wizard(pilot).draft.full_base == "maker/tiny"


async def test_several_files_are_taken_from_the_list(tmp_path: Path, rows: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(ROWS % number for number in range(100, 160)))
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        field = wizard(pilot).query_one(Input)
        field.value = f"{tmp_path}/"
        await until_shown(pilot, "more/  folder")
        await pilot.press("down")
        places = wizard(pilot).query_one(OptionList)
        places.highlighted = [str(option.prompt)[:5] for option in places.options].index("more/")
        await pilot.press("enter")
        await until_shown(pilot, "a.jsonl")
        await pilot.press("enter")
        await until_shown(pilot, "Go on with 1 file")
        field.value = str(rows)
        field.value = str(rows.parent) + "/my rows"
        await until_shown(pilot, "my rows.jsonl")
        places.highlighted = places.option_count - 1
        await pilot.press("enter")
        await until_shown(pilot, "Go on with 2 files")
        await pilot.press("enter")
        await keep_the_split(pilot)
        assert set(wizard(pilot).draft.sources) == {str(rows), f"{folder}/a.jsonl"}
        await pilot.press("escape", "escape")
        await until_shown(pilot, "Go on with 2 files")


async def test_rows_are_shown_as_tokens_with_what_is_learned(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_goal(pilot, rows)
        await pilot.press("ctrl+t")
        await until_shown(pilot, "of them learned")
        await until_shown(pilot, "^^^")
        assert "number 0 of" in screen_text(pilot)
        await pilot.press("right")
        await until_shown(pilot, "number 1 of")
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "goal"))


async def test_pairs_are_for_preferring_answers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = '{"prompt": "say %d", "chosen": "yes, gladly", "rejected": "no, never"}\n'
    path.write_text("".join(pair % number for number in range(60)))
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await say(pilot, str(path))
        await keep_the_split(pilot)
        menu = wizard(pilot).query_one(OptionList)
        assert menu.highlighted_option is not None
        assert menu.highlighted_option.id == "o-prefer"
        await choose(pilot, "style")  # the better answers alone
        await until(pilot, lambda: asked(pilot, "preset"))
        assert wizard(pilot).draft.preference == "chosen"
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "goal"))
        await choose(pilot, "prefer")
        await until(pilot, lambda: asked(pilot, "preset"))
        screen = wizard(pilot)
        recipe = screen.draft.with_answers(preset="quick").recipe(())
        assert recipe.data.preference == "refuse", "the method itself takes both answers"


async def test_every_setting_is_explained_and_refused_out_of_bounds(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_goal(pilot, rows)
        await choose(pilot, "style")
        await until(pilot, lambda: asked(pilot, "preset"))
        await choose(pilot, "balanced")
        await until(pilot, lambda: asked(pilot, "settings"))
        await until_shown(pilot, "takes  memory: at least")
        for _ in range(4):
            await pilot.press("down")
        await until_shown(pilot, "1 to 1024")
        await until_shown(pilot, "memory grows with it")
        await pilot.press("enter")
        await until(pilot, lambda: wizard(pilot).query_one(Input).value == "lora_r=16")
        await pilot.press("backspace", "backspace", *"4", "enter")
        await until_shown(pilot, "Go on with 1 changed")
        await say(pilot, "7")
        await until_shown(pilot, "Write it as KEY=VALUE")
        await say(pilot, "lora_r=")  # what the preset advises again
        await until_shown(pilot, "Go on with these")
        assert isinstance(pilot.app.focused, OptionList)
        type_ahead(pilot, "tab", "7")
        await until(pilot, lambda: wizard(pilot).query_one(Input).value == "7")
        await say(pilot, "lora_r=5000")
        await until_shown(pilot, "cannot be 5000")
        await say(pilot, "num_train_epochs=12")
        await until_shown(pilot, "4 times the preset")
        await pilot.press("escape")  # back loses nothing
        await until(pilot, lambda: asked(pilot, "preset"))
        assert wizard(pilot).draft.settings == {"num_train_epochs": "12"}


async def test_questions_to_watch_are_typed_or_taken_from_the_rows(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_goal(pilot, rows)
        screen = wizard(pilot)
        screen.draft = screen.draft.with_answers(goal="style", preset="quick")
        await screen._ask(next(q for q in screen._questions() if q.key == "probes"))
        await until_shown(pilot, "from your rows")
        await pilot.press("tab", "enter")
        await say(pilot, "what is it?")
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "name"))
        probes = wizard(pilot).draft.probes
        assert len(probes) == 2
        assert probes[1] == "what is it?"
        assert wizard(pilot).draft.recipe(()).evaluation.probe_prompts == list(probes)


async def test_leaving_asks_only_where_something_would_be_lost(rows: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        field = wizard(pilot).query_one(Input)
        field.value = str(rows)[:-3]
        await pilot.press("ctrl+q")
        await until_shown(pilot, "not taken yet")
        await pilot.press("n")
        await until(pilot, lambda: asked(pilot, "sources"))
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "base"))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "sources"))
        field = wizard(pilot).query_one(Input)
        assert field.value == str(rows)[:-3], "back loses nothing that was typed"
        await say(pilot, f"'{rows}'")
        await keep_the_split(pilot)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not pilot.app.is_running)
    assert kept_draft() is not None


async def test_both_ways_write_the_same_recipe(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with app().run_test(size=(80, 24)) as pilot:
        await to_the_checks(pilot, rows)
        await pass_the_checks(pilot)
        await pilot.press("w")
        await until(pilot, (tmp_path / "mine.yaml").exists)
        assert "lora_r: 4  # " in (tmp_path / "mine.yaml").read_text()
    words = ["wizard", "--store", str(paths.embedded_store()), "--model", "llamaforge-demo:latest"]
    words += ["--from", "gguf", "--data", str(rows), "--goal", "extract", "--preset", "quick"]
    words += ["--set", "seed=7", "--name", "mine", "--recipe", "plain.yaml"]
    assert await asyncio.to_thread(main, words) == 0
    assert (tmp_path / "plain.yaml").read_text() == (tmp_path / "mine.yaml").read_text()
