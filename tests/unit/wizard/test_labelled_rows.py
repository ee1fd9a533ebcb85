"""Rows whose answers are labelled lead to the one goal that learns from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from llamaforge.data.preview_request import PreviewRequest
from llamaforge.data.records import Message, Record
from llamaforge.wizard import row_preview
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.looking import LOOKS
from llamaforge.wizard.questions import STEPS, advice_for, taken
from llamaforge.wizard.row_files import RowFiles
from llamaforge.worker import preview


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


def test_a_bad_answer_out_of_frozen_rows_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PreviewRequest] = []
    monkeypatch.setattr(row_preview, "ask", asked.append)
    turns = (Message("user", "Who?"), Message("assistant", "He."), Message("user", "Why?"))
    record = Record("id", "rows", 1, turns, rejected=(Message("assistant", "Because."),))
    file = tmp_path / "train.jsonl"
    file.write_bytes(TypeAdapter(Record).dump_json(record) + b"\n")
    draft = Draft(model="m", sources=("snapshot:0123456789ab",))
    row_preview.token_row(draft, RowFiles(paths=(file,)), 0, 1)
    (row,) = asked[0].conversations
    assert [(turn.content, turn.trained) for turn in row][1:] == [
        ("He.", False),
        ("Why?", False),
        ("Because.", True),
    ]


def test_a_mapped_label_is_shown_as_one(tmp_path: Path) -> None:
    path = tmp_path / "thumbs.csv"
    path.write_text("q,a,thumb\nWho?,He.,false\n")
    mapping = "prompt=q,completion=a,label=thumb"
    request = PreviewRequest(model="m", data=str(path), positions=(1,), map=mapping)
    ((_, _, row),) = preview._rows(request)
    assert not isinstance(row, str)
    assert [turn.content for turn in row] == ["Who?", "He."]


@pytest.mark.parametrize(
    ("columns", "method"),
    [("completion=a,label=b", "kto"), ("chosen=a,rejected=b", "dpo")],
)
def test_mapped_columns_lead_to_the_goal_that_learns_from_them(
    tmp_path: Path, columns: str, method: str
) -> None:
    path = tmp_path / "rows.csv"
    second = ["true", "false"] if method == "kto" else ["No idea it is.", "Nobody knows."]
    rows = (f"Question {n}?,Answer {n} it is.,{second[n % 2]}\n" for n in range(80))
    path.write_text("q,a,b\n" + "".join(rows))
    draft = Draft(model="m", sources=(str(path),), map=f"prompt=q,{columns}", preset="balanced")
    # Only rows are looked at: there is no such model.
    nameless = replace(draft, model="")
    empty = Facts(Machine(2, 8 << 30, 50 << 30))
    facts = LOOKS["rows"].at(nameless, empty, lambda what, rows: None)
    assert facts.rows.count == 80
    goal = next(item for step in STEPS for item in step.questions if item.key == "goal")
    assert goal.default(draft, facts) == "prefer"
    assert not goal.problem("prefer", draft, facts)
    draft = replace(draft, **taken(goal, "prefer", draft, facts))
    assert draft.recipe(advice_for(draft, facts)).training.method == method
