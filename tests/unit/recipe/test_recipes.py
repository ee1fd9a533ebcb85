"""A recipe becomes a spec with nothing left open, or a sentence says what is wrong with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from llamaforge.errors import UsageError
from llamaforge.export.mix import FILE_TYPES
from llamaforge.recipe.documents import parse, to_yaml
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.recipe.spec import (
    Quantization,
    Recipe,
    ResolvedBase,
    RunSpec,
)

FACTS = ModelFacts(
    store=Path("/store"),
    blob=Path("/store/blobs/sha256-0"),
    digest="sha256:0",
    architecture="llama",
    quantization="Q4_K_M",
    context_length=1024,
)
BODY: dict[str, Any] = {"model": {"name": "m"}, "data": {"sources": ["rows.jsonl"]}}


def recipe(*settings: str) -> Recipe:
    return with_settings(BODY, list(settings))


def test_every_default_is_written_out_and_read_back(tmp_path: Path) -> None:
    spec = resolve(recipe("lora_r=8"), FACTS, "run-1")
    path = tmp_path / "run.yaml"
    spec.save(path)
    assert RunSpec.load(path) == spec
    text = path.read_text()
    for key in type(spec.training).model_fields:
        assert f"{key}:" in text
    assert spec.training.compute_dtype in {"bfloat16", "float32"}
    assert spec.data.max_length == 1024
    assert spec.data.sources[0].place.is_absolute()
    assert {"llamaforge", "torch", "llama-cpp-python"} <= set(spec.program)


def test_the_longest_row_is_bounded_by_the_models_context() -> None:
    assert resolve(recipe("max_length=64"), FACTS, "r").data.max_length == 64
    with pytest.raises(UsageError, match="1,024") as caught:
        resolve(recipe("max_length=4096"), FACTS, "r")
    assert caught.value.code == "max_length"


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("learning_rate=2e-4", "learning_rate", 2e-4),
        ("training.lora_alpha=5", "lora_alpha", 5.0),
        ("use_rslora=true", "use_rslora", True),
        ("max_steps=null", "max_steps", None),
        ("target_modules=[q_proj, v_proj]", "target_modules", ["q_proj", "v_proj"]),
        ("lr_scheduler_type=linear", "lr_scheduler_type", "linear"),
    ],
)
def test_settings_are_read_as_yaml(setting: str, key: str, value: object) -> None:
    assert getattr(recipe(setting).training, key) == value


@pytest.mark.parametrize(
    "text", ["{{ messages }}", "{% if a == 1 %}x: y{% endif %}", "a=b={{ c }}", "chatml"]
)
def test_a_template_stays_text(text: str) -> None:
    assert recipe(f"chat_template={text}").model.chat_template == text


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("learning_rat=1", "unknown_key", "learning_rate"),
        ("learning_rate", "bad_setting", "KEY=VALUE"),
        ("learning_rate=-1", "bad_value", "learning_rate"),
        ("lora_r=many", "bad_value", "lora_r"),
        ("lora_r=0", "bad_value", "lora_r"),
        ("validation_fraction=0.9", "bad_value", "validation_fraction"),
        ("method=ppo", "bad_value", "method"),
        ("lora_r=[", "bad_setting", "lora_r"),
    ],
)
def test_what_is_wrong_is_named(setting: str, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(setting)
    assert caught.value.code == code
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_an_unknown_key_of_a_file_is_named_with_the_nearest() -> None:
    body = BODY | {"training": {"lora_rank": 3, "learning_rate": 1e-4}}
    with pytest.raises(UsageError) as caught:
        parse(Recipe, body, "recipe.yaml")
    assert "training.lora_rank" in caught.value.message
    assert "lora_r" in caught.value.hint


def test_a_recipe_is_yaml_that_reads_back() -> None:
    made = recipe("seed=4")
    import yaml

    assert parse(Recipe, yaml.safe_load(to_yaml(made)), "it") == made


def test_a_base_bounds_the_longest_row_and_is_written_out(tmp_path: Path) -> None:
    full = ResolvedBase(repo="a/b", revision="0" * 40, folder=tmp_path, chat_template=None)
    facts = replace(FACTS, full=full, positions=512)
    spec = resolve(recipe("base=hub"), facts, "r")
    assert spec.data.max_length == 512
    spec.save(tmp_path / "run.yaml")
    assert RunSpec.load(tmp_path / "run.yaml").model.full == full
    with pytest.raises(UsageError, match="512"):
        resolve(recipe("base=hub", "max_length=513"), facts, "r")


def test_where_every_weight_is_trained_steps_are_smaller_unless_said() -> None:
    whole = recipe("base=hub", "use_peft=false")
    assert resolve(whole, FACTS, "r").training.learning_rate == 2e-5
    said = recipe("base=hub", "use_peft=false", "learning_rate=2e-4")
    assert resolve(said, FACTS, "r").training.learning_rate == 2e-4
    assert resolve(recipe("base=hub"), FACTS, "r").training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("settings", "makes_adapter"),
    [([], True), (["use_rslora=true"], True), (["use_dora=true"], False),
     (["load_in_4bit=true"], True), (["use_peft=false"], False)],
)  # fmt: skip
def test_what_a_way_of_training_makes(settings: list[str], makes_adapter: bool) -> None:
    assert recipe("base=hub", *settings).training.makes_adapter is makes_adapter


@pytest.mark.parametrize("other", ["use_dora=true", "load_in_4bit=true"])
def test_without_an_adapter_there_is_nothing_of_one(other: str) -> None:
    with pytest.raises(UsageError, match="use_peft: false") as caught:
        recipe("base=hub", "use_peft=false", other)
    assert caught.value.code == "bad_value"


def test_a_quantisation_is_one_that_can_be_packed() -> None:
    assert set(get_args(Quantization)) == set(FILE_TYPES)
    assert recipe("quantization=Q8_0").publish.merged_name == "merged-Q8_0.gguf"
    with pytest.raises(UsageError):
        recipe("quantization=IQ2_XS")


DIVIDED = ("base=hub", "processes=2", "fsdp=true")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["processes=2", "fsdp=true"], "packed blocks are mapped from the file"),
        (["base=hub", "fsdp=true"], "there is one"),
        ([*DIVIDED, "use_peft=false"], "without an adapter"),
        ([*DIVIDED, "load_in_4bit=true"], "NF4"),
        ([*DIVIDED, "use_dora=true"], "DoRA"),
        ([*DIVIDED, "packing=true"], "keep the others waiting"),
        ([*DIVIDED, "method=dpo"], "reference"),
        ([*DIVIDED, "probe_prompts=[hello]"], "none has the whole model"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_reason(settings: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(*settings)
    assert said in caught.value.message
    assert recipe(*DIVIDED).launch.fsdp


def test_labels_are_what_their_method_takes() -> None:
    def preference(*settings: str) -> str:
        return resolve(recipe(*settings), FACTS, "r").data.preference

    assert preference("method=kto") == "labelled"
    assert preference("method=kto", "preference=labelled") == "labelled"
    for wrong in (["preference=labelled"], ["method=kto", "preference=chosen"]):
        with pytest.raises(UsageError):
            preference(*wrong)
    found = recipe("method=kto").training
    assert (found.desirable_weight, found.undesirable_weight, found.beta) == (1.0, 1.0, 0.1)
    with pytest.raises(UsageError, match="desirable_weight is a setting of the method kto"):
        recipe("desirable_weight=2")
