"""Models of a server whose store cannot be read here: listed, joined by digest, and explained."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.catalog import served as served_module
from llamaforge.catalog.host import Host, resolve_host
from llamaforge.catalog.inventory import Inventory
from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.catalog.store import Store
from llamaforge.errors import NotFoundError
from llamaforge.paths import StorePlace
from tests.contract.publishing.fake_ollama import FakeOllama, Fault
from tests.unit.catalog.store_builder import StoreBuilder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    with FakeOllama() as fake:
        monkeypatch.setenv("OLLAMA_HOST", fake.url)
        yield fake


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place of this machine's Ollama; nothing is there yet."""
    root = tmp_path / "store"
    monkeypatch.setattr(paths, "store_places", lambda: (StorePlace(root, "this user"),))
    return root


def listed() -> dict[str, StoredModel]:
    return {model.name: model for model in Inventory.open().models()}


def test_models_that_only_the_server_can_read_are_listed_with_what_it_says(
    server: FakeOllama, place: Path
) -> None:
    server.add("tiny:1b", "a" * 64, license="MIT License\n")
    model = listed()["tiny:1b"]
    assert (model.status, model.server) == (ModelStatus.MISSING_BLOB, server.url)
    assert "cannot be read by this user" in model.reason
    assert (model.architecture, model.parameter_count) == ("llama", 1_235_814_432)
    assert (model.quantization, model.context_length) == ("Q4_K_M", 8192)
    assert model.blob is None
    assert model.blob_digest == "a" * 64
    assert model.license_names == ("MIT",)
    assert model.capabilities == ("completion",)
    assert model.modified is not None
    assert model.modified.year == 2026
    assert model.sources["architecture"] == "server"
    assert model.store is None
    assert Inventory.open().find("TINY:1b").digest == model.digest


def test_a_model_on_another_machine_is_remote(
    server: FakeOllama, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("far:1", "a" * 64)

    def elsewhere(text: str | None = None) -> Host:
        return Host(resolve_host(text).url, "gpu-box", is_loopback=False)

    monkeypatch.setattr("llamaforge.catalog.inventory.resolve_host", elsewhere)
    model = listed()["far:1"]
    assert model.status is ModelStatus.REMOTE
    assert "not on this machine" in model.reason


def test_cloud_models_are_remote_and_not_asked_about(server: FakeOllama, place: Path) -> None:
    server.add("big:cloud", "a" * 64, remote_host="https://ollama.com")
    assert listed()["big:cloud"].status is ModelStatus.REMOTE
    assert server.requests("POST", "/api/show") == []


def test_what_disk_and_server_both_have_comes_once(server: FakeOllama, place: Path) -> None:
    builder = StoreBuilder(place)
    builder.add("both:1")
    builder.add("disk:1")
    server.add("both:1", "a" * 64, manifest_digest=builder_digest(builder, "both:1"))
    server.add("served:1", "b" * 64)
    found = listed()
    assert list(found) == ["both:1", "disk:1", "served:1"]
    assert (found["both:1"].status, found["both:1"].server) == (ModelStatus.READY, server.url)
    assert (found["disk:1"].status, found["disk:1"].server) == (ModelStatus.READY, "")
    assert found["served:1"].status is ModelStatus.MISSING_BLOB


def test_the_same_name_with_another_digest_is_another_model(
    server: FakeOllama, place: Path
) -> None:
    StoreBuilder(place).add("m:1")
    server.add("m:1", "a" * 64)
    models = list(Inventory.open().models())
    assert [(model.name, model.status.value) for model in models] == [
        ("m:1", "ready"),
        ("m:1", "missing_blob"),
    ]
    assert Inventory.open().find("m:1").status is ModelStatus.READY


def test_a_store_that_the_server_names_is_read_where_it_may_be(
    server: FakeOllama, place: Path, tmp_path: Path
) -> None:
    builder = StoreBuilder(tmp_path / "elsewhere")
    builder.add("m:1")
    server.add(
        "m:1",
        "a" * 64,
        store=str(builder.blobs),
        manifest_digest=builder_digest(builder, "m:1"),
    )
    (model,) = Inventory.open().models()
    assert (model.status, model.store) == (ModelStatus.READY, builder.root)


def test_a_server_cannot_name_any_folder_it_likes(
    server: FakeOllama, place: Path, tmp_path: Path
) -> None:
    builder = StoreBuilder(tmp_path / "elsewhere")
    builder.add("secret:1")
    for store in (str(builder.manifests), f"{builder.blobs}/..", str(builder.root)):
        server.models.clear()
        server.add("m:1", "a" * 64, store=store)
        assert list(listed()) == ["m:1"]


def test_without_a_server_and_a_store_the_store_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(NotFoundError, match="no Ollama store"):
        Inventory.open()


def test_a_server_that_was_named_and_does_not_answer_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StoreBuilder(place).add("m:1")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    inventory = Inventory.open()
    assert [problem.code for problem in inventory.problems] == ["no_server"]
    assert list(inventory.names) == ["m:1"]
    monkeypatch.setenv("OLLAMA_HOST", "no address at all")
    assert [problem.code for problem in Inventory.open().problems] == ["bad_host"]


@pytest.mark.parametrize(
    "fault",
    [Fault.GARBAGE, Fault.WRONG_SHAPE, Fault.SERVER_ERROR, Fault.CUT, Fault.DRIP, Fault.REDIRECT],
)
@pytest.mark.parametrize("path", ["/api/tags", "/api/show"])
def test_a_server_that_misbehaves_keeps_nobody_from_the_disk(
    server: FakeOllama, place: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, path: str
) -> None:
    monkeypatch.setattr(served_module, "_ANSWER_SECONDS", 0.3)
    StoreBuilder(place).add("mine:1")
    server.add("theirs:1", "a" * 64)
    server.fail(path, fault)
    began = time.monotonic()
    found = listed()
    assert found["mine:1"].status is ModelStatus.READY
    assert ("theirs:1" in found) == (path == "/api/show")
    assert time.monotonic() - began < 10


def test_names_and_words_of_a_server_are_taken_as_text(server: FakeOllama, place: Path) -> None:
    server.models["../../etc/passwd:\x1b[2J"] = server.add("x:1", "a" * 64)
    del server.models["x:1"]
    (model,) = Inventory.open().models()
    assert model.problem is not None
    assert "\x1b" not in model.name


def test_no_server_is_asked_where_a_store_was_chosen(server: FakeOllama, tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "chosen")
    builder.add("m:1")
    assert list(Inventory.open([builder.root]).names) == ["m:1"]
    assert server.seen == []


def builder_digest(builder: StoreBuilder, name: str) -> str:
    return Store.open(builder.root).find(name).digest
