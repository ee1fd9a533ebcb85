"""Stores: where models lie, what is known of a sound one, and how one is found."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llamaforge.catalog.blob import BlobFacts, read_facts
from llamaforge.catalog.model import ModelStatus
from llamaforge.catalog.store import Store
from llamaforge.errors import (
    ExitCode,
    NotFoundError,
    UsageError,
)
from llamaforge.gguf.types import TensorType
from tests.unit.catalog.store_builder import CONFIG_TYPE, Gguf, StoreBuilder


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "store")


# What is known of a sound model


def test_a_sound_model_is_ready_with_all_its_facts(builder: StoreBuilder) -> None:
    layers = [
        ("template", b"{{ .Prompt }} {{ .Tools }}"),
        ("system", "Be gút.".encode()),
        ("params", b'{"temperature": 0.5, "stop": ["<|im_end|>"]}'),
        ("license", b"one"),
        ("license", b"two"),
        ("messages", b'[{"role": "user", "content": "hi"}]'),
    ]
    config = {"model_family": "llama", "file_type": "F16", "renderer": "r", "os": "linux"}
    gguf = Gguf().bytes()
    manifest = builder.add("tiny:1m", gguf, config=config, layers=layers)
    path = builder.manifest_path("tiny:1m")
    os.utime(path, (1e9, 1e9))

    model = Store.open(builder.root).require_trainable("tiny:1m")

    assert model == builder.only()
    assert (model.name, model.full_name) == ("tiny:1m", "registry.ollama.ai/library/tiny:1m")
    assert (model.status, model.reason, model.problem) == (ModelStatus.READY, "", None)
    assert model.manifest == path
    assert model.modified == datetime.fromtimestamp(1e9, UTC)
    parts = [manifest["config"], *manifest["layers"]]
    assert model.size_bytes == sum(part["size"] for part in parts)
    assert model.blob == builder.blob(manifest["layers"][0]["digest"]).resolve()
    assert model.blob.read_bytes() == gguf
    assert model.blob_digest == manifest["layers"][0]["digest"].removeprefix("sha256:")
    assert model.template == "{{ .Prompt }} {{ .Tools }}"
    assert model.system == "Be gút."
    assert model.parameters == {"temperature": 0.5, "stop": ["<|im_end|>"]}
    assert model.licenses == ("one", "two")
    assert model.messages == ({"role": "user", "content": "hi"},)
    assert model.config == {"model_family": "llama", "file_type": "F16", "renderer": "r"}
    assert (model.architecture, model.context_length, model.vocab_size) == ("llama", 128, 32)
    assert model.parameter_count == 32 * 256 + 3 * 256 * 256 + 256
    assert model.quantization == "Q4_K_M"
    assert model.tensor_types == {"Q4_K": 2, "Q6_K": 2, "F32": 1}
    assert model.sources["quantization"] == "GGUF header"
    assert model.capabilities == ("completion", "tools")


@pytest.mark.parametrize(
    ("kind", "file_type", "shown"),
    [
        (TensorType.Q4_K, 15, "Q4_K_M"),
        (TensorType.Q4_K, 14, "Q4_K_S"),
        (TensorType.Q4_K, 7, "Q4_K"),  # the file claims Q8_0
        (TensorType.Q4_K, None, "Q4_K"),
        (TensorType.Q4_0, 15, "Q4_0"),
        (TensorType.Q4_0, 2, "Q4_0"),
        (TensorType.Q3_K, 13, "Q3_K_L"),
        (TensorType.IQ3_S, 27, "IQ3_M"),
        (TensorType.IQ2_XS, 28, "IQ2_S"),
        (TensorType.IQ4_XS, 30, "IQ4_XS"),
        (TensorType.F16, 999, "F16"),
        (TensorType.BF16, 32, "BF16"),
    ],
)
def test_quantization_is_counted_and_the_files_claim_only_used_where_it_agrees(
    builder: StoreBuilder, kind: TensorType, file_type: int | None, shown: str
) -> None:
    builder.add("m:x", Gguf(type=kind, file_type=file_type).bytes())
    assert builder.only().quantization == shown


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_trainable_architectures_are_ready(builder: StoreBuilder, architecture: str) -> None:
    builder.add("m:x", Gguf(architecture=architecture).bytes())
    assert Store.open(builder.root).require_trainable("m:x").architecture == architecture


def test_adapters_and_projectors_are_found(builder: StoreBuilder) -> None:
    layers = [("adapter", b"one"), ("adapter", b"two"), ("projector", b"eye")]
    builder.add("m:x", layers=layers)
    model = builder.only()
    assert [adapter.path.read_bytes() for adapter in model.adapters] == [b"one", b"two"]
    assert [path.read_bytes() for path in model.projectors] == [b"eye"]
    assert model.problem is not None
    assert model.problem.code == "has_adapter"
    assert "vision" in model.capabilities


def test_blobs_of_old_stores_have_a_colon_in_their_names(builder: StoreBuilder) -> None:
    builder.add("m:x")
    for path in builder.blobs.iterdir():
        path.rename(path.with_name(path.name.replace("sha256-", "sha256:")))
    assert builder.only().status is ModelStatus.READY


def test_an_old_prompt_layer_is_the_template_unless_there_is_one(builder: StoreBuilder) -> None:
    builder.add("a:x", layers=[("prompt", b"old")])
    builder.add("b:x", layers=[("template", b"new"), ("prompt", b"old")])
    assert [model.template for model in Store.open(builder.root).models()] == ["old", "new"]


def test_an_empty_config_digest_is_tolerated(builder: StoreBuilder) -> None:
    body = builder.add("m:x")
    builder.write_manifest("m:x", body | {"config": {"mediaType": CONFIG_TYPE, "digest": ""}})
    assert builder.only().status is ModelStatus.READY


def test_a_shared_blob_is_looked_into_once(
    builder: StoreBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tag in ("a", "b", "c"):
        builder.add(f"m:{tag}", Gguf().bytes())
    looked_into: list[Path] = []

    def counting(path: Path) -> BlobFacts:
        looked_into.append(path)
        return read_facts(path)

    monkeypatch.setattr("llamaforge.catalog.loader.read_facts", counting)
    assert len(Store.open(builder.root).models()) == 3
    assert len(looked_into) == 1


# Where models lie


def test_all_hosts_and_namespaces_are_listed_by_name(builder: StoreBuilder) -> None:
    for name in ("b:x", "a:x", "me/c:x", "hf.co/org/d:x"):
        builder.add(name, Gguf().bytes())
    names = [model.name for model in Store.open(builder.root).models()]
    assert names == ["a:x", "b:x", "hf.co/org/d:x", "me/c:x"]


def test_hidden_and_misplaced_files_are_passed_over(builder: StoreBuilder) -> None:
    builder.add("m:x")
    library = builder.manifests / "registry.ollama.ai" / "library"
    for junk in (
        builder.manifests / ".DS_Store",
        builder.manifests / "README",
        library / "notes.txt",
        library / "m" / ".x.swp",
        library / ".hidden" / "latest",
        library / "m" / "folder" / "deep",
    ):
        junk.parent.mkdir(parents=True, exist_ok=True)
        junk.write_text("{}")
    for name in ("sha256-partial", "COPY123", "split-gguf-1", "ollama-safetensors-9"):
        (builder.blobs / name).mkdir()
    assert builder.only().name == "m:x"


def test_an_empty_folder_is_a_store_without_models(tmp_path: Path) -> None:
    assert Store.open(tmp_path).models() == []


@pytest.mark.parametrize("moved", ["store", "manifests", "blobs"])
def test_a_store_moved_to_another_disk_by_a_link_works(
    builder: StoreBuilder, tmp_path: Path, moved: str
) -> None:
    builder.add("m:x")
    here = builder.root if moved == "store" else builder.root / moved
    there = tmp_path / "other_disk" / moved
    there.parent.mkdir()
    here.rename(there)
    here.symlink_to(there)
    assert builder.only().status is ModelStatus.READY


@pytest.mark.parametrize("bad", ["absent", "a\0b"])
def test_an_absent_store_is_not_found_with_a_way_on(tmp_path: Path, bad: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        Store.open(tmp_path / bad)
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    for way in ("--store DIR", "OLLAMA_MODELS", "llamaforge demo"):
        assert way in caught.value.hint


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFoundError) as caught:
        Store.open(tmp_path / "file")
    assert caught.value.code == "unreadable_store"


# Looking a model up


def test_look_up_is_case_insensitive_and_knows_the_defaults(builder: StoreBuilder) -> None:
    builder.add("Tiny:latest", Gguf().bytes())
    store = Store.open(builder.root)
    for name in ("tiny", "TINY:LATEST", "registry.ollama.ai/library/Tiny"):
        assert store.find(name).name == "Tiny:latest"


def test_of_two_names_that_differ_in_case_the_typed_one_is_found(builder: StoreBuilder) -> None:
    builder.add("tiny:x", Gguf().bytes())
    builder.add("Tiny:x", Gguf().bytes())
    store = Store.open(builder.root)
    assert [store.find(name).name for name in ("tiny:x", "Tiny:x")] == ["tiny:x", "Tiny:x"]


def test_an_unknown_name_gets_near_ones_offered(builder: StoreBuilder) -> None:
    builder.add("qwen2.5:3b", Gguf().bytes())
    builder.add("llama3.2:1b", Gguf().bytes())
    store = Store.open(builder.root)
    for typed in ("qwen2.5", "qwen25:3b", "Qwen2.5:7b"):
        with pytest.raises(NotFoundError) as caught:
            store.find(typed)
        assert caught.value.exit_code is ExitCode.NOT_FOUND
        assert "Did you mean qwen2.5:3b" in caught.value.hint


def test_near_names_are_like_the_model_and_not_like_the_tag(builder: StoreBuilder) -> None:
    builder.add("qwen2.5:3b", Gguf().bytes())
    builder.add("mario:latest", Gguf().bytes())
    store = Store.open(builder.root)
    for typed, hint in (("qwen", "Did you mean qwen2.5:3b?"), ("nope", "ollama pull nope:latest")):
        with pytest.raises(NotFoundError) as caught:
            store.find(typed)
        assert hint in caught.value.hint
        assert "mario" not in caught.value.hint


def test_a_name_like_no_other_gets_the_way_to_have_it(builder: StoreBuilder) -> None:
    with pytest.raises(NotFoundError, match="mistral:7b") as caught:
        Store.open(builder.root).find("mistral:7b")
    assert "ollama pull mistral:7b" in caught.value.hint


@pytest.mark.parametrize("name", ["../x", "a\0b", "", "x:../../y"])
def test_a_hostile_name_is_a_usage_error(builder: StoreBuilder, name: str) -> None:
    with pytest.raises(UsageError):
        Store.open(builder.root).find(name)
