"""The history: figures of every run, curves over each other, recipes again, and deleting."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from textual.pilot import Pilot

from llamaforge.data.sources import Source
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.recipe.spec import (
    DataChoice,
    EvaluationSettings,
    Phase,
    PublishChoice,
    RunSpec,
    StartAdapter,
)
from llamaforge.recipe.training_settings import TrainingSettings
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
from llamaforge.wizard.draft import Draft, keep_draft, kept_draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.presets import Rows, advise, goal_of, preset_of
from llamaforge.wizard.questions import STEPS, advice_for, taken
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


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_the_method_is_used_again_until_another_goal_is_chosen(
    finished: RunBuilder, method: Any
) -> None:
    spec = RunSpec.load(finished.run.spec_file)
    chosen = TrainingSettings(method=method, beta=0.3)
    draft = reused(spec.model_copy(update={"training": chosen})).draft
    rows = Facts(Machine(2, 1, 1), report={"rows": {"accepted": 90, "repaired": 0}})
    draft = draft.with_answers(goal="prefer", preset="balanced", preference="refuse")
    found = draft.recipe(advice_for(draft, rows)).training
    assert found == chosen.model_copy(update={"device": found.device})

    goal = next(item for step in STEPS for item in step.questions if item.key == "goal")
    other = draft.with_answers(**taken(goal, "style", draft, rows))
    assert other.setting("method") is None
    assert other.fitting(advice_for(other, rows))[0].recipe(()).training.method == "sft"


def test_weights_of_labels_are_used_again_as_they_were(finished: RunBuilder) -> None:
    spec = RunSpec.load(finished.run.spec_file)
    draft = reused(spec.model_copy(update={"training": TrainingSettings(method="kto")})).draft
    rows = Rows(count=90, good=60, bad=30)
    advice = advise(goal_of("prefer"), preset_of("balanced"), rows)
    assert draft.recipe(advice).training.undesirable_weight == 1.0


def test_everything_of_a_recipe_is_used_again(finished: RunBuilder, tmp_path: Path) -> None:
    earlier = RunBuilder("earlier")
    rows = Source(path=str(tmp_path / "b.csv"), weight=0.5, split="train", mapping={"prompt": "q"})
    spec = RunSpec.load(finished.run.spec_file)
    data = DataChoice(
        sources=[Source(path="/a.jsonl"), rows],
        max_length=512,
        validation_fraction=0.2,
        split_seed=3,
    )
    training = TrainingSettings(base="hub", lora_r=4, report_to=["wandb"])
    dpo = TrainingSettings(base="hub", lora_r=4, method="dpo", beta=0.3, seed=9)
    spec = spec.model_copy(
        update={
            "data": data,
            "training": training,
            "then": [Phase(data=data, training=dpo)],
            "start": StartAdapter(run=earlier.run.id, step=7, sha256="a" * 64),
            "model": spec.model.model_copy(update={"base": "me/base", "chat_template": "chatml"}),
            "evaluation": EvaluationSettings(probe_prompts=["who: is 'it'?"], samples=1),
            "publish": PublishChoice(name="mine", quantization="Q8_0"),
        }
    )
    found = reused(spec)
    assert found.left_out == ()
    draft = found.draft
    assert keep_draft(draft)
    assert kept_draft(draft.model, draft.store) == draft
    recipe = draft.recipe(())
    assert recipe.continue_from == earlier.run.id
    assert (recipe.model.base, recipe.model.chat_template) == ("me/base", "chatml")
    assert recipe.data == data.model_copy(update={"max_length": None})  # the rows decide it again
    assert recipe.training == training.model_copy(update={"report_to": []})
    assert recipe.evaluation == spec.evaluation
    assert recipe.publish.quantization == "Q8_0"
    (phase,) = recipe.then
    assert phase.data == data
    facts = ModelFacts(Path("/s"), Path("/b"), "sha256:0", "qwen2", "Q4_K_M", 4096)
    resolved = resolve(recipe, facts, "again", start=(spec.start, training))  # type: ignore[arg-type]
    other = {"compute_dtype": dpo.compute_dtype}  # of the machine
    assert resolved.then[0].training.model_copy(update=other) == dpo
    assert with_settings(yaml.safe_load(draft.yaml(())), []) == recipe
    assert draft.command(()) == "llamaforge train recipe.yaml"
    plain = draft.with_answers(then="", sources=("/a.jsonl",))
    assert "--continue earlier" in plain.command(())


def test_what_is_gone_of_a_recipe_is_told(finished: RunBuilder) -> None:
    spec = RunSpec.load(finished.run.spec_file)
    gone = DataChoice(snapshot="f" * 64)
    spec = spec.model_copy(
        update={
            "data": gone,
            "then": [Phase(data=gone, training=spec.training)],
            "start": StartAdapter(run="nowhere", step=1, sha256="a" * 64),
        }
    )
    found = reused(spec)
    assert found.left_out == (
        "its frozen rows, which are gone",
        "phase 2, whose frozen rows are gone",
        "that it went on from the run nowhere, which is gone",
    )
    assert (found.draft.then, found.draft.continue_from, found.draft.sources) == ("", "", ())


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
