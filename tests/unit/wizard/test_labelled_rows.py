"""Rows whose answers are labelled lead to the one goal that learns from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.looking import LOOKS
from llamaforge.wizard.questions import STEPS, advice_for, taken


def test_labelled_rows_are_looked_at_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path / "home"))
    path = tmp_path / "thumbs.jsonl"
    rows = [
        {"prompt": f"Question {n}?", "completion": f"Answer {n} it is.", "label": n % 4 != 0}
        for n in range(80)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft = Draft(sources=(str(path),))
    facts = LOOKS["rows"].at(draft, Facts(Machine(2, 8 << 30, 50 << 30)), lambda what, rows: None)
    assert (facts.rows.count, facts.rows.good, facts.rows.bad) == (80, 60, 20)

    goal = next(item for step in STEPS for item in step.questions if item.key == "goal")
    assert goal.default(draft, facts) == "prefer"
    found = {option.value: option for option in goal.options(draft, facts)}
    assert "(KTO)" in found["prefer"].explanation
    for key in found.keys() - {"prefer"}:
        assert "labelled bad" in found[key].refusal
        assert "That is not possible" in goal.problem(key, draft, facts)
    draft = replace(draft, model="m", **taken(goal, "prefer", draft, facts), preset="balanced")
    recipe = draft.recipe(advice_for(draft, facts))
    assert recipe.training.method == "kto"
    assert recipe.training.undesirable_weight == 3.0
    assert recipe.data.preference == "refuse", "the method itself takes the labels"
