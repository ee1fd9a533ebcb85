"""The ways to train: what each takes, which one suits, and why another cannot be chosen."""

from dataclasses import replace
from pathlib import Path

import pytest

from llamaforge.catalog.hub_cache import Cache
from llamaforge.catalog.model import StoredModel
from llamaforge.wizard.base_step import STEP, known_of_base
from llamaforge.wizard.bases import BaseFacts
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.question import Option

MODEL = StoredModel("qwen2.5:3b", "x", size_bytes=2_000_000_000, parameter_count=3_000_000_000)
BASE = BaseFacts(
    repo="Qwen/Qwen2.5-3B-Instruct",
    confidence="certain",
    evidence=("Its header names it.",),
    cache=Cache("absent", 0, 6_200_000_000, ("model.safetensors",), None, None),
    license="qwen-research",
    gated=True,
    must_fetch=True,
)
FACTS = Facts(Machine(8, 23_000_000_000, 1, has_bfloat16=True), (MODEL,), base=BASE)
DRAFT = Draft(model="qwen2.5:3b")


def ways(facts: Facts, draft: Draft = DRAFT) -> dict[str, Option]:
    return {way.value: way for way in STEP.questions[0].options(draft, facts)}


def test_the_file_is_recommended_where_it_fits_with_what_it_takes() -> None:
    own = ways(FACTS)["gguf"]
    assert "recommended" in own.title
    assert "about 4.1 GB of 23.0 GB" in own.explanation
    assert STEP.questions[0].default(DRAFT, FACTS) == "gguf"
    small = replace(FACTS, machine=Machine(8, 3_000_000_000, 1))
    assert "recommended" not in ways(small)["gguf"].title


def test_weights_that_are_not_here_say_what_they_cost() -> None:
    hub = ways(FACTS)["hub"]
    assert not hub.refusal
    assert "6.2 GB to download" in hub.explanation
    assert "Qwen/Qwen2.5-3B-Instruct" in hub.title
    words = dict(known_of_base(DRAFT, FACTS))
    assert "certain" in words["base"]
    assert words["licence"] == "qwen-research"
    assert "accept their terms" in words["gated"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (replace(FACTS, base=BaseFacts(refusal="nobody knows it")), "nobody knows it"),
        (replace(FACTS, base=replace(BASE, refusal="it has 36 layers")), "36 layers"),
        (replace(FACTS, machine=Machine(8, 5_000_000_000, 1)), "needs about"),
    ],
)
def test_what_cannot_be_chosen_says_why(facts: Facts, why: str) -> None:
    assert why in ways(facts)["hub"].refusal
    assert why in STEP.questions[0].problem("hub", DRAFT, facts)
    assert not ways(facts)["other"].refusal


def test_the_recipe_names_the_way_and_the_weights(tmp_path: Path) -> None:
    draft = replace(DRAFT, sources=(str(tmp_path),), base="hub")
    assert draft.recipe(()).training.base == "hub"
    assert draft.recipe(()).model.base is None
    named = replace(draft, base="other", full_base="maker/tiny").recipe(())
    assert (named.training.base, named.model.base) == ("hub", "maker/tiny")
    assert "base" not in replace(draft, base="gguf").body(())["training"]
