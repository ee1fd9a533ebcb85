"""What a model was made from: evidence in its order, held against the file, never assumed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaforge import paths
from llamaforge.catalog.base import Base, find_base
from llamaforge.catalog.base_choices import forget_base, remember_base, remembered_bases
from llamaforge.catalog.base_map import load_base_map
from llamaforge.catalog.manifest import Layer
from llamaforge.catalog.model import StoredModel
from llamaforge.errors import InvalidFileError, UsageError

MAP = load_base_map(own=False)
QWEN_3B = {
    "qwen2.block_count": 36,
    "qwen2.embedding_length": 2048,
    "qwen2.attention.head_count": 16,
    "qwen2.attention.head_count_kv": 2,
}
HEADER = {"architecture": "GGUF header"}


def model(
    name: str = "registry.ollama.ai/library/qwen2.5:3b",
    *,
    architecture: str = "qwen2",
    sizes: dict[str, Any] | None = None,
    vocab: int = 151_936,
    config: dict[str, Any] | None = None,
    from_: str = "",
    general: dict[str, str] | None = None,
) -> StoredModel:
    """Return a model with Qwen2.5 3B's sizes; `general` has header keys below `general.`."""
    details = dict(QWEN_3B if sizes is None else sizes)
    details |= {f"general.{key}": value for key, value in (general or {}).items()}
    return StoredModel(
        name=name.removeprefix("registry.ollama.ai/library/"),
        full_name=name,
        architecture=architecture,
        blob_digest="d" * 64,
        vocab_size=vocab,
        tensor_types={"Q4_K": 1},
        details=details,
        sources=HEADER,
        config=config or {},
        layers=(Layer("application/vnd.ollama.image.model", "d" * 64, 1, from_),),
    )


def base(found: StoredModel, **more: Any) -> Base:
    return find_base(found, MAP, **more)


def test_a_name_of_the_library_with_sizes_that_agree_is_likely() -> None:
    found = base(model())
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")
    assert "qwen2.5:3b" in found.evidence[0]
    assert "36 layers" in found.evidence[1]
    assert found.contradictions == ()
    assert found.checkpoint is not None
    assert found.checkpoint.license == "qwen-research"


def test_base_tags_mean_base_checkpoints() -> None:
    found = base(model("registry.ollama.ai/library/qwen2.5:3b-base-q8_0"))
    assert found.repo == "Qwen/Qwen2.5-3B"


def test_name_and_header_together_are_certain() -> None:
    found = base(model(general={"basename": "Qwen2.5", "size_label": "3B", "finetune": "Instruct"}))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "certain")


def test_sizes_that_contradict_make_it_a_guess_and_say_why() -> None:
    found = base(model(sizes=QWEN_3B | {"qwen2.block_count": 28, "qwen2.embedding_length": 3584}))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "guess")
    assert any("28 layers" in words and "36" in words for words in found.contradictions)
    assert set(found.contradictions) <= set(found.evidence)


def test_sizes_of_another_member_of_the_family_are_named() -> None:
    sizes = {
        "qwen2.block_count": 28,
        "qwen2.embedding_length": 3584,
        "qwen2.attention.head_count": 28,
        "qwen2.attention.head_count_kv": 4,
    }
    found = base(model(sizes=sizes, vocab=152_064))
    assert found.confidence == "guess"
    assert any("size 7b" in words for words in found.evidence)


def test_another_architecture_rules_a_base_out() -> None:
    found = base(model(architecture="llama", sizes={"llama.block_count": 36}))
    assert (found.repo, found.confidence) == (None, "unknown")
    assert any("architecture" in words for words in found.evidence)


def test_padding_of_the_vocabulary_is_no_contradiction() -> None:
    assert base(model(vocab=151_665)).contradictions == ()
    assert base(model(vocab=32_000)).contradictions != ()


def test_the_same_name_from_elsewhere_is_weaker() -> None:
    found = base(model("registry.ollama.ai/someone/qwen2.5:3b"))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")
    without = base(model("registry.ollama.ai/someone/qwen2.5:3b", sizes={}, vocab=0))
    assert without.confidence == "guess"


@pytest.mark.parametrize(
    "name", ["registry.ollama.ai/library/mario:latest", "registry.ollama.ai/library/qwen2.5:mine"]
)
def test_without_evidence_it_stays_unknown(name: str) -> None:
    found = base(model(name))
    assert (found.repo, found.confidence) == (None, "unknown")
    assert found.evidence


def test_a_tag_that_the_map_lacks_is_said_with_those_it_has() -> None:
    (words,) = base(model("registry.ollama.ai/library/qwen2.5:mine")).evidence
    assert "mine" in words
    assert "3b" in words


def test_shared_weights_tell_what_a_derived_model_is() -> None:
    names = {"d" * 64: ["registry.ollama.ai/library/mario:latest",
                        "registry.ollama.ai/library/qwen2.5:3b"]}  # fmt: skip
    found = base(model("registry.ollama.ai/library/mario:latest"), names_of_blob=names)
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")
    assert "same weights as qwen2.5:3b" in found.evidence[0]


def test_the_parent_of_a_derived_model_counts() -> None:
    found = base(model("registry.ollama.ai/library/mario:latest", from_="qwen2.5:3b"))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")


def test_the_config_layer_counts() -> None:
    name = "registry.ollama.ai/library/mario:latest"
    found = base(model(name, config={"base_name": "Qwen/Qwen2.5-3B-Instruct"}))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")


# Models from the Hub


@pytest.mark.parametrize("host", ["hf.co", "huggingface.co"])
def test_a_base_that_the_header_names_is_certain(host: str) -> None:
    found = base(
        model(
            f"{host}/bartowski/Qwen2.5-3B-Instruct-GGUF:Q4_K_M",
            general={"base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct"},
        )
    )
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "certain")


def test_the_parent_of_a_tuned_model_is_not_taken_for_the_model() -> None:
    found = base(
        model(
            "hf.co/bartowski/Qwen2.5-3B-Instruct-GGUF:Q4_K_M",
            general={
                "basename": "Qwen2.5",
                "size_label": "3B",
                "finetune": "Instruct",
                "base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-3B",
            },
        )
    )
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "certain")


def test_a_repository_named_after_a_known_one_is_likely() -> None:
    found = base(model("hf.co/unsloth/Qwen2.5-3B-Instruct-GGUF:Q4_K_M"))
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "likely")


def test_an_unknown_repository_without_its_ending_is_a_guess() -> None:
    found = base(model("hf.co/someone/My-Model-GGUF:Q4_K_M"))
    assert (found.repo, found.confidence) == ("someone/My-Model", "guess")


@pytest.mark.parametrize(
    "url",
    ["https://huggingface.co/../../etc/passwd", "file:///etc/passwd", "https://evil.example/a/b",
     "https://huggingface.co/a/b\x1b[2J", "/etc/passwd", "a/b/../c", "https://huggingface.co/"],
)  # fmt: skip
def test_addresses_that_are_none_are_no_evidence(url: str) -> None:
    found = base(
        model(
            "registry.ollama.ai/library/x:1",
            general={"base_model.0.repo_url": url, "source.url": url},
        )
    )
    assert (found.repo, found.confidence) == (None, "unknown")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    name=st.text(max_size=60),
    words=st.dictionaries(
        st.sampled_from(
            ["name", "basename", "finetune", "size_label", "base_model.0.repo_url", "source.url"]
        ),
        st.text(max_size=40),
    ),
    sizes=st.dictionaries(st.sampled_from(sorted(QWEN_3B)), st.integers(-5, 2**40)),
    from_=st.text(max_size=40),
)  # fmt: skip
def test_whatever_a_model_says_there_is_a_verdict_with_evidence(
    name: str, words: dict[str, str], sizes: dict[str, int], from_: str
) -> None:
    found = base(model(name, sizes=sizes, from_=from_, general=words))
    assert found.evidence
    assert (found.repo is None) == (found.confidence == "unknown")
    if found.confidence == "certain":
        assert not found.contradictions


# What a person said


def test_what_a_person_said_is_certain_and_kept(tmp_path: Path) -> None:
    mine = model("registry.ollama.ai/library/mario:latest")
    assert remember_base(mine, " https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/ ") == (
        "Qwen/Qwen2.5-3B-Instruct"
    )
    found = base(mine, chosen=remembered_bases())
    assert (found.repo, found.confidence) == ("Qwen/Qwen2.5-3B-Instruct", "certain")
    assert found.evidence[0] == "You said so."
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert remember_base(mine, str(folder)) == str(folder)
    assert base(mine, chosen=remembered_bases()).repo == str(folder)
    assert forget_base(mine)
    assert not forget_base(mine)
    assert remembered_bases() == {}


def test_what_a_person_said_is_still_held_against_the_file() -> None:
    mine = model(sizes=QWEN_3B | {"qwen2.block_count": 2})
    remember_base(mine, "Qwen/Qwen2.5-3B-Instruct")
    found = base(mine, chosen=remembered_bases())
    assert found.confidence == "certain"
    assert found.contradictions


@pytest.mark.parametrize("text", ["", "qwen", "a/b/c", "../x", "/no/such/folder", "a/b\x00"])
def test_what_names_no_base_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        remember_base(model(), text)


def test_a_model_without_weights_has_no_base_to_remember() -> None:
    with pytest.raises(UsageError):
        remember_base(StoredModel("a:b", "a:b"), "a/b")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "[" * 5000])
def test_a_damaged_file_of_choices_is_named(text: str) -> None:
    path = paths.home() / "bases.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(InvalidFileError, match=r"bases\.json"):
        remembered_bases()
