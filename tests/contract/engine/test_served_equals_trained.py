"""llama.cpp is the judge: base and tuned model give the same probabilities there and in torch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamaforge.evaluation.fidelity import Fidelity, measure_fidelity
from llamaforge.evaluation.llama import Server
from llamaforge.export.adapter import BASE_DIGEST_KEY, Factors, write_adapter
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.names import inverse, row_order
from llamaforge.worker.trained import Trained
from tests.contract.engine.engine_bench import (
    SETTINGS,
    SMALL,
    fidelity_rows,
    make_model,
    make_trained,
    scaled,
)
from tools.random_models import FILE_TYPES, Shape

Layers = dict[str, Factors]

LLAMA_TYPES = [kind for kind in FILE_TYPES if kind != "F32"]
SHAPES = {
    "llama": SMALL,
    "llama-3": replace(SMALL, rope_theta=500_000.0, rope_scaling="factors"),
    "llama-tied": replace(SMALL, tied=True),
    "llama-linear-rope": replace(SMALL, rope_scaling="linear"),
    "mistral-style": replace(SMALL, heads=8, head_dim=32, rope_theta=1_000_000.0),
    "llama-biased": replace(SMALL, attention_bias=True),
    "qwen2": replace(SMALL, architecture="qwen2"),
    "qwen2-yarn": replace(SMALL, architecture="qwen2", rope_scaling="yarn", tied=True),
    "qwen3": replace(SMALL, architecture="qwen3"),
    "qwen3-wide-heads": replace(SMALL, architecture="qwen3", head_dim=128, tied=True),
}


def measure(header: Header, trained: Trained, layers: Layers, folder: Path) -> Fidelity:
    adapter = folder / "adapter.gguf"
    write_adapter(adapter, header, layers, name="test", base_digest="sha256:0")
    with Server(header.path, context=64, adapter=adapter) as server:
        return measure_fidelity(trained, server, fidelity_rows(), lambda done: None)


def check(shape: Shape, quantization: str, folder: Path) -> None:
    header = make_model(folder, quantization, shape)
    trained = make_trained(header)
    result = measure(header, trained, trained.layers(), folder)
    assert result.kl_base_mean < 1e-3
    assert result.kl_mean < 1e-3
    assert result.kl_effect_mean > 20 * result.kl_mean, "the adapter must change more than noise"
    assert result.passed, result.reason
    assert result.loss_served == pytest.approx(result.loss_trained, abs=result.loss_tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_every_architecture_is_served_as_it_was_trained(name: str, tmp_path: Path) -> None:
    check(SHAPES[name], "Q4_K_M", tmp_path)


@pytest.mark.parametrize("quantization", LLAMA_TYPES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_quantization_is_served_as_it_was_trained(
    architecture: str, quantization: str, tmp_path: Path
) -> None:
    check(replace(SMALL, architecture=architecture), quantization, tmp_path)


def test_sizes_that_k_quants_do_not_fit_are_served_as_they_were_trained(tmp_path: Path) -> None:
    # llama.cpp falls back to other block types where a row is no multiple of 256.
    odd = replace(SMALL, architecture="qwen2", hidden=224, heads=7, head_dim=32, key_value_heads=1)
    check(odd, "Q4_K_M", tmp_path)


def test_unquantized_weights_leave_no_difference_but_float_arithmetic(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F32")
    trained = make_trained(header)
    assert measure(header, trained, trained.layers(), tmp_path).kl_mean < 1e-6


def test_rank_stabilised_scaling_reaches_the_file(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    settings = SETTINGS.model_copy(update={"use_rslora": True, "lora_r": 16, "lora_alpha": 4.0})
    trained = make_trained(header, settings)
    result = measure(header, trained, trained.layers(), tmp_path)
    assert result.passed, result.reason
    assert result.kl_mean < 1e-5


def test_layers_of_different_strength_share_one_alpha(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    trained = make_trained(header)
    layers = trained.layers()
    halved = {
        name: Factors(item.a, item.b * np.float32(2.0), item.scale / 2) if "attn" in name else item
        for name, item in layers.items()
    }
    result = measure(header, trained, halved, tmp_path)
    assert result.passed, result.reason
    assert result.kl_mean < 1e-5


def without_permutation(header: Header, layers: Layers) -> Layers:
    broken = dict(layers)
    for name, item in layers.items():
        order = row_order(header, name)
        if order is not None:
            broken[name] = replace(item, b=item.b[inverse(order)])
    return broken


def with_one_layer_lost(header: Header, layers: Layers) -> Layers:
    del header
    return {name: item for name, item in layers.items() if "blk.1." not in name}


def with_swapped_layers(header: Header, layers: Layers) -> Layers:
    del header
    broken = dict(layers)
    first, second = "blk.0.ffn_up", "blk.0.ffn_gate"
    broken[first], broken[second] = layers[second], layers[first]
    return broken


def at_double_strength(header: Header, layers: Layers) -> Layers:
    del header
    return scaled(layers, 2.0)


def at_half_strength(header: Header, layers: Layers) -> Layers:
    del header
    return scaled(layers, 0.5)


def nearly_absent(header: Header, layers: Layers) -> Layers:
    del header
    return scaled(layers, 1e-6)


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize(
    "damage",
    [
        without_permutation,
        with_one_layer_lost,
        with_swapped_layers,
        at_double_strength,
        at_half_strength,
        nearly_absent,
    ],
)
def test_an_adapter_that_is_not_what_was_trained_is_refused(
    damage: Callable[[Header, Layers], Layers], quantization: str, tmp_path: Path
) -> None:
    header = make_model(tmp_path, quantization)
    trained = make_trained(header)
    result = measure(header, trained, damage(header, trained.layers()), tmp_path)
    assert not result.passed
    assert "nats a token" in result.reason


def test_the_file_says_what_it_is_and_what_it_belongs_to(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    trained = make_trained(header)
    path = tmp_path / "adapter.gguf"
    write_adapter(path, header, trained.layers(), name="mine", base_digest="sha256:abc")
    written = read_header(path)
    assert written.get("general.type") == "adapter"
    assert written.get("adapter.type") == "lora"
    assert written.get("general.architecture") == "llama"
    assert written.get("general.name") == "mine"
    assert written.get(BASE_DIGEST_KEY) == "sha256:abc"
    assert written.get("adapter.lora.alpha") == pytest.approx(16.0)
    reader = gguf.GGUFReader(path)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["blk.0.attn_k.weight.lora_a"] == [256, 8]  # ggml names the width first
    assert shapes["blk.0.attn_k.weight.lora_b"] == [8, 128]
    assert len(shapes) == 2 * 2 * 7
    assert not list(tmp_path.glob(".*.tmp"))
