"""A file's own metadata becomes the model's configuration, or a sentence says why not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.architectures import architecture_of, configuration
from llamaforge.gguf.header import ArrayRef, Header, read_header
from llamaforge.gguf.names import gguf_namer, inverse, row_order
from tools.random_models import Shape, Vocabulary, write_random_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Header:
    path = tmp_path_factory.mktemp("arch") / "m.gguf"
    return read_header(write_random_model(path, Shape(), Vocabulary.byte_level(), "Q8_0"))


def changed(header: Header, **values: Any) -> Header:
    metadata = dict(header.metadata)
    for name, value in values.items():
        key = "llama." + name.replace("__", ".")
        if value is None:
            del metadata[key]
        else:
            metadata[key] = value
    return Header(header.path, header.version, metadata, header.tensors, header.file_bytes)


def test_a_plain_llama(llama: Header) -> None:
    found = configuration(llama)
    assert found["model_type"] == "llama"
    assert (found["hidden_size"], found["num_hidden_layers"]) == (256, 2)
    assert (found["num_attention_heads"], found["num_key_value_heads"]) == (4, 2)
    assert (found["head_dim"], found["vocab_size"]) == (64, 265)
    assert found["tie_word_embeddings"] is False
    assert AutoConfig.for_model(**found).hidden_size == 256


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("scaling", [None, "linear", "yarn"])
def test_rotary_scaling_is_taken_over(
    architecture: str, scaling: str | None, tmp_path: Path
) -> None:
    shape = replace(Shape(), architecture=architecture, rope_scaling=scaling, tied=True)
    header = read_header(
        write_random_model(tmp_path / "m.gguf", shape, Vocabulary.byte_level(), "F16")
    )
    found = configuration(header)
    assert found["tie_word_embeddings"] is True
    assert found["rope_parameters"]["rope_type"] == (scaling or "default")
    if scaling == "yarn":
        assert found["rope_parameters"]["original_max_position_embeddings"] == 128


NONSENSE: list[Any] = ["many", -1, 0, True, 2**40, float("nan"), ArrayRef(4, 2, 0, 8)]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize(
    "key",
    ["block_count", "embedding_length", "feed_forward_length", "attention__head_count",
     "attention__head_count_kv", "attention__key_length", "context_length"],
)  # fmt: skip
def test_a_value_of_a_wrong_kind_is_refused(llama: Header, key: str, value: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        configuration(changed(llama, **{key: value}))
    assert caught.value.code == "unsupported_variant"
    assert caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {"rope__freq_base": "hot"},
        {"rope__freq_base": 0.0},
        {"attention__layer_norm_rms_epsilon": ArrayRef(4, 2, 0, 8)},
        {"attention__head_count_kv": 3},
        {"attention__value_length": 32},
        {"rope__dimension_count": 32},
        {"rope__scaling__type": "longrope", "rope__scaling__factor": 4.0},
        {"rope__scaling__type": "yarn", "rope__scaling__factor": float("inf")},
        {"embedding_length": None},
    ],
)
def test_a_variant_is_refused(llama: Header, values: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        configuration(changed(llama, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"attention__key_length": 63, "attention__value_length": 63, "rope__dimension_count": 63},
        {"block_count": 1025},
        {"block_count": 2**31 - 1},
        {"embedding_length": 3, "attention__key_length": None},
        {"expert_count": ArrayRef(4, 2, 0, 8)},
        {"rope__scaling__type": ArrayRef(8, 2, 0, 8), "rope__scaling__factor": 4.0},
        {"rope__scaling__type": 7, "rope__scaling__factor": 4.0},
        {"rope__scaling__type": 7},
        {"rope__scaling__type": "linear", "rope__scaling__factor": -4.0},
        {"rope__scaling__factor": ArrayRef(4, 2, 0, 8)},
        {"rope__scale_linear": "four"},
        {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
         "rope__scaling__original_context_length": 0},
        {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
         "rope__scaling__yarn_beta_fast": 64.0},
        {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0,
         "rope__scaling__attn_factor": 0.5},
    ],
    ids=repr,
)  # fmt: skip
def test_nonsense_that_python_would_stumble_over_is_refused(
    llama: Header, values: dict[str, Any]
) -> None:
    with pytest.raises(RefusedError) as caught:
        configuration(changed(llama, **values))
    assert caught.value.message.endswith(".")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope__scaling__factor": 4.0}, ("linear", 4.0)),
        ({"rope__scale_linear": 2.0}, ("linear", 2.0)),
        ({"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, ("linear", 4.0)),
        ({"rope__scaling__factor": 0.0}, ("default", None)),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, ("default", None)),
        ({"rope__scaling__type": "yarn"}, ("default", None)),
    ],
)
def test_scaling_keys_mean_what_they_mean_to_llama_cpp(
    llama: Header, values: dict[str, Any], expected: tuple[str, float | None]
) -> None:
    rope = configuration(changed(llama, **values))["rope_parameters"]
    assert (rope["rope_type"], rope.get("factor")) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"embedding_length": 512},
        {"feed_forward_length": 2**26},
        {"attention__key_length": 2**26, "attention__value_length": 2**26,
         "rope__dimension_count": 2**26},
        {"attention__head_count": 2},
        {"attention__head_count_kv": 4},
    ],
    ids=repr,
)  # fmt: skip
def test_keys_that_the_tensors_contradict_are_refused(
    llama: Header, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFileError) as caught:
        configuration(changed(llama, **values))
    assert caught.value.code == "wrong_shape"


PLAIN_VALUES = st.one_of(
    st.integers(-3, 3), st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(),
    st.text(max_size=4), st.just(ArrayRef(4, 2, 0, 8)), st.none(),
)  # fmt: skip


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_the_keys_hold_there_is_a_configuration_or_a_refusal(
    llama: Header, data: st.DataObject
) -> None:
    keys = sorted(key for key in llama.metadata if key.startswith("llama."))
    keys += [f"llama.rope.scaling.{end}" for end in ("type", "factor", "yarn_beta_fast")]
    metadata = dict(llama.metadata)
    for key in data.draw(st.sets(st.sampled_from(keys), min_size=1, max_size=3)):
        metadata[key] = data.draw(PLAIN_VALUES)
    header = Header(llama.path, 3, metadata, llama.tensors, llama.file_bytes)
    try:
        found = configuration(header)
        assert found["num_attention_heads"] % found["num_key_value_heads"] == 0
        gguf_namer(header)
        row_order(header, "blk.0.attn_q")
    except RefusedError:
        pass


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [("blk.0.attn_q", None), ("blk.0.attn_q", (256, 250)), ("blk.0.attn_k", (256, 2))],
)
def test_rows_that_are_no_whole_heads_are_refused(
    llama: Header, tensor: str, shape: tuple[int, ...] | None
) -> None:
    tensors = dict(llama.tensors)
    name = f"{tensor}.weight"
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = replace(tensors[name], shape=shape)
    header = Header(llama.path, 3, llama.metadata, tensors, llama.file_bytes)
    with pytest.raises(InvalidFileError, match=name):
        row_order(header, tensor)


def test_names_of_what_cannot_be_trained_are_refused(llama: Header) -> None:
    metadata = llama.metadata | {"general.architecture": "no such"}
    with pytest.raises(RefusedError, match="no such"):
        gguf_namer(Header(llama.path, 3, metadata, llama.tensors, llama.file_bytes))
    with pytest.raises(RefusedError, match="layers"):
        gguf_namer(changed(llama, block_count=2**26))
    with pytest.raises(RefusedError, match="block count"):
        gguf_namer(changed(llama, block_count="two"))


def test_experts_and_unknown_architectures_are_named(llama: Header) -> None:
    qwen2 = Header(
        llama.path,
        3,
        llama.metadata | {"general.architecture": "qwen2", "qwen2.expert_count": 8},
        llama.tensors,
        llama.file_bytes,
    )
    with pytest.raises(RefusedError, match="mixture of experts"):
        architecture_of(qwen2)
    metadata = llama.metadata | {"general.architecture": "mamba\x1b[31m"}
    other = Header(llama.path, 3, metadata, llama.tensors, llama.file_bytes)
    with pytest.raises(RefusedError) as caught:
        architecture_of(other)
    assert "mamba" in caught.value.message
    assert "\x1b" not in caught.value.message


def test_rows_are_permuted_as_llama_cpps_converter_does(llama: Header) -> None:
    for tensor, heads in (("blk.0.attn_q", 4), ("blk.1.attn_k", 2)):
        order = row_order(llama, tensor)
        assert order is not None
        rows = len(order)
        weight = np.arange(rows * 3).reshape(rows, 3)
        # LlamaModel.permute: [heads, 2, rows/heads/2, ...] with the two middle axes swapped.
        expected = (
            weight.reshape(heads, 2, rows // heads // 2, 3).swapaxes(1, 2).reshape(weight.shape)
        )
        assert np.array_equal(weight[order], expected)
        assert np.array_equal(weight[order][inverse(order)], weight)
    assert row_order(llama, "blk.0.attn_v") is None


def test_every_layer_has_its_tensor(llama: Header) -> None:
    name_of = gguf_namer(llama)
    assert name_of("model.layers.1.self_attn.q_proj") == "blk.1.attn_q"
    assert name_of("model.layers.0.mlp.down_proj") == "blk.0.ffn_down"
    assert name_of("lm_head") == "output"
    assert name_of("model.rotary_emb") is None
