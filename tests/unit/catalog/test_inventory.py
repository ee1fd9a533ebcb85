"""Several stores at once: one list, each model once, and what cannot be looked at is said."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.catalog.inventory import Inventory, disk_bytes
from llamaforge.catalog.model import ModelStatus
from llamaforge.catalog.store import Store
from llamaforge.errors import NotFoundError, RefusedError
from llamaforge.paths import StorePlace
from tests.unit.catalog.store_builder import Gguf, StoreBuilder


@pytest.fixture
def two(tmp_path: Path) -> tuple[StoreBuilder, StoreBuilder]:
    return StoreBuilder(tmp_path / "one"), StoreBuilder(tmp_path / "two")


def test_the_models_of_all_stores_are_one_list_by_name(
    two: tuple[StoreBuilder, StoreBuilder],
) -> None:
    one, other = two
    one.add("b:1")
    one.add("d:1")
    other.add("a:1")
    other.add("c:1")
    inventory = Inventory.open([one.root, other.root])
    found = list(inventory.models())
    assert [model.name for model in found] == ["a:1", "b:1", "c:1", "d:1"]
    assert list(inventory.names) == [model.name for model in found]
    assert [model.store for model in found] == [other.root, one.root] * 2


def test_the_same_model_in_two_stores_comes_once_with_both_places(
    two: tuple[StoreBuilder, StoreBuilder],
) -> None:
    for builder in two:
        builder.add("same:1")
    (model,) = Inventory.open([two[0].root, two[1].root]).models()
    assert (model.store, model.other_stores) == (two[0].root, (two[1].root,))


def test_of_the_same_model_the_whole_one_counts(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    for builder in two:
        body = builder.add("same:1")
    two[0].blob(body["layers"][0]["digest"]).unlink()
    (model,) = Inventory.open([two[0].root, two[1].root]).models()
    assert model.status is ModelStatus.READY
    assert (model.store, model.other_stores) == (two[1].root, (two[0].root,))


def test_one_name_with_two_contents_is_two_models(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    two[0].add("same:1", Gguf("unknown").bytes())
    two[1].add("same:1")
    inventory = Inventory.open([two[0].root, two[1].root])
    assert [model.status.value for model in inventory.models()] == ["unsupported", "ready"]
    # The one that can be trained is meant, wherever it lies.
    assert inventory.find("SAME:1").store == two[1].root
    assert inventory.require_trainable("same:1").store == two[1].root


def test_a_model_that_no_store_has_is_not_found_and_near_names_of_all_help(
    two: tuple[StoreBuilder, StoreBuilder],
) -> None:
    two[0].add("qwen2.5:3b")
    two[1].add("qwen2.5:7b")
    with pytest.raises(NotFoundError) as caught:
        Inventory.open([two[0].root, two[1].root]).find("qwen2.5:4b")
    assert str(two[0].root) in caught.value.message
    assert str(two[1].root) in caught.value.message
    assert "qwen2.5:3b or qwen2.5:7b" in caught.value.hint


def test_a_store_named_twice_is_read_once(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    two[0].add("a:1")
    link = two[0].root.parent / "link"
    link.symlink_to(two[0].root)
    assert len(list(Inventory.open([two[0].root, link, two[0].root]).models())) == 1


def test_a_named_store_that_is_absent_is_an_error(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    with pytest.raises(NotFoundError, match="no Ollama store"):
        Inventory.open([two[0].root, two[0].root / "absent"])


def test_shared_blobs_count_once(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    one = two[0]
    body = one.add("a:1", layers=[("license", b"x" * 100)])
    one.add("a:2", layers=[("license", b"x" * 100)])
    models = list(Inventory.open([one.root]).models())
    whole = body["config"]["size"] + sum(layer["size"] for layer in body["layers"])
    assert [model.size_bytes for model in models] == [whole, whole]
    assert disk_bytes(models) == whole
    two[1].add("a:1", layers=[("license", b"x" * 100)])
    assert disk_bytes(list(Inventory.open([one.root, two[1].root]).models())) == whole


def test_names_by_blob_tells_who_shares_weights(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    one = two[0]
    body = one.add("qwen2.5:3b")
    one.add("mario:latest", layers=[("system", b"You are Mario.")])
    one.add("other:1", Gguf(context_length=64).bytes())
    one.write_manifest("torn:1", b"{")
    digest = body["layers"][0]["digest"].removeprefix("sha256:")
    assert Inventory.open([one.root]).names_by_blob() == {
        digest: ["registry.ollama.ai/library/mario:latest", "registry.ollama.ai/library/qwen2.5:3b"]
    }


# The places that Ollama may have


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[StorePlace]:
    found = [StorePlace(tmp_path / "user", "this user"), StorePlace(tmp_path / "service", "it")]
    monkeypatch.setattr(paths, "store_places", lambda: tuple(found))
    return found


def test_all_places_that_exist_are_looked_at(places: list[StorePlace]) -> None:
    StoreBuilder(places[1].root).add("served:1")
    inventory = Inventory.open()
    assert [model.name for model in inventory.models()] == ["served:1"]
    assert inventory.problems == ()
    StoreBuilder(places[0].root).add("mine:1")
    assert list(Inventory.open().names) == ["mine:1", "served:1"]


def test_no_store_at_all_names_the_first_place(places: list[StorePlace]) -> None:
    with pytest.raises(NotFoundError) as caught:
        Inventory.open()
    assert str(places[0].root) in caught.value.message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may enter every folder")
def test_a_store_that_may_not_be_entered_is_said_and_the_rest_is_listed(
    places: list[StorePlace],
) -> None:
    StoreBuilder(places[0].root).add("mine:1")
    StoreBuilder(places[1].root)
    places[1].root.chmod(0)
    try:
        inventory = Inventory.open()
    finally:
        places[1].root.chmod(0o700)
    assert list(inventory.names) == ["mine:1"]
    assert [problem.code for problem in inventory.problems] == ["unreadable_store"]


def test_a_store_that_cannot_be_read_is_said_and_the_rest_is_listed(
    places: list[StorePlace], monkeypatch: pytest.MonkeyPatch
) -> None:
    StoreBuilder(places[0].root).add("mine:1")
    real = Store.open

    def open_store(root: Path) -> Store:
        if root == places[1].root:
            raise NotFoundError("It cannot be read.", "Ask.", code="unreadable_store")
        return real(root)

    monkeypatch.setattr(Store, "open", open_store)
    inventory = Inventory.open()
    assert list(inventory.names) == ["mine:1"]
    assert [problem.code for problem in inventory.problems] == ["unreadable_store"]
    monkeypatch.setattr(paths, "store_places", lambda: (places[1],))
    with pytest.raises(NotFoundError, match="cannot be read"):
        Inventory.open()


def test_the_places_are_those_of_ollama(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    roots = [str(place.root) for place in paths.store_places()]
    assert roots == [
        f"{tmp_path}/.ollama/models",
        "/usr/share/ollama/.ollama/models",
        "/var/lib/ollama/.ollama/models",
    ]
    monkeypatch.setenv("OLLAMA_MODELS", ' "/data/models" ')
    assert [str(place.root) for place in paths.store_places()] == ["/data/models", *roots]
    monkeypatch.setenv("OLLAMA_MODELS", f"{tmp_path}/.ollama/models/")
    assert [str(place.root) for place in paths.store_places()] == roots
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [str(place.root) for place in paths.store_places()] == roots[:1]


# What kinds of models there are besides


def adapter_file(**extra: str) -> bytes:
    keys: dict[str, int | str | float] = {"general.type": "adapter", "adapter.type": "lora"}
    keys.update(extra)
    return Gguf(extra=keys, tensors=False).bytes()


def test_a_model_that_this_program_published_names_its_run(
    two: tuple[StoreBuilder, StoreBuilder],
) -> None:
    own = adapter_file(
        **{
            "general.name": "night-1",
            "general.generated_by": "LlamaForge 0.1.0",
            "llamaforge.base.digest": "sha256:" + "b" * 64,
        }
    )
    two[0].add("mine:v1", layers=[("adapter", own)])
    model = two[0].only()
    (adapter,) = model.adapters
    assert adapter.is_own
    assert (adapter.name, adapter.made_by) == ("night-1", "LlamaForge 0.1.0")
    assert (adapter.base_digest, adapter.digest) == ("b" * 64, hashlib.sha256(own).hexdigest())
    assert adapter.path.read_bytes() == own
    assert (model.status, model.problem and model.problem.code) == ("unsupported", "has_adapter")
    assert "night-1" in model.reason
    with pytest.raises(RefusedError, match="night-1"):
        Inventory.open([two[0].root]).require_trainable("mine:v1")


@pytest.mark.parametrize("data", [adapter_file(), b"safetensors of some kind", b""])
def test_anyone_elses_adapter_is_not_taken_for_ours(
    two: tuple[StoreBuilder, StoreBuilder], data: bytes
) -> None:
    two[0].add("theirs:1", layers=[("adapter", data)])
    model = two[0].only()
    assert [adapter.is_own for adapter in model.adapters] == [False]
    assert model.status is ModelStatus.UNSUPPORTED
    assert "adapter" in model.reason


def test_models_that_make_pictures_say_so(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    builder = two[0]
    config = json.dumps({"model_format": "safetensors", "capabilities": ["image"]}).encode()
    tensor = builder.layer("tensor", b"weights") | {"name": "unet.weight"}
    body = {"config": builder.layer("config", config), "layers": [tensor]}
    builder.write_manifest("painter:x", body)
    model = builder.only()
    assert (model.status, model.capabilities) == (ModelStatus.UNSUPPORTED, ("image",))
    assert "pictures" in model.reason


def test_drafts_and_projectors_are_told_apart(two: tuple[StoreBuilder, StoreBuilder]) -> None:
    two[0].add("m:1", layers=[("draft", b"small"), ("projector", b"eyes")])
    model = two[0].only()
    assert [path.read_bytes() for path in model.drafts] == [b"small"]
    assert [path.read_bytes() for path in model.projectors] == [b"eyes"]
    assert model.status is ModelStatus.READY
    assert "vision" in model.capabilities


@pytest.mark.parametrize(
    ("go", "jinja", "expected"),
    [
        (b"{{ .Prompt }}", "", ("completion",)),
        (b"{{ .Tools }}", "", ("completion", "tools")),
        (b"{{ .Suffix }}{{ .Thinking }}", "", ("completion", "insert", "thinking")),
        (b"{{ .Prompt }}", "{{ tools }} <think>", ("completion", "tools", "thinking")),
        (None, "{{ tools }}", ("completion", "tools")),
    ],
)
def test_capabilities_follow_the_template_that_is_used(
    two: tuple[StoreBuilder, StoreBuilder],
    go: bytes | None,
    jinja: str,
    expected: tuple[str, ...],
) -> None:
    extra: dict[str, int | str | float] = {"tokenizer.chat_template": jinja} if jinja else {}
    layers = [("template", go)] if go is not None else []
    two[0].add("m:1", Gguf(extra=extra).bytes(), layers=layers)
    assert two[0].only().capabilities == expected
