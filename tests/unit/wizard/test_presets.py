"""Advice is always a recipe, and every number has its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.wizard.draft import Draft
from llamaforge.wizard.presets import GOALS, PRESETS, Goal, Preset, Rows, advise

TRAINED = [goal for goal in GOALS if goal.lora_r]


@given(
    st.sampled_from(TRAINED),
    st.sampled_from(PRESETS),
    st.builds(
        Rows,
        st.integers(1, 10**6),
        st.integers(0, 10**5),
        st.sampled_from([0, 64, 512, 8192]),
        st.sampled_from([0, 7]),
        st.sampled_from([0, 1, 90]),
    ),
)
def test_advice_is_a_recipe(goal: Goal, preset: Preset, rows: Rows) -> None:
    advice = advise(goal, preset, rows)
    assert all(item.reason and item.reason[0].islower() | item.reason[0].isdigit()
               for item in advice)  # fmt: skip
    assert len({item.key for item in advice}) == len(advice)
    recipe = Draft(model="m", sources=("a.jsonl",)).recipe(advice)
    training = recipe.training
    assert training.lora_alpha == 2 * training.lora_r
    assert 1 <= training.per_device_train_batch_size * training.gradient_accumulation_steps <= 16
    assert 1 <= training.num_train_epochs <= 5


def figures(goal: str, preset: str, rows: Rows) -> dict[str, object]:
    chosen = next(item for item in GOALS if item.key == goal)
    how = next(item for item in PRESETS if item.key == preset)
    return {item.key: item.value for item in advise(chosen, how, rows)}


def test_a_quick_look_ends_soon_whatever_there_is() -> None:
    assert figures("style", "quick", Rows(100_000))["max_steps"] == 60
    assert "max_steps" not in figures("style", "quick", Rows(100))
    assert "max_steps" not in figures("style", "thorough", Rows(100_000))


def test_long_rows_pass_one_at_a_time() -> None:
    found = figures("style", "balanced", Rows(5_000, p50=4_000, suggested_max_length=8_192))
    assert (found["per_device_train_batch_size"], found["max_length"]) == (1, 8_192)


@pytest.mark.parametrize(("count", "epochs"), [(300, 3.0), (5_000, 2.0), (50_000, 1.0)])
def test_the_more_rows_the_fewer_passes(count: int, epochs: float) -> None:
    assert figures("style", "balanced", Rows(count))["num_train_epochs"] == epochs


def test_labelled_answers_are_learned_from_as_such_and_the_rarer_kind_weighs_more() -> None:
    found = figures("prefer", "balanced", Rows(400, good=300, bad=100))
    assert (found["method"], found["undesirable_weight"]) == ("kto", 3.0)
    found = figures("prefer", "quick", Rows(4_000, good=1_000, bad=3_000))
    assert (found["method"], found["desirable_weight"], found["max_steps"]) == ("kto", 3.0, 60)
    even = figures("prefer", "thorough", Rows(230, good=130, bad=100))
    assert not {"desirable_weight", "undesirable_weight"} & even.keys()
    assert figures("prefer", "balanced", Rows(400))["method"] == "dpo"
