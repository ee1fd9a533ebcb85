"""The shipped map is sound in every entry, and a user's own may replace parts of it."""

from pathlib import Path

import pytest
import yaml

from llamaforge import paths
from llamaforge.catalog.base_map import (
    BaseMap,
    Checkpoint,
    is_repo,
    load_base_map,
    without_quantization,
)
from llamaforge.errors import InvalidFileError

SHIPPED = load_base_map(own=False)
CHECKPOINTS = list(SHIPPED.checkpoints())
TOP = Path(__file__).parents[3]


def test_the_file_at_the_top_is_the_one_in_the_package() -> None:
    assert (TOP / "model_map.yaml").resolve() == (TOP / "llamaforge/model_map.yaml").resolve()


@pytest.mark.parametrize("family", SHIPPED.families)
def test_every_family_is_sound(family: str) -> None:
    checkpoints = list(SHIPPED.checkpoints(family))
    tags = [tag for checkpoint in checkpoints for tag in checkpoint.tags]
    assert tags.count("latest") <= 1
    assert len(tags) == len(set(tags))
    assert all(tag == without_quantization(tag) for tag in tags)
    assert all(checkpoint.tags for checkpoint in checkpoints)
    repos = [checkpoint.repo for checkpoint in checkpoints]
    assert len(repos) == len(set(repos))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda found: found.repo)
def test_every_entry_is_sound(checkpoint: Checkpoint) -> None:
    assert is_repo(checkpoint.repo)
    shape = checkpoint.shape
    if shape.heads and shape.kv_heads:
        assert shape.heads % shape.kv_heads == 0
    if shape.vocab:
        assert 10_000 < shape.vocab < 1_000_000
    if shape.hidden:
        assert shape.hidden % 64 == 0
    assert checkpoint.license
    base_words = ("base", "text", "pt", "code", "python")
    says_base = {any(word in tag.split("-") for word in base_words) for tag in checkpoint.tags}
    if checkpoint.kind == "instruct":
        assert says_base == {False}


@pytest.mark.parametrize(
    ("name", "tag", "repo"),
    [
        ("qwen2.5", "3b", "Qwen/Qwen2.5-3B-Instruct"),
        ("qwen2.5", "3b-instruct-q4_K_M", "Qwen/Qwen2.5-3B-Instruct"),
        ("qwen2.5", "3b-base", "Qwen/Qwen2.5-3B"),
        ("qwen2.5", "0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("qwen2.5", "latest", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen2.5-Coder", "1.5B-BASE-Q8_0", "Qwen/Qwen2.5-Coder-1.5B"),
        ("llama3.2", "1b", "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama3.2", "3b-text-q4_0", "meta-llama/Llama-3.2-3B"),
        ("llama3.1", "8b-instruct-fp16", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama2", "7b-chat-q4_0", "meta-llama/Llama-2-7b-chat-hf"),
        ("mistral", "7b-instruct-v0.2-q5_K_M", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("mistral", "latest", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("deepseek-r1", "8b-llama-distill-q4_K_M", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("gemma3", "4b-it-q8_0", "google/gemma-3-4b-it"),
        ("gemma3", "4b-it-qat", "google/gemma-3-4b-it-qat-q4_0-unquantized"),
        ("gpt-oss", "20b", "openai/gpt-oss-20b"),
        ("codellama", "7b-code-q4_0", "codellama/CodeLlama-7b-hf"),
        ("smollm2", "135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_tags_of_the_library_mean_one_checkpoint(name: str, tag: str, repo: str) -> None:
    found = SHIPPED.by_tag(name, tag)
    assert found is not None
    assert found.repo == repo


@pytest.mark.parametrize(
    ("name", "tag"), [("qwen2.5", "4b"), ("qwen2.5", "3b-mine"), ("mario", "latest"), ("", "")]
)
def test_what_the_library_does_not_have_is_nothing(name: str, tag: str) -> None:
    assert SHIPPED.by_tag(name, tag) is None


@pytest.mark.parametrize(
    ("tag", "plain"),
    [
        ("3b-instruct-q4_K_M", "3b-instruct"),
        ("8b-fp16", "8b"),
        ("7b-iq4_xs", "7b"),
        ("20b-mxfp4", "20b"),
        ("4b-it-qat", "4b-it-qat"),
        ("7b-v0.2-Q8_0", "7b-v0.2"),
        ("q4_0", "q4_0"),
    ],
)
def test_quantisations_are_no_part_of_a_tag(tag: str, plain: str) -> None:
    assert without_quantization(tag) == plain


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/b/c", "../etc/passwd", "a/..", "a/b..c", "a--b/c", "/a/b", "a/b\n", "a/ b", "a/b.",
     "é/b", "a/" + "b" * 200],
)  # fmt: skip
def test_what_is_no_repository_is_refused(text: str) -> None:
    assert not is_repo(text)


# A user's own map

OWN = {
    "version": 1,
    "families": [
        {
            "library": "qwen2.5",
            "architecture": "qwen2",
            "license": "mine",
            "sizes": {
                "3b": {
                    "shape": {"layers": 2},
                    "checkpoints": [{"repo": "me/mine", "kind": "instruct", "tags": ["3b"]}],
                }
            },
        }
    ],
}


def write_own(body: object) -> Path:
    path = paths.home() / "model_map.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body if isinstance(body, str) else yaml.safe_dump(body))
    return path


def repo(found: BaseMap, family: str, tag: str) -> str | None:
    checkpoint = found.by_tag(family, tag)
    return checkpoint.repo if checkpoint else None


def test_a_users_own_family_replaces_the_shipped_one() -> None:
    write_own(OWN)
    found = load_base_map()
    assert repo(found, "qwen2.5", "3b") == "me/mine"
    assert repo(found, "qwen2.5", "7b") is None
    assert repo(found, "llama3.2", "1b") == "meta-llama/Llama-3.2-1B-Instruct"
    assert repo(load_base_map(own=False), "qwen2.5", "7b") == "Qwen/Qwen2.5-7B-Instruct"


def test_a_changed_file_is_read_again() -> None:
    path = write_own(OWN)
    load_base_map()
    path.write_text(yaml.safe_dump(OWN).replace("me/mine", "me/other"))
    assert repo(load_base_map(), "qwen2.5", "3b") == "me/other"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("version: [", "not YAML in line"),
        ("- a", "no such map"),
        ("version: 2\nfamilies: []", "version"),
        ({**OWN, "more": 1}, "more"),
        (yaml.safe_dump(OWN).replace("me/mine", "../x"), "names no repository"),
        (yaml.safe_dump(OWN).replace("kind: instruct", "kind: chat"), "kind"),
        ({**OWN, "families": OWN["families"] * 2}, "twice"),  # type: ignore[operator]
        ("version: 1\nversion: 1\nfamilies: []", "twice"),
        (yaml.safe_dump(OWN).replace("layers: 2", "layers: -2"), "layers"),
        (b"\xff\xfe".decode("latin-1"), "map"),
    ],
)
def test_a_map_that_is_not_sound_is_refused_with_its_place(body: object, said: str) -> None:
    path = write_own(body)
    with pytest.raises(InvalidFileError) as caught:
        load_base_map()
    assert said in caught.value.message
    assert path.name in caught.value.message
    assert "docs/model-map.md" in caught.value.hint
