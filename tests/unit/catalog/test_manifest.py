"""Manifests: read within bounds, unknown fields passed over, bad ones refused by name."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.catalog.bounded import MAX_JSON_DEPTH, parse_json
from llamaforge.catalog.manifest import MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from llamaforge.errors import InvalidFileError, LlamaForgeError

HEX = "ab" * 32


def layer(**changes: Any) -> dict[str, Any]:
    sound = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{HEX}",
        "size": 5,
    }
    return sound | changes


def parse(body: Any) -> Any:
    return parse_manifest(json.dumps(body).encode())


def test_layers_config_and_digest_are_read() -> None:
    data = json.dumps(
        {
            "schemaVersion": 2,
            "config": layer(mediaType="application/vnd.oci.image.config.v1+json"),
            "layers": [layer(name="n"), layer(**{"from": "base:1b"})],
        }
    ).encode()
    manifest = parse_manifest(data)
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    assert manifest.config is not None
    assert manifest.config.kind == "application/vnd.oci.image.config.v1+json"
    assert [item.kind for item in manifest.layers] == ["model", "model"]
    assert manifest.layers[0].digest == HEX
    assert (manifest.layers[0].name, manifest.layers[1].from_) == ("n", "base:1b")


@pytest.mark.parametrize("layers", [None, []])
def test_a_cloud_models_null_layers_are_no_layers(layers: Any) -> None:
    assert parse({"layers": layers}).layers == ()


@pytest.mark.parametrize("config", [None, {}, {"digest": ""}, {"digest": None, "size": 0}])
def test_an_empty_config_is_no_config(config: Any) -> None:
    assert parse({"config": config}).config is None


def test_unknown_fields_are_passed_over() -> None:
    manifest = parse({"layers": [layer(annotations={"a": [1]})], "subject": {"x": None}, "v": 9})
    assert len(manifest.layers) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "not a JSON object"),
        ({"layers": {}}, "not a list"),
        ({"layers": [None]}, "layer 1"),
        ({"layers": [layer(), layer(digest="")]}, "not a sha256 digest"),
        ({"layers": [layer(digest="sha256:../../../../etc/passwd")]}, "not a sha256 digest"),
        ({"layers": [layer(digest=f"sha256:{HEX}\x00")]}, "not a sha256 digest"),
        ({"layers": [layer(digest=5)]}, "no text as the digest"),
        ({"layers": [layer(mediaType=["x"])]}, "no text as the mediaType"),
        ({"layers": [layer(size=-1)]}, "no sound size"),
        ({"layers": [layer(size=True)]}, "no sound size"),
        ({"layers": [layer(size=1.5)]}, "no sound size"),
        ({"layers": [layer(size=2**63)]}, "no sound size"),
        ({"layers": [{"mediaType": "x", "digest": f"sha256:{HEX}"}]}, "no sound size"),
        ({"config": "x"}, "config"),
    ],
)
def test_a_field_without_a_sound_value_is_named(body: Any, said: str) -> None:
    with pytest.raises(InvalidFileError, match=re.escape(said)):
        parse(body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b'{"layers": [',
        b'{"layers": "\xff\xfe"}',
        b'{"size": NaN}',
        b'{"size": 1e999}',
        b'{"size": -Infinity}',
        b"9" * 5000,
        "\ufeff{}".encode(),
    ],
)
def test_torn_and_foreign_bytes_are_not_json(data: bytes) -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse_manifest(data)
    assert caught.value.code == "not_json"


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_at_any_depth(depth: int, opening: str, closing: str) -> None:
    body = opening * depth + "1" + closing * depth
    with pytest.raises(InvalidFileError, match="nested too deeply"):
        parse_manifest(body.encode())


def test_nesting_up_to_the_bound_is_read() -> None:
    value = parse_json(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH, "it")
    assert isinstance(value, list)


def test_lone_surrogates_become_replacement_characters() -> None:
    assert parse_json(rb'{"a\ud800": ["\udfff!"]}', "it") == {"a\ufffd": ["\ufffd!"]}


def test_a_ten_megabyte_manifest_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.write_bytes(b'{"layers": null, "x": "' + b"a" * 10_000_000 + b'"}')
    with pytest.raises(InvalidFileError, match=f"more than {MAX_MANIFEST_BYTES:,} bytes"):
        read_manifest(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
LAYERS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.just("application/vnd.ollama.image.model") | JSON_VALUES,
        "digest": st.just(f"sha256:{HEX}") | JSON_VALUES,
        "size": st.integers() | JSON_VALUES,
        "from": JSON_VALUES,
        "name": JSON_VALUES,
    },
)
MANIFESTS = JSON_VALUES | st.fixed_dictionaries(
    {}, optional={"config": LAYERS | JSON_VALUES, "layers": st.lists(LAYERS) | JSON_VALUES}
)


@given(MANIFESTS)
def test_any_json_is_a_manifest_or_a_refusal(body: Any) -> None:
    try:
        manifest = parse(body)
    except LlamaForgeError:
        return
    for item in manifest.layers:
        assert re.fullmatch("[0-9a-f]{64}", item.digest)
        assert item.size >= 0
        item.media_type.encode()  # whole text: no lone surrogates


@given(st.binary())
def test_any_bytes_are_a_manifest_or_a_refusal(data: bytes) -> None:
    try:
        parse_manifest(data)
    except LlamaForgeError:
        return
