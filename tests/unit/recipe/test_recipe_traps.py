"""A recipe that is no recipe is refused in a sentence, whatever it holds."""

import time
from pathlib import Path
from typing import Any

import pytest

from llamaforge.errors import UsageError
from llamaforge.recipe.documents import load_yaml, parse
from llamaforge.recipe.resolve import with_settings
from llamaforge.recipe.spec import Recipe


@pytest.mark.parametrize("text", ["[" * 5000, "when: 2024-13-45", "a: [", "\x00", "!!python/x []"])
def test_what_is_no_yaml_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml is not YAML"):
        load_yaml(path)


def test_what_is_no_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(UsageError, match="is not YAML"):
        load_yaml(path)


def test_a_list_that_names_itself_again_and_again_is_not_written_out(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    names = [f"*l{number}" for number in range(10)]
    lines += [f"l{n}: &l{n} [{', '.join([names[n - 1]] * 10)}]" for n in range(1, 10)]
    lines.append("data: {sources: [*l9]}")
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    body = {"model": {"name": "m"}, "data": load_yaml(path)["data"]}
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"data\.sources\.0"):
        parse(Recipe, body, "The recipe")
    assert time.monotonic() - started < 5


def test_a_value_that_is_wrong_is_masked() -> None:
    key = "ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1"
    with pytest.raises(UsageError) as caught:
        parse(Recipe, {"model": {"name": "m"}, "data": {"sources": ["a"], "images": key}}, "It")
    assert key[:12] not in caught.value.message
    with pytest.raises(UsageError) as caught:
        parse(Recipe, {"model": {"name": "m"}, "data": {"images": "hf_abcdefgh1234"}}, "It")
    assert "hf_" not in caught.value.message


def parsed(text: str, path: Path) -> Recipe:
    path.write_text(text)
    return parse(Recipe, load_yaml(path), "recipe.yaml")


HEAD = "model: {name: m}\ndata: {sources: [r.jsonl]}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {lora_r: 4}\ntraining: {lora_r: 8}", r"training twice .* lines 3 and 4"),
        ("training: {lora_r: 4, lora_r: 8}", "lora_r twice"),
        ("then:\n  - data:\n      sources: [a]\n      sources: [b]", r"lines 5 and 6"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parsed(HEAD + text, tmp_path / "r.yaml")
    assert caught.value.code == "key_twice"


def test_anchors_and_parts_that_are_laid_over_another_are_understood(tmp_path: Path) -> None:
    text = "training: &first {lora_r: 4}\nthen:\n- data: {sources: [b]}\n"
    recipe = parsed(f"{HEAD}{text}  training: {{<<: *first, seed: 2}}", tmp_path / "r.yaml")
    assert (recipe.then[0].training.lora_r, recipe.then[0].training.seed) == (4, 2)


def test_parts_of_which_only_the_title_is_there_are_left_out(tmp_path: Path) -> None:
    recipe = parsed(f"{HEAD}training:\nevaluation:\nlaunch:\npublish:\n", tmp_path / "r.yaml")
    assert recipe.evaluation.max_rows == 50


@pytest.mark.parametrize("section", ["evaluation", "launch", "training"])
def test_a_part_that_is_none_is_told_also_where_settings_are_laid_over_it(section: str) -> None:
    body = {"model": {"name": "m"}, "data": {"sources": ["a"]}, section: [1]}
    for settings in ([], ["max_rows=3", "processes=2", "seed=1"]):
        with pytest.raises(UsageError, match=f"{section} is not a list of settings") as caught:
            with_settings(body, settings)
        assert f"Write {section}:" in caught.value.hint
    assert with_settings(body | {section: None}, ["max_rows=3"]).evaluation.max_rows == 3


def test_what_is_missing_is_said_to_be_missing() -> None:
    with pytest.raises(UsageError, match=r"then\.0\.data is missing\.$"):
        parse(
            Recipe,
            {"model": {"name": "m"}, "data": {"sources": ["a"]}, "then": [{"training": {}}]},
            "It",
        )


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate(40_000_000_000)  # a hole: it takes no room
    with pytest.raises(UsageError, match="too large to be a recipe") as caught:
        load_yaml(path)
    assert "--model" in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        *((f"{key}={value}", "finite number") for value in ("nan", ".nan", "inf", "-inf", "1e309")
          for key in ("learning_rate", "lora_alpha", "weight_decay")),
        ("num_train_epochs=inf", "finite"),
        ("beta=.inf", "finite"),
        ("lora_r=true", "a number is wanted"),
        ("learning_rate=true", "a number is wanted"),
        ("max_steps=false", "a number is wanted"),
        ("max_length=true", "a number is wanted"),
        ("early_stopping_patience=yes", "a number is wanted"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=4294967296", "less than or equal"),
        ("per_device_train_batch_size=1000000000000", "less than or equal"),
        ("gradient_accumulation_steps=1000000000000", "less than or equal"),
        ("num_train_epochs=1e12", "less than or equal"),
        ("learning_rate=2026-13-45", "cannot be read"),
        ("learning_rate=" + "[" * 3000, "cannot be read"),
        ("target_modules=[]", "say all-linear"),
        ("target_modules=[1]", "say all-linear"),
        ("target_modules=5", "say all-linear"),
        ("rendezvous=a b; c:1", "write HOST:PORT"),
        ("rendezvous=host:123456", "write HOST:PORT"),
        ("interface=eth0 $(x)", "write its name"),
        ("use_rslora=true", "use_peft: false"),
    ],
)  # fmt: skip
def test_values_that_nothing_can_be_made_of_are_named(setting: str, said: str) -> None:
    body: dict[str, Any] = {"model": {"name": "m"}, "data": {"sources": ["a"]}}
    if said == "use_peft: false":
        body["training"] = {"base": "hub", "use_peft": False}
    with pytest.raises(UsageError) as caught:
        with_settings(body, [setting])
    assert said in caught.value.message
    assert setting.partition("=")[0] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"learning_rate": 1}, "It belongs elsewhere: training.learning_rate."),
        ({"training": {"fidelity_rows": 1}}, "It belongs elsewhere: evaluation.fidelity_rows."),
        ({"trainig": {}}, "Did you mean training?"),
        ({"training": {"lr": 1}}, "Did you mean learning_rate?"),
        ({"training": {"epochs": 1}}, "Did you mean num_train_epochs?"),
        ({"training": {"batch_size": 1}}, "Did you mean per_device_train_batch_size?"),
        ({"training": {"max_seq_length": 1}}, "Did you mean data.max_length?"),
        ({"evaluation": {"prob_prompts": []}}, "Did you mean probe_prompts?"),
        ({"launch": {"proceses": 2}}, "Did you mean processes?"),
        ({"publish": {"nmae": "x"}}, "Did you mean name?"),
        ({"model": {"name": "m", "chat_templat": "x"}}, "Did you mean chat_template?"),
        ({"data": {"sources": [{"path": "a", "wieght": 2}]}}, "Did you mean weight?"),
        ({"then": [{"data": {"sources": ["a"]}, "training": {"lora_rang": 2}}]}, "lora_r?"),
        ({"then": [{"data": {"sources": ["a"], "max_lenght": 9}}]}, "Did you mean max_length?"),
        ({"trust_remote_code": True}, "never run"),
        ({"model": {"name": "m", "trust_remote_code": True}}, "never run"),
        ({3: 4}, "Remove it"),
        ({"training": {None: 4}}, "Remove it"),
        ({"\x1b[2Jzz": 1}, "Remove it"),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant_in_its_part(
    body: dict[str, Any], said: str
) -> None:
    whole = {"model": {"name": "m"}, "data": {"sources": ["a"]}} | body
    with pytest.raises(UsageError) as caught:
        parse(Recipe, whole, "recipe.yaml")
    assert caught.value.code == "unknown_key"
    assert said in caught.value.hint
    assert "\x1b" not in caught.value.message


def test_what_other_programs_call_a_setting_is_known_on_the_command_line_too() -> None:
    body = {"model": {"name": "m"}, "data": {"sources": ["a"]}}
    for key, name in (("lr", "learning_rate"), ("epochs", "num_train_epochs")):
        with pytest.raises(UsageError) as caught:
            with_settings(body, [f"{key}=1"])
        assert caught.value.hint == f"Did you mean {name}?"
    with pytest.raises(UsageError, match="no setting 'weight'"):
        with_settings(body, ["weight=2"])  # of a source, and there may be several


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=kto", "packing=true"], "training: packing is a setting of the method sft"),
        (["use_dora=true"], "training: use_dora needs the full-precision base"),
        (["machines=2"], "launch: several machines need a rendezvous"),
    ],
)
def test_settings_that_do_not_go_together_are_told_without_writing_all_of_them_out(
    settings: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings({"model": {"name": "m"}, "data": {"sources": ["a"]}}, settings)
    assert caught.value.message.startswith(f"The recipe: {message}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lr_scheduler_type=constant", "warmup_steps=3"], "constant_with_warmup"),
        (["lr_scheduler_type=constant", "warmup_ratio=0.1"], "constant_with_warmup"),
        (["min_lr_rate=0.2"], "cosine_with_min_lr, polynomial and warmup_stable_decay"),
        (["lr_scheduler_type=polynomial", "decay_ratio=0.3"], "warmup_stable_decay"),
        (["optim=sgd", "adam_beta1=0.8"], "Adam"),
        (["early_stopping_threshold=0.1"], "the best checkpoint"),
    ],
)
def test_a_setting_that_nothing_would_listen_to_is_refused(settings: list[str], said: str) -> None:
    body = {"model": {"name": "m"}, "data": {"sources": ["a"]}}
    with pytest.raises(UsageError) as caught:
        with_settings(body, settings)
    assert "does nothing here" in caught.value.message
    assert said in caught.value.message
    heard = [
        *("lr_scheduler_type=warmup_stable_decay", "min_lr_rate=0.2", "decay_ratio=0.1"),
        *("warmup_steps=3", "adam_beta1=0.8", "early_stopping_patience=2"),
        "early_stopping_threshold=0.1",
    ]
    assert with_settings(body, heard).training.warmup_steps == 3
    written = with_settings(body, ["lr_scheduler_type=constant", "warmup_steps=0"])
    assert written.training.warmup_steps == 0


def test_a_word_that_is_no_choice_is_named_with_the_near_one() -> None:
    for setting, near in (
        ("lr_scheduler_type=cosin", "cosine"),
        ("optim=adamw_8bits", "adamw_8bit"),
        ("report_to=[tensor_board]", "tensorboard"),
        ("quantization=Q4_KM", "Q4_K_M"),
    ):
        with pytest.raises(UsageError) as caught:
            with_settings({"model": {"name": "m"}, "data": {"sources": ["a"]}}, [setting])
        assert caught.value.hint == f"Did you mean {near}?"


def test_what_is_text_stays_text_whatever_it_looks_like() -> None:
    body = {"model": {"name": "m"}, "data": {}}
    assert with_settings(body, ["snapshot=12345678"]).data.snapshot == "12345678"
    found = with_settings(body, ["snapshot=12e4", "rendezvous=10:20", "chat_template=null"])
    assert (found.data.snapshot, found.launch.rendezvous) == ("12e4", "10:20")
    assert found.model.chat_template is None


@pytest.mark.parametrize("key", ["trust_remote_code", "model.trust_remote_code", "zzz", ""])
def test_a_key_without_a_near_one_is_told_in_a_short_sentence(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings({"model": {"name": "m"}, "data": {"sources": ["a"]}}, [f"{key}=1"])
    assert len(caught.value.hint) < 80
    assert ("never run" in caught.value.hint) is ("trust" in key)


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b\n---\nc: d", "- !!python/x []"])
def test_what_is_no_yaml_is_told_with_its_line_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_yaml(tmp_path / "r.yaml")
    assert "line" in caught.value.message
    assert "unicode string" not in caught.value.message
    assert ": but " not in caught.value.message


def test_lists_of_names_may_be_written_as_a_person_types_them() -> None:
    body = {"model": {"name": "m"}, "data": {"sources": ["a"]}}
    found = with_settings(body, ["target_modules=q_proj, v_proj", "report_to=wandb,mlflow"])
    assert found.training.target_modules == ["q_proj", "v_proj"]
    assert found.training.report_to == ["wandb", "mlflow"]
    assert with_settings(body, ["target_modules=[all-linear]"]).training.target_modules == (
        "all-linear"
    )


def test_a_whole_model_learns_from_pairs_at_a_whole_models_rate() -> None:
    body = {"model": {"name": "m"}, "data": {"sources": ["a"]}}
    rates = [
        "learning_rate"
        in with_settings(body, ["method=orpo", "base=hub", *more]).training.model_fields_set
        for more in ([], ["use_peft=false"], ["use_peft=false", "learning_rate=1e-4"])
    ]
    assert rates == [True, False, True]
