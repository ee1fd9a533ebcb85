"""Every setting of a recipe can be reached, and says what it is, what it can be, what it costs."""

import pytest

from llamaforge.recipe.spec import Recipe
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.effects import _work
from llamaforge.wizard.settings import NOT_HERE, SECTIONS, SETTINGS, Setting, setting_of


def test_no_setting_of_a_recipe_is_out_of_reach() -> None:
    here = {f"{item.section}.{item.key}" for item in SETTINGS}
    known = {f"{part}.{key}" for part, kind in SECTIONS.items() for key in kind.model_fields}
    assert here | NOT_HERE == known
    assert not here & NOT_HERE
    assert len({item.key for item in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda item: item.key)
def test_each_is_explained_in_a_sentence(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.help[0].isupper() or not setting.help[0].isalpha()
    assert setting.bounds
    assert "memory" in setting.cost
    assert setting_of(setting.key) is setting
    assert setting_of(f"{setting.section}.{setting.key}") is setting


@pytest.mark.parametrize(
    ("key", "bounds"),
    [
        ("lora_r", "1 to 1024"),
        ("learning_rate", "more than 0 to 1"),
        ("max_steps", "1 or more"),
        ("seed", "0 to 4294967295"),
        ("lora_dropout", "0 to less than 1"),
        ("use_dora", "true or false"),
        ("method", "sft, dpo, orpo, kto"),
    ],
)
def test_bounds_are_those_of_the_recipe(key: str, bounds: str) -> None:
    setting = setting_of(key)
    assert setting is not None
    assert setting.bounds == bounds


@pytest.mark.parametrize(
    ("settings", "steps", "rows"),
    [
        ({}, 171, 171 * 16),
        ({"num_train_epochs": "6"}, 342, 342 * 16),
        ({"max_steps": "10"}, 10, 160),
        ({"validation_fraction": "0", "gradient_accumulation_steps": "1"}, 375, 375 * 8),
    ],
)
def test_the_work_of_a_recipe_is_counted(settings: dict[str, str], steps: int, rows: int) -> None:
    recipe: Recipe = Draft(model="m", sources=("/r.jsonl",), settings=settings).recipe(())
    assert _work(recipe, 1000) == (steps, rows)
