"""What stands in training's way is listed with the model, and refused by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamaforge.catalog.model import ModelStatus
from llamaforge.catalog.store import Store
from llamaforge.catalog.texts import MAX_TEXT_BYTES
from llamaforge.errors import (
    ExitCode,
    RefusedError,
)
from llamaforge.gguf.types import TensorType
from tests.unit.catalog.store_builder import CONFIG_TYPE, Gguf, StoreBuilder


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "store")


def refusal(builder: StoreBuilder, name: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        Store.open(builder.root).require_trainable(name)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.hint
    return caught.value


def _cut(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    path.write_bytes(path.read_bytes()[:-100])


def _grow(builder: StoreBuilder, body: dict[str, Any]) -> None:
    with builder.blob(body["layers"][0]["digest"]).open("ab") as file:
        file.write(b"more")


def _remove(builder: StoreBuilder, body: dict[str, Any]) -> None:
    builder.blob(body["layers"][0]["digest"]).unlink()


def _begin_download(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    path.rename(path.with_name(path.name + "-partial"))


def _link_out(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    outside = builder.root.parent / "outside.gguf"
    path.rename(outside)
    path.symlink_to(outside)


def _link_in_a_circle(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    path.unlink()
    path.symlink_to(path)


def _make_folder(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    path.unlink()
    path.mkdir()


def _make_pipe(builder: StoreBuilder, body: dict[str, Any]) -> None:
    path = builder.blob(body["layers"][0]["digest"])
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "status", "code", "said"),
    [
        (_remove, "missing_blob", "missing_blob", "is missing from the store"),
        (_begin_download, "partial", "partial_blob", "has not ended"),
        (_cut, "broken", "truncated_blob", "cut short"),
        (_grow, "broken", "truncated_blob", "damaged"),
        (_link_out, "broken", "outside_store", "leads out of the store"),
        (_link_in_a_circle, "broken", "unreadable", "cannot be read"),
        (_make_folder, "broken", "not_a_file", "not a regular file"),
        (_make_pipe, "broken", "not_a_file", "not a regular file"),
    ],
)
def test_a_spoiled_model_blob_is_listed_and_refused_by_name(
    builder: StoreBuilder,
    spoil: Callable[[StoreBuilder, dict[str, Any]], None],
    status: str,
    code: str,
    said: str,
) -> None:
    body = builder.add("m:x", config={"model_family": "llama", "file_type": "Q4_K_M"})
    builder.add("sound:x", Gguf(context_length=64).bytes())
    spoil(builder, body)
    models = {model.name: model for model in Store.open(builder.root).models()}
    bad = models["m:x"]
    assert models["sound:x"].status is ModelStatus.READY
    assert bad.status == status
    assert said in bad.reason
    assert body["layers"][0]["digest"][7:19] in bad.reason
    assert bad.blob is None
    # What the config layer claims is still told, and whose claim it is.
    assert (bad.architecture, bad.quantization) == ("llama", "Q4_K_M")
    assert bad.sources["architecture"] == "config layer"
    error = refusal(builder, "m:x")
    assert error.code == code
    assert said in error.message


UNTRAINABLE: dict[str, tuple[bytes | Gguf, str, str, str]] = {
    "text": (b"not a model at all, only text", "broken", "not_gguf", "not a GGUF file"),
    "magic": (b"GGUF", "broken", "broken_gguf", "only 4 bytes"),
    "empty": (b"", "broken", "broken_gguf", "only 0 bytes"),
    "cut": (Gguf().bytes()[:-4096], "broken", "truncated_gguf", "cut short"),
    "vocabulary": (Gguf(tensors=False), "broken", "no_weights", "no weights"),
    "mamba": (Gguf("mamba"), "unsupported", "unsupported_architecture", "mamba"),
    "experts": (
        Gguf("qwen2", extra={"qwen2.expert_count": 8}),
        "unsupported",
        "unsupported_architecture",
        "mixture of experts",
    ),
    "longrope": (
        Gguf(extra={"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}),
        "unsupported",
        "unsupported_variant",
        "longrope",
    ),
    "theta": (
        Gguf(extra={"llama.rope.freq_base": "many"}),
        "unsupported",
        "unsupported_variant",
        "rope freq base",
    ),
    "pooling": (
        Gguf(extra={"llama.pooling_type": 1}),
        "unsupported",
        "embedding_model",
        "embedding model",
    ),
    "split": (Gguf(extra={"split.count": 3}), "unsupported", "split_gguf", "several GGUF"),
    "wordpiece": (
        Gguf(extra={"tokenizer.ggml.model": "bert"}),
        "unsupported",
        "unsupported_tokenizer",
        "WordPiece",
    ),
    "pre-tokenizer": (
        Gguf(extra={"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "of-the-future"}),
        "unsupported",
        "unsupported_tokenizer",
        "of-the-future",
    ),
    "ended prompts": (
        Gguf(extra={"tokenizer.ggml.model": "t5"}),
        "unsupported",
        "unsupported_tokenizer",
        "after every prompt",
    ),
    "endless": (
        Gguf(extra={"tokenizer.ggml.model": "gpt2"}),
        "unsupported",
        "no_eos",
        "would never stop",
    ),
    "integers": (
        Gguf(extra_types={"blk.0.odd.weight": TensorType.I32}),
        "unsupported",
        "unsupported_type",
        "blk.0.odd.weight has the type I32",
    ),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_a_file_that_cannot_be_trained_says_why(builder: StoreBuilder, case: str) -> None:
    content, status, code, said = UNTRAINABLE[case]
    builder.add("m:x", content.bytes() if isinstance(content, Gguf) else content)
    model = builder.only()
    assert model.status == status
    assert said in model.reason
    assert "sha256-" not in model.reason
    error = refusal(builder, "M:x")
    assert (error.code, error.message.count("\n")) == (code, 0)
    assert said in error.message


def test_an_unknown_tensor_type_is_unsupported_by_name(builder: StoreBuilder) -> None:
    data = bytearray(Gguf().bytes())
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # dimensions, two lengths, then the type
    data[at : at + 4] = (77).to_bytes(4, "little")
    builder.add("m:x", bytes(data))
    model = builder.only()
    assert model.status is ModelStatus.UNSUPPORTED
    assert "'blk.0.attn_q.weight' has the unknown type number 77" in model.reason


@pytest.mark.parametrize("layers", [None, []])
def test_a_cloud_model_is_remote(builder: StoreBuilder, layers: Any) -> None:
    config = json.dumps({"remote_host": "https://cloud", "remote_model": "big"}).encode()
    entry = {"mediaType": CONFIG_TYPE, "digest": builder.put(config), "size": len(config)}
    builder.write_manifest("big:cloud", {"config": entry, "layers": layers})
    assert builder.only().status is ModelStatus.REMOTE
    assert refusal(builder, "big:cloud").code == "remote"


def test_a_safetensors_model_is_unsupported(builder: StoreBuilder) -> None:
    layers = [builder.layer("tensor", b"%d" % n) | {"name": f"t{n}"} for n in range(300)]
    builder.write_manifest("st:x", {"layers": layers})
    assert builder.only().status is ModelStatus.UNSUPPORTED
    assert "safetensors" in refusal(builder, "st:x").message


def test_two_model_layers_are_unsupported_and_one_named_twice_is_one(builder: StoreBuilder) -> None:
    one, two = Gguf().bytes(), Gguf(context_length=64).bytes()
    builder.add("m:x", one, layers=[("model", two)])
    assert refusal(builder, "m:x").code == "several_models"
    builder.add("m:x", one, layers=[("model", one)])
    assert builder.only().status is ModelStatus.READY


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("params", b"[1]", "the params layer"),
        ("params", b'{"a": NaN}', "the params layer"),
        ("params", b"[" * 100_000, "nested too deeply"),
        ("messages", b'{"role": "user"}', "the messages layer"),
        ("messages", b'[{"role": 1, "content": []}]', "the messages layer"),
        ("system", b"a" * (MAX_TEXT_BYTES + 1), "more than 1,048,576 bytes"),
        ("license", b"a" * (MAX_TEXT_BYTES + 1), "more than 1,048,576 bytes"),
    ],
)
def test_a_bad_text_layer_is_named(
    builder: StoreBuilder, kind: str, data: bytes, said: str
) -> None:
    builder.add("m:x", layers=[(kind, data)])
    assert builder.only().status is ModelStatus.BROKEN
    assert said in refusal(builder, "m:x").message


def test_a_text_named_a_thousand_times_is_not_read_a_thousand_times(builder: StoreBuilder) -> None:
    body = builder.add("m:x", layers=[("license", b"a" * MAX_TEXT_BYTES)])
    body["layers"] += [body["layers"][-1]] * 1000
    builder.write_manifest("m:x", body)
    model = builder.only()
    assert "together" in model.reason
    assert len(model.licenses) == 4


@pytest.mark.parametrize("kind", ["template", "license", "adapter", "projector"])
def test_a_missing_layer_beside_the_weights_is_named(builder: StoreBuilder, kind: str) -> None:
    body = builder.add("m:x", layers=[(kind, b"something")])
    builder.blob(body["layers"][1]["digest"]).unlink()
    model = builder.only()
    assert model.status is ModelStatus.MISSING_BLOB
    assert kind in model.reason
    assert model.blob is not None


@pytest.mark.parametrize("config", [b"[]", b"{", b"\xff" * 9])
def test_a_bad_config_blob_is_named(builder: StoreBuilder, config: bytes) -> None:
    body = builder.add("m:x")
    entry = {"mediaType": CONFIG_TYPE, "digest": builder.put(config), "size": len(config)}
    builder.write_manifest("m:x", body | {"config": entry})
    assert "the config blob" in refusal(builder, "m:x").message


def test_config_fields_of_the_wrong_kind_count_as_absent(builder: StoreBuilder) -> None:
    builder.add("m:x", config={"model_family": 5, "model_families": [1], "context_length": "x"})
    model = builder.only()
    assert model.config == {}
    assert model.status is ModelStatus.READY
