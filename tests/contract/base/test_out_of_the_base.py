"""What comes out of a run on the base is, in llama.cpp and transformers, what was trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.evaluation.fidelity import measure_fidelity
from llamaforge.evaluation.llama import Server
from llamaforge.evaluation.pair import ServedPair
from llamaforge.export.adapter import write_adapter
from llamaforge.export.base_tensors import BaseTensors
from llamaforge.export.closeness import closeness
from llamaforge.export.dense import DenseWeights
from llamaforge.export.learned import factors_over, read_learned, tuned_weights
from llamaforge.export.merged import Merged, write_merged
from llamaforge.export.tuned_folder import write_tuned
from llamaforge.gguf.header import Header, read_header
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.worker.trained_base import load_trained_base
from tests.contract.base.base_bench import (
    ON_BASE,
    PROVENANCE,
    Pair,
    Session,
    make_pair,
    with_spare_rows,
)
from tests.contract.engine.engine_bench import fidelity_rows
from tests.contract.export.hub_bench import EXPORTED, IDS, TEMPLATE, answers, largest

PACKED_EXPERTS = "gpt-oss"
WAYS: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_r": 4},
    "dora": {"use_dora": True, "learning_rate": 2e-2},
    "full": {"use_peft": False, "learning_rate": 1e-3},
}


def trained(pair: Pair, folder: Path, way: str) -> Session:
    session = Session(pair, folder / "run", ON_BASE.model_copy(update=WAYS[way]))
    session.run()
    session.model.eval()
    return session


def tuned(pair: Pair, session: Session) -> DenseWeights:
    if not session.settings.use_peft:
        return DenseWeights(session.learned.parent)
    learned = read_learned(session.learned, session.settings)
    return tuned_weights(pair.folder, pair.layout.model_type, learned)


def merged(pair: Pair, weights: DenseWeights, path: Path, quantization: str | None) -> Merged:
    full = BaseTensors(pair.header, pair.layout, weights)
    return write_merged(path, pair.header, None, PROVENANCE, full=full, quantization=quantization)


def served(path: Path, adapter: Path | None = None) -> np.ndarray:
    with Server(path, context=128, adapter=adapter) as server:
        server.use_adapter(adapter is not None)
        return server.log_probabilities(IDS, range(len(IDS))).astype(np.float64)


@pytest.mark.parametrize("name", [name for name in EXPORTED if name != PACKED_EXPERTS])
def test_every_tensor_of_a_file_comes_out_of_its_base_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, name, "F32")
    made = merged(pair, DenseWeights(pair.folder), tmp_path / "again.gguf", None)
    ours, theirs = read_header(made.path), read_header(tmp_path / "whole.gguf")
    assert ours.tensors.keys() == theirs.tensors.keys()
    for tensor, info in theirs.tensors.items():
        found, wanted = (values_of(header, tensor) for header in (ours, theirs))
        # exp(log(x)) is x but for the last bit.
        close = np.allclose(found, wanted, rtol=1e-6) if "ssm_a" in tensor else False
        assert close or np.array_equal(found, wanted), (tensor, info.shape)


def values_of(header: Header, tensor: str) -> np.ndarray:
    info = header.tensors[tensor]
    return np.fromfile(header.path, np.float32, info.elements, offset=info.offset)


def test_experts_that_are_published_packed_are_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, PACKED_EXPERTS, "F16")
    weights = DenseWeights(pair.folder)
    with pytest.raises(RefusedError) as caught:
        BaseTensors(pair.header, pair.layout, weights)
    assert caught.value.code == "quantized_base"


@pytest.mark.parametrize(("name", "way"), [
    *(("llama", way) for way in WAYS), ("qwen35", "dora"), ("qwen3moe", "lora"),
    ("gemma3", "full"), ("falcon", "dora"), ("phi3", "rslora"), ("mixtral", "full"),
])  # fmt: skip
def test_the_merged_file_answers_as_the_trained_model(name: str, way: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, name, "F16")
    session = trained(pair, tmp_path, way)
    whole = answers(session.model)
    made = merged(pair, tuned(pair, session), tmp_path / "merged.gguf", "F32")
    assert largest(whole, served(made.path)) < 1e-5
    assert largest(whole, served(pair.header.path)) > 1e-3, "it must have learned something"


@pytest.mark.parametrize(("name", "way"), [("gemma3", "lora"), ("llama", "full")])
def test_rows_of_the_base_that_stand_for_no_token_are_left_out(
    name: str, way: str, tmp_path: Path
) -> None:
    plain = make_pair(tmp_path, name, "F16")
    longer = with_spare_rows(plain, tmp_path / "longer")
    without, session = trained(plain, tmp_path / "a", way), trained(longer, tmp_path / "b", way)
    assert session.losses == without.losses
    whole = answers(session.model)
    assert np.array_equal(whole, answers(without.model))
    made = merged(longer, tuned(longer, session), tmp_path / "merged.gguf", "F32")
    assert largest(whole, served(made.path)) < 1e-5
    again = load_trained_base(longer.header, longer.resolved, session.settings, session.learned)
    found = again.log_probabilities(IDS, range(len(IDS)), strength=1.0).astype(np.float64)
    assert largest(whole, found) < 1e-6


@pytest.mark.parametrize("way", ["lora", "rslora"])
@pytest.mark.parametrize("name", ["llama", "qwen35"])
def test_the_adapter_over_the_file_answers_as_peft_does(
    name: str, way: str, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, name, "F32")
    session = trained(pair, tmp_path, way)
    learned = read_learned(session.learned, session.settings)
    path = tmp_path / "adapter.gguf"
    layers = factors_over(pair.header, learned)
    write_adapter(path, pair.header, layers, name="mine", base_digest="sha256:0")
    assert largest(answers(session.model), served(pair.header.path, path)) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_the_directory_is_for_transformers_the_trained_model(way: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = trained(pair, tmp_path, way)
    made = write_tuned(
        tmp_path / "hf",
        pair.folder,
        tuned(pair, session),
        dtype="float32",
        chat_template=TEMPLATE,
        shard_bytes=1_000_000,
    )
    model = AutoModelForCausalLM.from_pretrained(made.path, dtype="auto").eval()
    assert largest(answers(session.model), answers(model)) < 1e-6
    assert {"tokenizer.json", "chat_template.jinja", "config.json"} <= set(made.files)


def test_the_kept_folder_is_an_adapter_for_peft(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = trained(pair, tmp_path, "dora")
    model = AutoModelForCausalLM.from_pretrained(pair.folder, dtype=torch.float32)
    again = PeftModel.from_pretrained(model, session.learned.parent).eval()
    assert largest(answers(session.model), answers(again)) < 1e-7


@pytest.mark.parametrize("way", WAYS)
def test_what_was_learned_can_be_turned_down_to_nothing(way: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = trained(pair, tmp_path, way)
    places = range(len(IDS))
    model = load_trained_base(pair.header, pair.resolved, session.settings, session.learned)
    found = [model.log_probabilities(IDS, places, strength=s) for s in (1.0, 0.0, 0.9, 1.0)]
    whole, none, most, again = (values.astype(np.float64) for values in found)
    base = AutoModelForCausalLM.from_pretrained(pair.folder, dtype=torch.float32).eval()
    assert largest(answers(session.model), whole) < 1e-6
    assert np.array_equal(whole, again)
    assert largest(answers(base), none) < 1e-6
    assert 0 < largest(whole, most) < largest(whole, none)


def test_the_proof_over_a_quantised_file_says_what_quantisation_takes(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, quantization="Q4_0")
    session = trained(pair, tmp_path, "lora")
    layers = factors_over(pair.header, read_learned(session.learned, session.settings))
    path = tmp_path / "adapter.gguf"
    write_adapter(path, pair.header, layers, name="mine", base_digest="sha256:0")
    model = load_trained_base(pair.header, pair.resolved, session.settings, session.learned)
    with Server(pair.header.path, context=128, adapter=path) as server:
        found = measure_fidelity(model, server, fidelity_rows(), lambda done: None)
    assert found.passed, found.reason
    assert found.kl_mean > 1e-4, "four bits are not the full precision"
    assert found.kl_base_mean > 1e-4
    assert found.loss_base != pytest.approx(found.loss_plain, abs=1e-5)


def test_a_merged_file_of_something_else_does_not_pass(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = trained(pair, tmp_path, "full")
    model = load_trained_base(pair.header, pair.resolved, session.settings, session.learned)
    untouched = merged(pair, DenseWeights(pair.folder), tmp_path / "untouched.gguf", None)
    right = merged(pair, tuned(pair, session), tmp_path / "right.gguf", None)
    for path, passes in ((right.path, True), (untouched.path, False)):
        with ServedPair(pair.header.path, path, context=128) as pair_:
            found = measure_fidelity(model, pair_, fidelity_rows(), lambda done: None)
        assert found.passed is passes, found


def test_a_file_is_near_its_base_and_far_from_another(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, quantization="Q4_K_M")
    found = closeness(pair.header, BaseTensors(pair.header, pair.layout, base_of(pair)))
    assert found.exact
    assert 0.02 < found.error < 0.2
    assert found.least_cosine > 0.97
    other = spoil(pair, tmp_path / "other", lambda name, values: torch.randn_like(values))
    with pytest.raises(RefusedError) as caught:
        closeness(pair.header, BaseTensors(pair.header, pair.layout, DenseWeights(other)))
    assert caught.value.code == "other_base"


def test_rows_in_another_order_are_found(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, quantization="Q8_0")
    turned = spoil(
        pair,
        tmp_path / "turned",
        lambda name, values: values.flip(0) if "1.self_attn.q_proj" in name else values,
    )
    with pytest.raises(RefusedError) as caught:
        closeness(pair.header, BaseTensors(pair.header, pair.layout, DenseWeights(turned)))
    assert "blk.1.attn_q" in caught.value.message


def test_norms_of_another_version_are_told(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, quantization="Q8_0")
    other = spoil(
        pair, tmp_path / "other", lambda name, values: values * 1.05 if "norm" in name else values
    )
    tensors = BaseTensors(pair.header, pair.layout, DenseWeights(other))
    assert not closeness(pair.header, tensors).exact


def test_a_weight_that_is_no_number_is_never_merged(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)

    def broken(name: str, values: torch.Tensor) -> torch.Tensor:
        if "0.mlp.down_proj" in name:
            values[3, 3] = torch.nan
        return values

    folder = spoil(pair, tmp_path / "nan", broken)
    with pytest.raises(LlamaForgeError) as caught:
        merged(pair, DenseWeights(folder), tmp_path / "out.gguf", None)
    assert caught.value.code == "not_finite"
    assert not list(tmp_path.glob("*out.gguf*"))


def test_files_that_are_cut_short_or_lie_are_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    folder = spoil(pair, tmp_path / "cut", lambda name, values: values)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    name = next(name for name in header if name != "__metadata__")

    def with_entry(**changes: Any) -> bytes:
        text = json.dumps(header | {name: header[name] | changes}).encode()
        return len(text).to_bytes(8, "little") + text + bytes(len(content))

    spoiled = (
        content[: len(content) // 2],
        content[:20],
        b"",
        with_entry(shape=[-1, 4]),
        with_entry(data_offsets=[0, 1 << 62]),
        with_entry(data_offsets=[0]),
        with_entry(dtype="F8_E4M3"),
        with_entry(shape="all"),
    )
    for data in spoiled:
        file.write_bytes(data)
        with pytest.raises(InvalidFileError) as caught:
            DenseWeights(folder)
        assert caught.value.code == "bad_base"


def test_an_adapter_of_other_settings_is_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    session = trained(pair, tmp_path, "dora")
    plain: TrainingSettings = session.settings.model_copy(update={"use_dora": False})
    with pytest.raises(InvalidFileError) as caught:
        read_learned(session.learned, plain)
    assert caught.value.code == "bad_checkpoint"


def base_of(pair: Pair) -> DenseWeights:
    return DenseWeights(pair.folder)


def spoil(pair: Pair, folder: Path, change: Any) -> Path:
    """Write the base's weights, changed, into a folder of their own, and return it."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for file in pair.folder.glob("*.safetensors"):
        tensors |= {name: change(name, value) for name, value in load_file(file).items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
