"""Rows in the wizard: several files, datasets of the Hub, and rows that were frozen earlier."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from llamaforge.data import library
from llamaforge.data.check import Division, collect
from llamaforge.data.snapshot import write_snapshot
from llamaforge.data.sources import parse_source
from llamaforge.errors import UsageError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory, open_run
from llamaforge.tui.screens import check, review
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.rows import RowsScreen
from llamaforge.wizard import looking, row_files
from llamaforge.wizard.checks import Check
from llamaforge.wizard.draft import kept_draft
from tests.tui.test_wizard_screen import (
    ROWS,
    app,
    asked,
    begin,
    choose,
    keep_the_split,
    pass_the_checks,
    say,
    wizard,
)
from tests.tui.waiting import screen_text, text_of, until, until_shown


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    begun: list[RunDirectory] = []
    monkeypatch.setattr(review, "launch", begun.append)
    time = [Check("Time", "pass", "The whole run takes 2 min to 4 min.")]
    monkeypatch.setattr(check, "measured_checks", lambda draft, facts, tell: time)
    return begun


@pytest.fixture
def german(tmp_path: Path) -> Path:
    path = tmp_path / "german.csv"
    path.write_text("frage,antwort\n" + "wie viele sind es?,drei\n" * 60)
    return path


@pytest.fixture
def english(tmp_path: Path) -> Path:
    path = tmp_path / "english.jsonl"
    path.write_text("".join(ROWS % number for number in range(60)))
    return path


async def shows_row(pilot: Pilot[Any], words: str) -> None:
    await until_shown(pilot, "of them learned")
    await until_shown(pilot, words)


async def test_columns_are_asked_for_the_file_that_needs_it(german: Path, english: Path) -> None:
    async with app().run_test(size=(80, 24), notifications=True) as pilot:
        await begin(pilot)
        await say(pilot, f"{english} {german}")
        await until(pilot, lambda: asked(pilot, "map"))
        await until_shown(pilot, "frage → antwort")
        await until_shown(pilot, "german.csv")
        shown = text_of(pilot, "#rows")
        assert "english.jsonl" in shown
        assert "has none of these columns: read as prompt_completion" in " ".join(shown.split())
        await say(pilot, "prompt=frage,completion=antwort")
        await keep_the_split(pilot)
        await until_shown(pilot, "120 can be used")
        await pilot.press("ctrl+t")
        await shows_row(pilot, "english.jsonl, row 1")
        await shows_row(pilot, "number 0 of")
        await pilot.press("f")
        await shows_row(pilot, "german.csv, row 1")
        await shows_row(pilot, "wie viele")
        screen = pilot.app.screen
        assert isinstance(screen, RowsScreen)
        await pilot.press("left")
        await shows_row(pilot, "english.jsonl, row 1")
        screen.row = 60
        await pilot.press("right")  # behind the last row of a file comes the next file
        await shows_row(pilot, "german.csv, row 1")
        screen.row = 60
        await pilot.press("right")
        await until_shown(pilot, "That was the last row")
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "goal"))


async def test_a_second_table_with_other_columns_says_how_to_go_on(
    german: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("thema,text2\n" + "a b c,d e f\n" * 20)
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await say(pilot, f"{german} {other}")
        await until(pilot, lambda: asked(pilot, "map"))
        await until_shown(pilot, "cannot be read")
        wizard(pilot).query_one(Input).value = "prompt=frage,completion="
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "sources"))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "map"))
        assert wizard(pilot).query_one(Input).value == "prompt=frage,completion="
        await say(pilot, "prompt=frage,completion=antwort")
        await until_shown(pilot, "One mapping is for all files")
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "sources"))
        await pilot.press("down", "down", "down", "enter")  # the other file is taken away
        await until_shown(pilot, "Go on with 1 file")
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "map"))


async def test_chosen_files_and_lines_survive_going_back(german: Path, english: Path) -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        field = wizard(pilot).query_one(Input)
        field.value = str(english)[:-2]
        await until_shown(pilot, "english.jsonl")
        await pilot.press("down", "enter")
        await until_shown(pilot, "Go on with 1 file")
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "base"))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "sources"))
        assert wizard(pilot).query_one(Input).value == str(english)
        await pilot.press("enter")
        await keep_the_split(pilot)
        await choose(pilot, "style")
        await until(pilot, lambda: asked(pilot, "preset"))
        await choose(pilot, "quick")
        await until(pilot, lambda: asked(pilot, "settings"))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "probes"))
        await say(pilot, "what is it?")
        await until_shown(pilot, "✓ what is it?")
        await pilot.press(*"half", "escape")
        await until(pilot, lambda: asked(pilot, "settings"))
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "probes"))
        await until_shown(pilot, "✓ what is it?")
        assert wizard(pilot).query_one(Input).value == "half"
        kept = kept_draft()
        assert kept is not None
        assert kept.probes == ("what is it?",)


async def test_a_dataset_of_the_hub_is_mapped_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for split, answer in (("train", "drei"), ("test", "vier")):
        table = pyarrow.table({"frage": ["wie viele?"] * 20, "antwort": [answer] * 20})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
        files.append(tmp_path / f"{split}.parquet")
    fetched: list[str] = []

    def fetch(dataset: Any) -> list[Path]:
        fetched.append(dataset.text())
        return files

    def checked(request: str, tell: Any) -> dict[str, Any]:
        """Answer as the process that looks through rows, once it has fetched them."""
        if '"map":null' in request:
            raise UsageError("The rows have no known format.", "Say it.", code="unknown_format")
        found = [{"path": str(path), "container": "parquet", "format": "prompt_completion",
                  "confidence": 1.0} for path in files]  # fmt: skip
        rows = {"read": 40, "accepted": 40, "repaired": 0, "rejected": 0, "left_out": 0}
        return {"sources": found, "rows": rows, "problems": [], "model": {"template": "file"}}

    monkeypatch.setattr(row_files, "fetch_dataset", fetch)
    monkeypatch.setattr(looking, "check", checked)
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await say(pilot, "hf:maker/questions")
        await until(pilot, lambda: asked(pilot, "map"))
        await until_shown(pilot, "frage → antwort")
        await until_shown(pilot, "vier")
        await pilot.press("enter")
        await keep_the_split(pilot)
        assert fetched == ["hf:maker/questions"], "what is there is not fetched again"
        await pilot.press("ctrl+t")
        await shows_row(pilot, "train.parquet, row 1")
        await shows_row(pilot, "drei")
        await pilot.press("f")
        await shows_row(pilot, "test.parquet, row 1")
        await shows_row(pilot, "vier")
    assert len(fetched) == 1


def freeze(rows: Path, folder: Path) -> str:
    """Freeze rows as a run does; return what names them."""
    folder.mkdir()
    found = collect([parse_source(str(rows))], max_rejected_fraction=0.0, division=Division(0.25))
    manifest = write_snapshot(folder, found.splits, found.report)
    library.keep(folder)
    return f"{library.PREFIX}{manifest.id[:16]}"


async def test_rows_that_were_frozen_earlier_are_learned_as_they_were_divided(
    english: Path, tmp_path: Path, launched: list[RunDirectory]
) -> None:
    source = freeze(english, tmp_path / "frozen")
    english.unlink()
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await until_shown(pilot, "Frozen rows of english.jsonl")
        await until_shown(pilot, "45 to learn, 15 held back")
        await pilot.press("down")
        menu = wizard(pilot).query_one(OptionList)
        menu.highlighted = menu.option_count - 1
        await pilot.press("enter")
        await until(pilot, lambda: asked(pilot, "goal"))  # how many to hold back is not asked
        assert wizard(pilot).draft.sources == (source,)
        await pilot.press("ctrl+t")
        await shows_row(pilot, "train.jsonl, row 1")
        await pilot.press("f")
        await shows_row(pilot, "validation.jsonl, row 1")
        await pilot.press("escape")
        await until(pilot, lambda: asked(pilot, "goal"))
        await choose(pilot, "style")
        await until(pilot, lambda: asked(pilot, "preset"))
        await choose(pilot, "quick")
        for key in ("settings", "probes", "name", "publish"):
            await until(pilot, lambda key=key: asked(pilot, key))  # type: ignore[misc]
            await pilot.press("enter")
        await pass_the_checks(pilot)
        await until_shown(pilot, "✓ Rows: 60 can be trained on")
        assert f"--data {source}" in text_of(pilot, "#review").replace("\n", " ")
        await pilot.press("b")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
    [run] = launched
    spec = RunSpec.load(open_run(run.id).spec_file)
    assert spec.data.snapshot is not None
    assert source.removeprefix(library.PREFIX) == spec.data.snapshot[:16]
    assert not spec.data.sources


async def test_frozen_rows_are_learned_alone(english: Path, tmp_path: Path) -> None:
    source = freeze(english, tmp_path / "frozen")
    async with app().run_test(size=(80, 24)) as pilot:
        await begin(pilot)
        await say(pilot, f"{source} {english}")
        await until_shown(pilot, "Frozen rows are learned alone")
        await say(pilot, "snapshot:0000")
        await until_shown(pilot, "There is no snapshot 0000")
        assert "Traceback" not in screen_text(pilot)
