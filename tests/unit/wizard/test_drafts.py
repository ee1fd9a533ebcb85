"""A draft, its recipe file and its command are one and the same."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llamaforge import paths
from llamaforge.cli import train
from llamaforge.recipe.resolve import with_settings
from llamaforge.wizard.draft import Draft, forget_draft, keep_draft, kept_draft, kept_drafts
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.question import Kind
from llamaforge.wizard.questions import STEPS, advice_for, open_questions, settings_of, taken

MACHINE = Machine(2, 8 << 30, 50 << 30)
FACTS = Facts(
    MACHINE,
    report={
        "rows": {"accepted": 900, "repaired": 100},
        "analysis": {"lengths": {"tokens": {"p50": 80}, "suggested_max_length": 256}},
        "problems": [],
    },
)
DRAFT = Draft(
    model="qwen2.5:3b",
    store="/models/my store",
    base="other",
    full_base="maker/tiny",
    sources=("/data/a b.jsonl", "/data/c.csv@0.5"),
    map='prompt="{title}: {body}",completion=answer',
    preference="chosen",
    held_out="0.05",
    allow_secrets=True,
    goal="domain",
    preset="thorough",
    settings={"learning_rate": "3e-5", "training.seed": "7", "max_length": "128"},
    probes=('who, "me"?', "[x] {y}: z"),
    name="night",
    publish="mine:v1",
)


def from_command(words: list[str]) -> object:
    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    return train.recipe_of(parser.parse_args(words))


@pytest.mark.parametrize("draft", [DRAFT, Draft(model="m", sources=("/r.jsonl",), goal="style",
                                                preset="quick")])  # fmt: skip
def test_file_and_command_make_the_same_recipe(draft: Draft, tmp_path: Path) -> None:
    advice = advice_for(draft, FACTS)
    recipe = draft.recipe(advice)
    text = draft.yaml(advice)
    assert with_settings(yaml.safe_load(text), []) == recipe
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert from_command(["train", str(path)]) == recipe
    words = shlex.split(draft.command(advice))
    found = from_command(words[1:])
    assert getattr(found, "training", None) == recipe.training
    assert getattr(found, "model", recipe.model).base == recipe.model.base
    assert getattr(found, "evaluation", recipe.evaluation) == recipe.evaluation
    assert getattr(found, "data", None) == recipe.data
    assert getattr(found, "publish", None) == recipe.publish


def test_each_number_stands_beside_its_reason_until_a_person_changes_it() -> None:
    text = DRAFT.yaml(advice_for(DRAFT, FACTS))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert "#" in lines["lora_r"]
    assert "#" not in lines["learning_rate"]
    assert "3.0e-05" in lines["learning_rate"]


def test_no_reason_stands_beside_another_number() -> None:
    then = '[{"data": {"sources": ["/b.jsonl"]}, "training": {"lora_r": 4, "learning_rate": 0.5}}]'
    draft = replace(DRAFT, settings={"training.lora_alpha": "7"}, then=then)
    text = draft.yaml(advice_for(draft, FACTS))
    assert [line for line in text.splitlines() if "lora_alpha" in line] == ["  lora_alpha: 7.0"]
    assert "#" not in text.partition("\nthen:")[2].partition("\nevaluation:")[0]


def test_a_draft_is_kept_and_forgotten() -> None:
    assert kept_draft() is None
    assert keep_draft(DRAFT)
    assert kept_draft() == DRAFT
    forget_draft(DRAFT)
    assert kept_draft() is None


def test_drafts_of_several_models_and_rows_are_kept() -> None:
    other = replace(DRAFT, sources=("/data/other.jsonl",))
    begun = Draft(model="gemma3:4b")
    for draft in (DRAFT, other, begun):
        keep_draft(draft)
    assert kept_drafts() == [begun, other, DRAFT]
    assert kept_draft(DRAFT.model, DRAFT.store) == other
    assert kept_draft("gemma3:4b") == begun
    grown = replace(begun, sources=("/r.jsonl",))
    keep_draft(grown)
    assert begun not in kept_drafts(), "the same draft with its rows takes its place"
    forget_draft(other)
    assert kept_drafts() == [grown, DRAFT]
    for number in range(20):
        keep_draft(replace(DRAFT, model=f"m{number}"))
    assert len(kept_drafts()) == 8


def test_a_home_that_cannot_be_written_to_is_told() -> None:
    paths.home().parent.mkdir(parents=True, exist_ok=True)
    paths.home().write_text("a file where the folder would be")
    assert not keep_draft(DRAFT)
    assert kept_drafts() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 7}', '{"sources": 3}', '{"new": 1}'])
def test_a_draft_that_makes_no_sense_is_not_offered(text: str) -> None:
    folder = paths.home() / "drafts"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(text)
    found = kept_draft()
    assert found is None or found == Draft()


def test_questions_are_asked_once_and_know_their_options() -> None:
    questions = [question for step in STEPS for question in step.questions]
    assert len({question.key for question in questions}) == len(questions)
    for question in questions:
        assert hasattr(Draft(), question.key)
        assert question.flag.startswith("--")
        assert question.help.endswith((".", "answer", "?"))
        if question.kind is Kind.CHOICE and question.key != "model":
            assert question.options(DRAFT, FACTS)


def test_what_stands_open_is_what_must_be_said() -> None:
    assert [q.flag for q in open_questions(Draft(), FACTS)] == [
        "--model", "--from", "--data", "--held-out", "--goal", "--preset"
    ]  # fmt: skip
    assert open_questions(DRAFT, FACTS) == []
    prompt = Draft(model="m", base="gguf", sources=("a",), held_out="0", goal="prompt")
    assert [q.flag for q in open_questions(prompt, FACTS)] == ["--system"]


@pytest.mark.parametrize(
    ("key", "answer", "words"),
    [
        ("model", "none", "no model"),
        ("base", "no", "gguf"),
        ("full_base", "no such/base/name", "OWNER/NAME"),
        ("sources", ("/nowhere/x.jsonl",), "no file"),
        ("map", "=", ""),
        ("settings", "learning_rate=fast", "learning_rate"),
        ("settings", "lerning_rate=1", "Did you mean"),
        ("name", "../x", ""),
        ("publish", "a b", ""),
        ("publish", "qwen2.5:3B", "itself"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_in_words(key: str, answer: object, words: str) -> None:
    question = next(q for step in STEPS for q in step.questions if q.key == key)
    problem = question.problem(answer, DRAFT, FACTS)
    assert problem
    assert words.lower() in problem.lower()


def test_settings_are_taken_as_words() -> None:
    question = next(q for step in STEPS for q in step.questions if q.key == "settings")
    assert taken(question, "a=1  b=x", DRAFT, FACTS) == {"settings": {"a": "1", "b": "x"}}
    assert settings_of("") == {}
