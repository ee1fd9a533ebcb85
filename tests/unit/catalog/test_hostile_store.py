"""Listing never fails for one bad entry, and never reads outside the store."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamaforge.catalog.model import ModelStatus
from llamaforge.catalog.store import Store
from llamaforge.errors import (
    LlamaForgeError,
    NotFoundError,
    RefusedError,
)
from tests.unit.catalog.store_builder import IMAGE, Gguf, StoreBuilder
from tests.unit.catalog.test_manifest import MANIFESTS


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "store")


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Drop root's right to read everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which `tmp_path` is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_an_unreadable_store_is_named(open_folder: Path) -> None:
    builder = StoreBuilder(open_folder / "store")
    builder.root.chmod(0)
    with as_ordinary_user(), pytest.raises(NotFoundError, match="cannot be read") as caught:
        Store.open(builder.root)
    assert caught.value.code == "unreadable_store"
    assert "Permission denied" in caught.value.message


def test_what_may_be_read_is_listed_beside_the_reason_for_the_rest(open_folder: Path) -> None:
    builder = StoreBuilder(open_folder / "store")
    for name in ("a:x", "b:x", "closed/c:x"):
        builder.add(name, Gguf().bytes())
    builder.manifest_path("a:x").chmod(0)
    (builder.manifests / "registry.ollama.ai" / "closed").chmod(0)
    with as_ordinary_user():
        models = {model.name: model for model in Store.open(builder.root).models()}
    assert models["b:x"].status is ModelStatus.READY
    for name in ("a:x", "registry.ollama.ai/closed/…"):
        assert models[name].status is ModelStatus.BROKEN
        assert "Permission denied" in models[name].reason


def test_an_unreadable_blob_is_named(open_folder: Path) -> None:
    builder = StoreBuilder(open_folder / "store")
    body = builder.add("m:x")
    builder.blob(body["layers"][0]["digest"]).chmod(0)
    with as_ordinary_user():
        model = builder.only()
    assert model.status is ModelStatus.BROKEN
    assert "Permission denied" in model.reason


TRAVERSAL = {"layers": [{"mediaType": IMAGE + "model", "digest": "sha256:../x", "size": 1}]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "not sound JSON", id="empty"),
        pytest.param(b'{"layers": [{', "not sound JSON", id="torn"),
        pytest.param(b"[" * 200_000, "nested too deeply", id="deep"),
        pytest.param(b"{}" + b" " * 10_000_000, "more than 4,194,304 bytes", id="ten-megabytes"),
        pytest.param(b"{}", "names no model layer", id="no-layers"),
        pytest.param(json.dumps(TRAVERSAL).encode(), "not a sha256 digest", id="traversal"),
    ],
)
def test_a_bad_manifest_is_listed_with_its_reason(
    builder: StoreBuilder, data: bytes, said: str
) -> None:
    builder.add("good:x")
    builder.write_manifest("torn:x", data)
    good, torn = Store.open(builder.root).models()
    assert (good.name, good.status) == ("good:x", ModelStatus.READY)
    assert (torn.name, torn.status) == ("torn:x", ModelStatus.BROKEN)
    assert said in torn.reason
    with pytest.raises(RefusedError) as caught:
        Store.open(builder.root).require_trainable("torn:x")
    assert said in caught.value.message


def test_a_manifest_that_is_a_link_out_of_the_store_is_not_read(
    builder: StoreBuilder, tmp_path: Path
) -> None:
    builder.add("m:x")
    secret = tmp_path / "secret"
    builder.manifest_path("m:x").rename(secret)
    builder.manifest_path("m:x").symlink_to(secret)
    assert "leads out of the store" in builder.only().reason


def test_a_manifest_folder_that_is_a_link_out_of_the_store_is_not_entered(
    builder: StoreBuilder, tmp_path: Path
) -> None:
    elsewhere = StoreBuilder(tmp_path / "elsewhere")
    elsewhere.add("m:x")
    (builder.manifests / "evil").symlink_to(elsewhere.manifests / "registry.ollama.ai")
    model = builder.only()
    assert model.name == "evil/…"
    assert "leads out of the store" in model.reason


@pytest.mark.parametrize("target", ["nowhere", "x"])
def test_a_manifest_that_is_a_link_to_nothing_is_listed(builder: StoreBuilder, target: str) -> None:
    path = builder.manifest_path("m:x")
    path.parent.mkdir(parents=True)
    path.symlink_to(target)  # `x` is the link itself
    assert builder.only().status is ModelStatus.BROKEN


def test_a_manifest_that_is_a_pipe_does_not_hang_the_list(builder: StoreBuilder) -> None:
    path = builder.manifest_path("m:x")
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert "not a regular file" in builder.only().reason


@pytest.mark.parametrize("tag", ["-dash", "a b", "\x1b[31mred", "\u202ertl", "a\nb", "\udcff"])
def test_a_file_with_an_impossible_name_is_listed_as_broken(
    builder: StoreBuilder, tag: str
) -> None:
    path = builder.write_manifest("m:x", {}).with_name(tag)
    builder.manifest_path("m:x").rename(path)
    model = builder.only()
    assert model.status is ModelStatus.BROKEN
    assert "is not a model's name" in model.reason
    model.name.encode()
    assert "\x1b" not in model.reason


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(body=MANIFESTS)
def test_listing_never_raises_whatever_a_manifest_says(
    tmp_path_factory: pytest.TempPathFactory, body: Any
) -> None:
    builder = StoreBuilder(tmp_path_factory.mktemp("any") / "store")
    builder.write_manifest("m:x", json.dumps(body).encode())
    model = builder.only()
    assert model.status is not ModelStatus.READY
    assert model.reason
    with pytest.raises(LlamaForgeError):
        Store.open(builder.root).require_trainable("m:x")


SOUND_GGUF = Gguf().bytes()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=6))
def test_listing_never_raises_whatever_a_header_says(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(SOUND_GGUF)
    for at, value in changes:
        data[at] = value
    builder = StoreBuilder(tmp_path_factory.mktemp("any") / "store")
    builder.add("m:x", bytes(data))
    model = builder.only()
    assert (model.problem is None) == (model.reason == "")
    json.dumps(model.details, allow_nan=False).encode()
