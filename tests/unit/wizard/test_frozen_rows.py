"""Rows that were frozen earlier are measured again, and never judged again."""

import json
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.data import library
from llamaforge.data.check import Division, collect
from llamaforge.data.reading import ReadChoices
from llamaforge.data.snapshot import write_snapshot
from llamaforge.data.sources import parse_source
from llamaforge.errors import NotFoundError, UsageError
from llamaforge.recipe.check_request import CheckRequest
from llamaforge.recipe.spec import DataChoice
from llamaforge.wizard.checks import checks
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.frozen import frozen_rows
from llamaforge.wizard.looking import LOOKS
from llamaforge.wizard.no_training import write_modelfile
from llamaforge.wizard.row_files import row_files
from llamaforge.worker.data_check import report

KEY = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1"


def freeze(folder: Path, *, pairs: bool = False, labelled: bool = False) -> str:
    rows = folder / "rows.jsonl"
    answers: dict[str, object] = {"completion": f"yes {KEY}"}
    if pairs:
        answers = {"chosen": f"yes {KEY}", "rejected": "no"}
    elif labelled:
        answers |= {"label": True}
    rows.write_text(
        "".join(json.dumps({"prompt": f"is {n} it?"} | answers) + "\n" for n in range(20))
    )
    found = collect(
        [parse_source(str(rows))],
        max_rejected_fraction=0.0,
        division=Division(0.0),
        choices=ReadChoices("preference" if pairs else "labelled" if labelled else "sft"),
        allow_secrets=True,
    )
    (folder / "frozen").mkdir()
    manifest = write_snapshot(folder / "frozen", found.splits, found.report)
    library.keep(folder / "frozen")
    run = paths.runs_folder() / "mine" / "data"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"id": manifest.id}))
    return manifest.id


def test_they_are_named_with_the_runs_that_learned_from_them(tmp_path: Path) -> None:
    found = freeze(tmp_path, pairs=False)
    (one,) = frozen_rows()
    assert one.source == f"snapshot:{found[:16]}"
    assert one.title == "Frozen rows of rows.jsonl"
    assert one.words.startswith("20 to learn, 0 held back, ")
    assert one.words.endswith("; mine")
    draft = Draft(model="m", sources=(one.source,), held_out="0.2")
    assert draft.with_whole_paths() == draft
    assert draft.recipe(()).data == DataChoice(snapshot=found)
    assert f"--data {one.source}" in draft.command(())
    assert [path.name for path in row_files(draft).paths] == ["train.jsonl"]
    gone = draft.with_answers(sources=("snapshot:0000",))
    assert "There is no snapshot 0000" in row_files(gone).problem
    with pytest.raises(NotFoundError):
        gone.recipe(())


def test_what_was_allowed_then_is_not_asked_again(tmp_path: Path) -> None:
    data = DataChoice(snapshot=freeze(tmp_path, pairs=False))
    found = report(CheckRequest(data=data))
    assert found["rows"]["accepted"] == 20
    assert found["can_train"] is True
    assert [source["format"] for source in found["sources"]] == ["prompt_completion"]


def test_labelled_answers_stay_labelled(tmp_path: Path) -> None:
    source = f"snapshot:{freeze(tmp_path, labelled=True)}"
    with pytest.raises(UsageError, match="labelled good or bad") as caught:
        report(CheckRequest(data=DataChoice(snapshot=library.named(source))))
    assert "--method kto" in caught.value.hint
    facts = Facts(Machine(2, 8 << 30, 50 << 30))
    facts = LOOKS["rows"].at(Draft(sources=(source,)), facts, lambda what, rows: None)
    assert [item["format"] for item in facts.report["sources"]] == ["unpaired_preference"]
    assert (facts.rows.good, facts.rows.bad) == (20, 0)


def test_pairs_stay_pairs(tmp_path: Path) -> None:
    snapshot = freeze(tmp_path, pairs=True)
    with pytest.raises(UsageError, match="preference pairs") as caught:
        report(CheckRequest(data=DataChoice(snapshot=snapshot)))
    assert caught.value.code == "unsupported_format"
    found = report(CheckRequest(data=DataChoice(snapshot=snapshot, preference="pairs")))
    assert [source["format"] for source in found["sources"]] == ["preference"]


def test_rows_that_are_gone_are_told_before_anything_is_made(tmp_path: Path) -> None:
    source = "snapshot:0123456789abcdef"
    draft = Draft(model="m", sources=(source,), settings={"seed": "7"}, goal="style",
                  preset="quick")  # fmt: skip
    known = Facts(Machine(2, 8 << 30, 50 << 30), report={"rows": {"accepted": 9}, "problems": []})
    (failed,) = [item for item in checks(draft, known) if item.verdict == "fail"]
    assert failed.fix is None, "no setting is to blame"
    target = tmp_path / "Modelfile"
    with pytest.raises(NotFoundError, match="no snapshot 0123456789abcdef"):
        write_modelfile(target, draft, row_files(draft), "mine")
    assert not target.exists()
