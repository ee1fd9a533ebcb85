"""An exported directory is, for transformers, the model that llama.cpp serves with the adapter."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from llamaforge import hardware
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.export.adapter import Factors, write_adapter
from llamaforge.export.config_file import model_config
from llamaforge.export.hugging_face import Exported
from llamaforge.gguf.header import read_header
from llamaforge.worker.layout import model_layout
from tests.contract.engine.engine_bench import SETTINGS, SMALL, VOCABULARY
from tests.contract.export.hub_bench import EXPORTED, STILL, Bench, answers, largest
from tools.architecture_models import RECIPES, Recipe, write_architecture_model
from tools.random_models import write_random_model

FOLDED = ("qwen35", "qwen35moe")
"""transformers writes these under the names of the models that see pictures too."""


def bench(folder: Path, name: str = "llama", quantization: str = "F32") -> Bench:
    path = write_architecture_model(folder / "m.gguf", name, VOCABULARY, quantization, seed=1)
    return Bench.make(path)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return found


@dataclass(frozen=True)
class Shown:
    """A model of an architecture in floats, with its adapter, and the directory made of both."""

    name: str
    made: Bench
    exported: Exported


@pytest.fixture(scope="module", params=EXPORTED)
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    made = bench(folder, request.param)
    yield Shown(request.param, made, made.export(shard_bytes=1_000_000))
    shutil.rmtree(folder)


def check_answers(made: Bench, exported: Exported, served_bound: float) -> None:
    model, said = made.load(exported)
    assert said == {}
    whole, packed = answers(model), made.packed()
    assert largest(packed, whole) < 1e-5
    assert largest(made.served(), whole) < served_bound
    assert largest(made.packed(0.0), whole) > 20 * largest(packed, whole)


def test_every_architecture_answers_as_it_is_served(shown: Shown) -> None:
    check_answers(shown.made, shown.exported, 1e-6)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_architecture_answers_as_it_is_served_in_blocks(name: str, tmp_path: Path) -> None:
    made = bench(tmp_path, name, "Q8_0")
    # llama.cpp rounds activations over quantised weights, and a recurrence carries that on.
    bound = 2e-3 if name.startswith("qwen35") else 1e-3
    check_answers(made, made.export(shard_bytes=1_000_000), bound)


def test_every_architecture_takes_the_adapter_through_peft(shown: Shown) -> None:
    made = shown.made
    base = made.export("base", merged=False)
    peft = made.export_peft(str(base.path))
    model, _ = made.load(base)
    assert largest(made.packed(0.0), answers(model)) < 1e-5
    tuned = PeftModel.from_pretrained(model, peft.path).eval()
    assert largest(made.packed(), answers(tuned)) < 1e-5
    config = json.loads((peft.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.path)
    loaded = {key for key in tuned.state_dict() if "lora_" in key}
    written = load_file(peft.path / "adapter_model.safetensors")
    assert loaded == {key.replace(".weight", ".default.weight") for key in written}


def test_names_and_shapes_are_those_that_transformers_publishes(
    shown: Shown, tmp_path: Path
) -> None:
    model, _ = shown.made.load(shown.exported)
    model.save_pretrained(tmp_path / "peer")
    ours, theirs = shapes(shown.exported.path), shapes(tmp_path / "peer")
    if shown.name in FOLDED:
        assert sorted(ours.values()) == sorted(theirs.values())
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", STILL)
def test_a_model_that_transformers_would_turn_further_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="rotary frequencies still") as caught:
        bench(tmp_path, name)
    assert caught.value.code == "cannot_export"


def test_frequencies_that_hardly_turn_stop_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dict(RECIPES["qwen3vl"].keys) | {"rope.freq_base": 5_000_000.0}
    monkeypatch.setitem(RECIPES, "qwen3vl", replace(RECIPES["qwen3vl"], keys=real))
    made = bench(tmp_path, "qwen3vl")
    model, _ = made.load(made.export())
    assert largest(made.packed(), answers(model)) < 1e-5
    assert largest(made.served(), answers(model)) < 1e-6


@pytest.mark.parametrize("scaling", ["linear", "yarn", "factors"])
def test_rotary_scaling_goes_along(scaling: str, tmp_path: Path) -> None:
    shape = replace(SMALL, rope_scaling=scaling)
    made = Bench.make(write_random_model(tmp_path / "m.gguf", shape, VOCABULARY, "F32", seed=1))
    ids = np.random.default_rng(3).integers(0, VOCABULARY.size - 3, 100).tolist()
    model, _ = made.load(made.export())
    assert largest(made.packed(ids=ids), answers(model, ids)) < 1e-5
    assert largest(made.served(ids), answers(model, ids)) < 1e-5


def with_tensor(path: Path, name: str, values: np.ndarray) -> None:
    """Replace a tensor of a file of floats in place."""
    info = read_header(path).tensors[name]
    data = bytearray(path.read_bytes())
    data[info.offset : info.offset + info.n_bytes] = values.astype(np.float32).tobytes()
    path.write_bytes(data)


def test_llama_3s_factors_are_told_by_their_formula(tmp_path: Path) -> None:
    shape = replace(SMALL, rope_scaling="factors", rope_theta=500_000.0)
    path = write_random_model(tmp_path / "m.gguf", shape, VOCABULARY, "F32", seed=1)
    frequencies = 500_000.0 ** -(np.arange(0, 64, 2) / 64)
    waves = 2 * math.pi / frequencies
    smooth = (8192 / waves - 1) / 3
    middle = 1 / ((1 - smooth) / 32 + smooth)
    factors = np.where(waves < 8192 / 4, 1.0, np.where(waves > 8192, 32.0, middle))
    with_tensor(path, "rope_freqs.weight", factors)
    made = Bench.make(path)
    exported = made.export()
    said = json.loads((exported.path / "config.json").read_text())
    assert said["rope_parameters"]["rope_type"] == "llama3"
    assert said["rope_parameters"]["factor"] == 32.0
    assert said["rope_scaling"]["rope_type"] == "llama3"
    assert said["rope_theta"] == 500_000.0
    model, _ = made.load(exported)
    assert largest(made.packed(), answers(model)) < 1e-5


def test_phi_3s_factors_for_long_texts_are_said_as_its_own_repositories_do(tmp_path: Path) -> None:
    made = bench(tmp_path, "phi3-long")
    rope = made.layout.config["rope_parameters"]
    strength = math.sqrt(1 + math.log(32) / math.log(512))
    long = rope | {"factor": 32.0, "attention_factor": strength, "long_factor": [7.0] * 24}
    whole = made.layout.config | {"rope_parameters": long, "max_position_embeddings": 32 * 512}
    written = model_config(whole, "bfloat16")
    assert set(written["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.rope_parameters["long_factor"] == [7.0] * 24
    assert config.rope_parameters["partial_rotary_factor"] == 0.75
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.model.rotary_emb.attention_scaling == pytest.approx(strength)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_the_rounded_weights(dtype: str, tmp_path: Path) -> None:
    made = bench(tmp_path, "gemma")
    narrow, wide = made.export("narrow", dtype=dtype), made.export("wide")
    model, _ = made.load(narrow)
    assert model.dtype is getattr(torch, dtype)
    expected = made.load(wide)[0].to(getattr(torch, dtype))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key


def test_weights_are_divided_into_files_with_an_index(tmp_path: Path) -> None:
    made = bench(tmp_path)
    exported = made.export(shard_bytes=600_000)
    index = json.loads((exported.path / "model.safetensors.index.json").read_text())
    files = [name for name in exported.files if name.endswith(".safetensors")]
    assert len(files) > 3
    assert sorted(set(index["weight_map"].values())) == files
    held = {name: load_file(exported.path / name) for name in files}
    assert {key: name for name in files for key in held[name]} == index["weight_map"]
    total = sum(value.nbytes for part in held.values() for value in part.values())
    assert index["metadata"]["total_size"] == total
    for part in held.values():
        size = sum(value.nbytes for value in part.values())
        assert size <= 600_000 or len(part) == 1


def test_the_directory_says_where_answers_end_and_what_it_is(tmp_path: Path) -> None:
    made = bench(tmp_path, "qwen3moe")
    folder = made.export(dtype="bfloat16").path
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert config["num_experts"] == config["num_local_experts"] == 4
    assert config["eos_token_id"] == VOCABULARY.size - 1
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends[0] == VOCABULARY.size - 1
    assert VOCABULARY.size - 3 in ends
    assert (folder / "chat_template.jinja").read_text().startswith("{% for message")
    assert not (tmp_path / ".hf.tmp").exists()


def test_ranks_and_rank_stabilised_scales_go_along(tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "m.gguf", "llama", VOCABULARY, "F32", seed=1)
    settings = SETTINGS.model_copy(update={"use_rslora": True})
    made = Bench.make(path, settings)
    random = np.random.default_rng(0)
    layers = dict(made.trained.layers())
    factors = layers["blk.1.attn_k"]
    a = random.standard_normal((3, factors.a.shape[1])).astype(np.float32) * 0.05
    b = random.standard_normal((factors.b.shape[0], 3)).astype(np.float32)
    layers["blk.1.attn_k"] = Factors(a, b, 16 / math.sqrt(3))
    write_adapter(made.adapter.path, made.header, layers, name="mine", base_digest="sha256:0")
    made = replace(made, adapter=read_header(made.adapter.path))
    peft = made.export_peft()
    config = json.loads((peft.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 16, True)
    assert config["rank_pattern"] == {"model.layers.1.self_attn.k_proj": 3}
    assert config["base_model_name_or_path"] is None
    model, _ = made.load(made.export("base", merged=False))
    tuned = answers(PeftModel.from_pretrained(model, peft.path).eval())
    assert largest(tuned, answers(made.load(made.export())[0])) < 1e-5
    weights = load_file(peft.path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight"
    assert np.array_equal(weights[name], a)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    made = bench(tmp_path)
    seen: list[tuple[int, int]] = []
    made.export(on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


def test_memory_stays_small_whatever_the_tensors(tmp_path: Path) -> None:
    shape = replace(SMALL, hidden=1024, heads=16, layers=1, tied=True)
    vocabulary = replace(
        VOCABULARY,
        values=VOCABULARY.values
        | {
            "tokenizer.ggml.tokens": [f"t{n}" for n in range(64_000)],
            "tokenizer.ggml.token_type": [1] * 64_000,
            "tokenizer.ggml.merges": [],
        },
        size=64_000,
    )
    path = write_random_model(tmp_path / "m.gguf", shape, vocabulary, "Q8_0", seed=1)
    layout = tmp_path / "layout.json"
    layout.write_text(model_layout(read_header(path)).model_dump_json())
    program = """
import sys
from pathlib import Path
from llamaforge.export.hugging_face import write_hugging_face
from llamaforge.export.layout import Layout
from llamaforge.gguf.header import read_header
path, text = Path(sys.argv[1]), Path(sys.argv[2]).read_text()
write_hugging_face(path.with_name("hf"), read_header(path), None,
                   Layout.model_validate_json(text), dtype="bfloat16", chat_template="")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
print(*(name for name in ("torch", "transformers") if name in sys.modules))
"""
    command = [sys.executable, "-c", program, str(path), str(layout)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    peak_mib, loaded = answer.stdout.splitlines()
    assert int(peak_mib) < 300  # the embedding alone is 250 MiB unpacked
    assert loaded == ""


# What goes wrong leaves nothing behind


def nothing_left(folder: Path) -> bool:
    return not (folder / "hf").exists() and not list(folder.glob(".hf*"))


def attempt(made: Bench, **more: Any) -> Exported:
    return made.export(**more)


def test_what_transformers_has_no_place_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Recipe("llama", f"{RECIPES['llama'].tensors} attn_output.bias:h")
    monkeypatch.setitem(RECIPES, "odd", odd)
    path = write_architecture_model(tmp_path / "m.gguf", "odd", VOCABULARY, "F32", seed=1)
    with pytest.raises(RefusedError, match="has no place for") as caught:
        model_layout(read_header(path))
    assert caught.value.code == "cannot_export"


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    made = bench(tmp_path)
    with pytest.raises(LlamaForgeError) as caught:
        attempt(made, stopped=lambda: True)
    assert caught.value.code == "stopped"
    assert nothing_left(tmp_path)


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(tmp_path)
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda folder: 1000)
    for export in (attempt, Bench.export_peft):
        with pytest.raises(RefusedError) as caught:
            export(made)
        assert caught.value.code == "no_disk_space"
    assert nothing_left(tmp_path)
    assert not (tmp_path / "peft").exists()


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "m.gguf", "llama", VOCABULARY, "F32", seed=1)
    with_tensor(path, "output_norm.weight", np.full(256, 70_000.0))
    made = Bench.make(path)
    with pytest.raises(LlamaForgeError, match="too large for float16") as caught:
        attempt(made, dtype="float16")
    assert "bfloat16" in caught.value.hint
    assert nothing_left(tmp_path)


def test_a_taken_place_is_left_alone(tmp_path: Path) -> None:
    made = bench(tmp_path)
    target = tmp_path / "hf"
    target.mkdir()
    attempt(made)  # an empty folder is no loss
    config = (target / "config.json").read_bytes()
    with pytest.raises(InvalidFileError) as caught:
        attempt(made)
    assert caught.value.code == "exists"
    (target / "mine.txt").write_text("x")
    attempt(made, replace=True)
    assert not (target / "mine.txt").exists()
    assert (target / "config.json").read_bytes() == config
    assert not list(tmp_path.glob(".hf*"))


def test_what_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    made = bench(tmp_path)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "letter.txt").write_text("dear")
    with pytest.raises(InvalidFileError) as caught:
        attempt(made, replace=True)
    assert caught.value.code == "not_a_model"
    assert (tmp_path / "hf" / "letter.txt").read_text() == "dear"


def test_a_killed_export_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    made = bench(tmp_path)
    child = os.fork()
    if child == 0:
        attempt(made, on_progress=lambda done, total: os._exit(9))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert not (tmp_path / "hf").exists()
    assert len(list(tmp_path.glob(".hf*"))) == 1
    attempt(made)  # and the next one clears up
    assert not list(tmp_path.glob(".hf*"))


def test_the_files_can_be_checked_by_their_digests(tmp_path: Path) -> None:
    import hashlib

    exported = bench(tmp_path).export()
    lines = "".join(
        f"{hashlib.sha256((exported.path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(item.name for item in exported.path.iterdir())
    )
    assert exported.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert exported.size_bytes == sum(item.stat().st_size for item in exported.path.iterdir())


def test_the_base_file_is_not_touched(tmp_path: Path) -> None:
    made = bench(tmp_path, quantization="Q8_0")
    before = made.header.path.read_bytes()
    made.export()
    assert made.header.path.read_bytes() == before
    assert gguf.GGUFReader(made.header.path).tensors
