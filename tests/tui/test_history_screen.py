"""The history: figures of every run, curves over each other, recipes again, and deleting."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from llamaforge.recipe.spec import Phase, RunSpec
from llamaforge.runs import events
from llamaforge.runs.directory import RunState
from llamaforge.runs.removing import run_bytes
from llamaforge.tui import navigation
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.loss_history import LossPoint
from llamaforge.tui.screens.comparison import ComparisonScreen
from llamaforge.tui.screens.dialogs import Question
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.widgets.overlay import Curve, overlay_lines
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.reusing import differences, reused
from tests.tui.run_builder import RunBuilder
from tests.tui.waiting import screen_text, text_of, until, until_shown

SIZES = [(80, 24), (120, 40)]
HOSTILE = "[/red]\x1b[31m"


def change(builder: RunBuilder, **training: Any) -> RunSpec:
    """Write the run's spec with other settings, and return it."""
    spec = RunSpec.load(builder.run.spec_file)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=training)})
    spec.save(builder.run.spec_file)
    return spec


def second(name: str = "letters", **training: Any) -> RunBuilder:
    builder = RunBuilder(name)
    change(builder, **training)
    builder.begin()
    builder.train(60)
    builder.write(events.Finished(run=name, state="stopped"))
    figures = {"loss": 1.25, "eval_loss": 1.5, "exact_match_base": 0.04, "exact_match_tuned": 0.96}
    builder.state(RunState.STOPPED, stage="train", step=60, total=200, metrics=figures)
    return builder


async def history_is_shown(pilot: Pilot[Any]) -> None:
    await pilot.press("h")
    await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
    await until_shown(pilot, "tickets")


@pytest.mark.usefixtures("running")
async def test_every_run_is_a_row_with_its_figures() -> None:
    second()
    async with LlamaForgeApp().run_test(size=(120, 40)) as pilot:
        await history_is_shown(pilot)
        row = next(line for line in screen_text(pilot).splitlines() if "letters" in line)
        for part in ("■ stopped", "60 of 200 steps", "1.2500", "1.5000", "4 → 96 %"):
            assert part in row, part


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("size", SIZES)
async def test_marked_runs_are_drawn_over_each_other_and_their_recipes_compared(
    size: tuple[int, int],
) -> None:
    second(learning_rate=0.005, lora_r=8)
    async with LlamaForgeApp().run_test(size=size) as pilot:
        await history_is_shown(pilot)
        await pilot.press("c")  # one alone is compared with nothing
        assert isinstance(pilot.app.screen, RunsScreen)
        await pilot.press("space", "space")
        await until_shown(pilot, "●")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparisonScreen))
        await until_shown(pilot, "Loss, nats per token")
        for part in ("A ■ letters", "B ▸ tickets"):
            assert part in text_of(pilot, "#figures")
        told = " ".join(text_of(pilot, "#recipes").split())
        assert "training.learning_rate A 0.005 B 0.0002" in told
        assert "training.lora_r A 8 B 16" in told
        assert "lora_alpha" not in told
        for other in ((20, 5), (1, 1), (200, 60), size):
            await pilot.resize_terminal(*other)
        await until_shown(pilot, "Loss, nats per token")
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, RunsScreen)


async def test_hostile_recipes_are_compared_as_they_stand(running: RunBuilder) -> None:
    odd = second()
    spec = RunSpec.load(odd.run.spec_file)
    spec.model_copy(update={"model": spec.model.model_copy(update={"name": HOSTILE})}).save(
        odd.run.spec_file
    )
    running.run.spec_file.write_text("not: [a spec")
    async with LlamaForgeApp().run_test(size=(120, 40)) as pilot:
        await history_is_shown(pilot)
        await until_shown(pilot, "[/red]\\x1b[31m")
        await pilot.press("space", "space", "c")
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparisonScreen))
        await until(pilot, lambda: "recipe" in text_of(pilot, "#recipes"))
        assert "\x1b" not in screen_text(pilot)


@pytest.mark.usefixtures("running")
async def test_r_opens_the_wizard_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    second(learning_rate=0.005)
    opened: list[Draft] = []
    monkeypatch.setattr(navigation, "open_wizard", lambda app, draft: opened.append(draft))
    async with LlamaForgeApp().run_test(size=(80, 24)) as pilot:
        await history_is_shown(pilot)
        await pilot.press("r")
        await until(pilot, lambda: bool(opened))
    assert opened[0].model == "qwen2.5:3b"
    assert opened[0].sources == ("rows.jsonl",)
    assert opened[0].settings["training.learning_rate"] == "0.005"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("answer", ["y", "n"])
async def test_deleting_asks_with_the_bytes_that_it_frees(
    finished: RunBuilder, size: tuple[int, int], answer: str
) -> None:
    (finished.run.checkpoints / "weights").write_bytes(b"x" * 3_000_000)
    app = LlamaForgeApp()
    async with app.run_test(size=size, notifications=True) as pilot:
        await history_is_shown(pilot)
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await until(pilot, lambda: "frees 3." in " ".join(text_of(pilot, "#text").split()))
        await pilot.press(answer)
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        if answer == "y":
            await until_shown(pilot, "are free again")
            await until_shown(pilot, "There are no runs yet.")
    assert finished.run.path.exists() is (answer == "n")


async def test_a_run_at_work_is_not_deleted(running: RunBuilder) -> None:
    async with LlamaForgeApp().run_test(size=(120, 40), notifications=True) as pilot:
        await history_is_shown(pilot)
        await pilot.press("delete")
        await until_shown(pilot, "The run tickets is running.")
    assert running.run.spec_file.exists()


def test_bytes_are_those_on_the_disk_and_a_file_with_two_names_counts_once(
    finished: RunBuilder, tmp_path: Path
) -> None:
    before = run_bytes(finished.run)
    one = finished.run.checkpoints / "one"
    one.write_bytes(b"x" * 1_000_000)
    (finished.run.checkpoints / "two").hardlink_to(one)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * 5_000_000)
    (finished.run.checkpoints / "link").symlink_to(outside)
    assert 1_000_000 <= run_bytes(finished.run) - before < 1_100_000


def test_a_recipe_that_is_used_again_trains_the_same(finished: RunBuilder) -> None:
    spec = change(
        finished, learning_rate=0.005, num_train_epochs=5.0, target_modules=["q_proj"], seed=7
    )
    draft = reused(spec).draft
    recipe = draft.recipe(())
    assert recipe.training == spec.training.model_copy(update={"device": recipe.training.device})
    assert [source.path for source in recipe.data.sources] == ["rows.jsonl"]
    assert (draft.name, draft.publish) == ("", "")


def test_what_a_draft_cannot_hold_is_told(finished: RunBuilder) -> None:
    spec = RunSpec.load(finished.run.spec_file)
    spec = spec.model_copy(update={"then": [Phase(data=spec.data, training=spec.training)]})
    assert reused(spec).left_out == ("each further phase of training",)


def test_recipes_that_are_the_same_have_no_differences(finished: RunBuilder) -> None:
    spec = RunSpec.load(finished.run.spec_file)
    other = spec.model_copy(update={"run": "b"})
    assert differences([spec, other]) == []


def test_curves_have_letters_and_runs_without_steps_are_told() -> None:
    falling = tuple(LossPoint(step, 3.0 - step / 50) for step in range(1, 100))
    rising = tuple(replace(point, loss=point.loss + 1) for point in falling)
    lines = overlay_lines([Curve("a", falling, ()), Curve("b", rising, falling[:1])], 60, 14)
    text = "\n".join(line.plain for line in lines)
    assert len(lines) == 14
    assert all(len(line.plain) <= 60 for line in lines)
    for part in ("A", "B", "◆"):
        assert part in text
    assert "taken a step" in overlay_lines([Curve("a", (), ())], 60, 14)[0].plain
