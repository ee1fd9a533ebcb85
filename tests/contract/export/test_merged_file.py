"""A merged file is what llama.cpp makes of the same weights, and answers as base and adapter do."""

import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamaforge import hardware
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.evaluation.llama import Server
from llamaforge.export import merged as merged_module
from llamaforge.export.adapter import Factors, write_adapter
from llamaforge.export.merged import Merged, Provenance, write_merged
from llamaforge.export.mix import FILE_TYPES, tensor_types
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.types import TensorType
from tests.contract.engine.engine_bench import SMALL, VOCABULARY, make_model, make_trained
from tools import architecture_models
from tools.architecture_models import RECIPES, write_architecture_model
from tools.random_models import Shape, quantize, write_random_model

ABOUT = Provenance("mine", "night-1", "qwen2.5:3b", "sha256:" + "b" * 64, "LlamaForge 0.1.0")
U32_FILE_TYPE = {"general.file_type": 4}
IDS = [7, 30, 2, 99, 41, 12, 5, 80, 61, 17]
CHOSEN = ["Q4_0", "Q8_0", "Q5_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "F16", "BF16"]
SHAPES = {
    "llama": replace(SMALL, layers=9),
    "llama-tied": replace(SMALL, layers=3, tied=True),
    "qwen2-odd": replace(
        SMALL, architecture="qwen2", hidden=224, heads=7, head_dim=32, key_value_heads=1, layers=3
    ),
}


def adapter_for(header: Header, folder: Path) -> Header:
    trained = make_trained(header)
    path = folder / "adapter.gguf"
    write_adapter(path, header, trained.layers(), name="mine", base_digest=ABOUT.base_digest)
    return read_header(path)


def answers(path: Path, adapter: Path | None = None) -> np.ndarray:
    with Server(path, context=64, adapter=adapter) as server:
        server.use_adapter(adapter is not None)
        return server.log_probabilities(IDS, range(len(IDS)))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return the mean KL(p ‖ q) in nats a token."""
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def quantized_by_llama_cpp(source: Path, folder: Path, quantization: str) -> Header:
    target = folder / f"peer-{quantization}.gguf"
    quantize(source, target, quantization)
    return read_header(target)


@pytest.mark.parametrize("quantization", CHOSEN)
@pytest.mark.parametrize("name", SHAPES)
def test_types_and_bytes_are_llama_cpps(name: str, quantization: str, tmp_path: Path) -> None:
    plain = write_random_model(tmp_path / "m.gguf", SHAPES[name], VOCABULARY, "F32", seed=1)
    peer = quantized_by_llama_cpp(plain, tmp_path, quantization)
    base = read_header(plain)
    expected = {name: info.type for name, info in peer.tensors.items()}
    assert tensor_types(base, quantization) == expected
    made = write_merged(tmp_path / "ours.gguf", base, None, ABOUT, quantization=quantization)
    ours = read_header(made.path)
    assert ours.get("general.file_type") == FILE_TYPES[quantization]
    assert ours.get("general.file_type") == peer.get("general.file_type")
    theirs, mine = gguf.GGUFReader(peer.path), gguf.GGUFReader(made.path)
    packed = {tensor.name: np.array(tensor.data) for tensor in mine.tensors}
    for tensor in theirs.tensors:
        assert np.array_equal(packed[tensor.name], tensor.data), tensor.name


def emptied(path: Path) -> Path:
    """Make all weights of a file of floats zero: they are packed at once, and their types stay."""
    size = path.stat().st_size
    os.truncate(path, min(info.offset for info in read_header(path).tensors.values()))
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q5_K_M", "Q8_0"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_architecture_gets_llama_cpps_types(
    name: str, quantization: str, tmp_path: Path
) -> None:
    plain = emptied(write_architecture_model(tmp_path / "m.gguf", name, VOCABULARY, "F32"))
    peer = quantized_by_llama_cpp(plain, tmp_path, quantization)
    found = tensor_types(read_header(plain), quantization)
    assert found == {name: info.type for name, info in peer.tensors.items()}


@pytest.mark.parametrize("name", ["mixtral", "qwen3moe", "gemma4-experts", "gemma4-e", "falcon"])
def test_many_layers_and_eight_experts_get_llama_cpps_types(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name]
    # What is said of each of six layers is said of eighteen.
    keys = {
        key: value * 3 if isinstance(value, list) else value for key, value in recipe.keys.items()
    }
    if "expert_count" in keys:
        keys["expert_count"] = 8
    monkeypatch.setitem(RECIPES, name, replace(recipe, keys=keys, layers=18))
    # Types depend on counts and places, not on widths: these are the least that K-quants take.
    for size, value in {"e": 8, "f": 256, "F": 512, "s": 256}.items():
        monkeypatch.setitem(architecture_models._SIZES, size, value)
    plain = emptied(write_architecture_model(tmp_path / "m.gguf", name, VOCABULARY, "F32"))
    base = read_header(plain)
    for quantization in CHOSEN:
        peer = quantized_by_llama_cpp(plain, tmp_path, quantization)
        expected = {name: info.type for name, info in peer.tensors.items()}
        assert tensor_types(base, quantization) == expected, quantization
        peer.path.unlink()


@pytest.mark.parametrize("name", RECIPES)
def test_every_architecture_answers_as_base_and_adapter_do(name: str, tmp_path: Path) -> None:
    header = read_header(
        write_architecture_model(tmp_path / "m.gguf", name, VOCABULARY, "F32", seed=1)
    )
    adapter = adapter_for(header, tmp_path)
    made = write_merged(tmp_path / "merged.gguf", header, adapter, ABOUT)
    served = answers(header.path, adapter.path)
    whole = answers(made.path)
    assert divergence(served, whole) < 1e-6
    assert divergence(answers(header.path), whole) > 20 * divergence(served, whole)


@pytest.mark.parametrize("quantization", [None, "Q8_0", "F16"])
def test_packed_files_are_merged_with_little_loss(quantization: str | None, tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    adapter = adapter_for(header, tmp_path)
    made = write_merged(tmp_path / "merged.gguf", header, adapter, ABOUT, quantization=quantization)
    served, whole = answers(header.path, adapter.path), answers(made.path)
    assert divergence(served, whole) < 1e-3
    assert divergence(answers(header.path), whole) > 20 * divergence(served, whole)


def test_what_is_not_touched_is_copied_byte_for_byte(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q4_K_M")
    made = write_merged(tmp_path / "same.gguf", header, None, ABOUT)
    copied = read_header(made.path)
    ours, theirs = gguf.GGUFReader(made.path), gguf.GGUFReader(header.path)
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert mine.tensor_type == other.tensor_type
        assert np.array_equal(mine.data, other.data)
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        assert copied.strings(key) == header.strings(key)
    assert copied.numbers("tokenizer.ggml.token_type") == header.numbers(
        "tokenizer.ggml.token_type"
    )
    untouched = {k: v for k, v in header.metadata.items() if not k.startswith("general.")}
    for key in untouched:
        assert copied.kinds[key] == header.kinds[key]
        assert ours.fields[key].contents() == theirs.fields[key].contents()


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    made = write_merged(tmp_path / "m2.gguf", header, adapter_for(header, tmp_path), ABOUT)
    found = read_header(made.path)
    assert found.get("general.name") == "mine"
    assert found.get("llamaforge.run") == "night-1"
    assert found.get("llamaforge.base.digest") == "sha256:" + "b" * 64
    assert found.get("general.base_model.0.name") == "qwen2.5:3b"
    assert found.get("general.type") != "adapter"
    assert made.size_bytes == made.path.stat().st_size
    import hashlib

    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    seen: list[tuple[int, int]] = []
    write_merged(
        tmp_path / "m2.gguf", header, adapter_for(header, tmp_path), ABOUT,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1] == header.tensor_bytes
    assert seen == sorted(seen)


def test_rows_are_worked_on_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_model(tmp_path, "Q4_K_M")
    adapter = adapter_for(header, tmp_path)
    whole = write_merged(tmp_path / "whole.gguf", header, adapter, ABOUT)
    monkeypatch.setattr(merged_module, "_ROWS_WEIGHTS", 256 * 7)
    monkeypatch.setattr(merged_module, "_COPIED_WEIGHTS", 1000)
    parts = write_merged(tmp_path / "parts.gguf", header, adapter, ABOUT)
    left, right = gguf.GGUFReader(whole.path), gguf.GGUFReader(parts.path)
    for a, b in zip(left.tensors, right.tensors, strict=True):
        # A product over fewer rows may round otherwise in its last bit, and so may a block.
        assert (a.data != b.data).mean() < 0.01, a.name


# What goes wrong leaves nothing behind


def nothing_left(folder: Path) -> bool:
    return not (folder / "out.gguf").exists() and not list(folder.glob(".*.tmp"))


def attempt(header: Header, adapter: Header | None, folder: Path, **more: object) -> Merged:
    return write_merged(folder / "out.gguf", header, adapter, ABOUT, **more)  # type: ignore[arg-type]


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    with pytest.raises(LlamaForgeError) as caught:
        attempt(header, None, tmp_path, stopped=lambda: True)
    assert caught.value.code == "stopped"
    assert nothing_left(tmp_path)


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_model(tmp_path, "Q8_0")
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda folder: 1000)
    with pytest.raises(RefusedError) as caught:
        attempt(header, None, tmp_path)
    assert caught.value.code == "no_disk_space"
    assert nothing_left(tmp_path)


def test_a_model_file_that_was_cut_meanwhile_is_refused(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    os.truncate(header.path, header.file_bytes - 1000)
    with pytest.raises(InvalidFileError) as caught:
        attempt(header, None, tmp_path)
    assert caught.value.code == "damaged_blob"
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("adapted", [False, True])
def test_only_some_rows_are_in_memory_at_a_time(
    adapted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_model(tmp_path, "Q4_K_M")
    adapter = adapter_for(header, tmp_path) if adapted else None
    monkeypatch.setattr(merged_module, "_ROWS_WEIGHTS", 1024)
    monkeypatch.setattr(merged_module, "_COPIED_WEIGHTS", 1024)
    waiting = 0
    most = 0
    read = merged_module._Piece.result

    def result(piece: merged_module._Piece, file: int) -> bytes | memoryview:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return read(piece, file)

    def written(done: int, total: int) -> None:
        nonlocal waiting
        waiting -= 1

    monkeypatch.setattr(merged_module._Piece, "result", result)
    attempt(header, adapter, tmp_path, quantization="Q8_0", on_progress=written)
    assert waiting == 0
    assert most <= 2 + 5 * hardware.physical_cores()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad: float, tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    adapter = adapter_for(header, tmp_path)
    data = bytearray(adapter.path.read_bytes())
    offset = adapter.tensors["blk.1.ffn_up.weight.lora_b"].offset
    data[offset : offset + 4] = np.float32(bad).tobytes()
    adapter.path.write_bytes(data)
    with pytest.raises(InvalidFileError, match="finite"):
        attempt(header, read_header(adapter.path), tmp_path)
    assert nothing_left(tmp_path)


def test_weights_that_become_infinite_are_refused(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    rows, width = 256, 256
    huge = Factors(np.full((1, width), 1e30, np.float32), np.full((rows, 1), 1e30, np.float32), 1.0)
    write_adapter(
        tmp_path / "a.gguf", header, {"blk.0.attn_q": huge}, name="x", base_digest=ABOUT.base_digest
    )
    with pytest.raises(LlamaForgeError) as caught:
        attempt(header, read_header(tmp_path / "a.gguf"), tmp_path)
    assert caught.value.code == "not_finite"
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "shape", [replace(SMALL, layers=1), replace(SMALL, architecture="qwen2"),
              replace(SMALL, feed_forward=512)], ids=["layers", "architecture", "width"]
)  # fmt: skip
def test_an_adapter_for_another_model_is_refused(shape: Shape, tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    adapter = adapter_for(header, tmp_path)
    other = write_random_model(tmp_path / "other.gguf", shape, VOCABULARY, "F16", seed=1)
    with pytest.raises(InvalidFileError) as caught:
        attempt(read_header(other), adapter, tmp_path)
    assert caught.value.code == "wrong_adapter"
    assert nothing_left(tmp_path)


def test_an_adapter_says_which_file_it_is_made_for(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    adapter = adapter_for(header, tmp_path)
    about = replace(ABOUT, base_digest="sha256:" + "c" * 64)
    with pytest.raises(InvalidFileError, match="made for the file sha256:bbbb") as caught:
        write_merged(tmp_path / "out.gguf", header, adapter, about)
    assert caught.value.code == "wrong_adapter"
    assert nothing_left(tmp_path)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    with pytest.raises(InvalidFileError, match="is no LoRA adapter"):
        attempt(header, header, tmp_path)


def test_types_that_need_an_importance_matrix_are_refused_by_name(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    adapter = adapter_for(header, tmp_path)
    name = "blk.0.attn_q.weight"
    tensors = dict(header.tensors)
    tensors[name] = replace(tensors[name], type=TensorType.IQ2_XXS)
    changed = Header(header.path, 3, header.metadata, tensors, header.file_bytes, header.kinds)
    with pytest.raises(RefusedError, match="IQ2_XXS") as caught:
        attempt(changed, adapter, tmp_path)
    assert "--quant" in caught.value.hint


def test_a_killed_export_leaves_the_old_file(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    (tmp_path / "out.gguf").write_text("old")
    child = os.fork()
    if child == 0:
        attempt(header, None, tmp_path, on_progress=lambda done, total: os._exit(9))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert (tmp_path / "out.gguf").read_text() == "old"


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    header = make_model(tmp_path, "Q8_0")
    child = os.fork()
    if child == 0:
        attempt(header, None, tmp_path, on_progress=lambda done, total: os._exit(9))
    os.waitpid(child, 0)
    other = tmp_path / ".other.gguf.1.tmp"
    other.touch()
    assert len(list(tmp_path.glob(".out.gguf.*.tmp"))) == 1
    attempt(header, None, tmp_path)
    assert list(tmp_path.glob(".*.tmp")) == [other]


def test_weights_too_large_for_their_type_are_refused(tmp_path: Path) -> None:
    header = make_model(tmp_path, "F16")
    large = Factors(np.full((1, 256), 300, np.float32), np.full((256, 1), 300, np.float32), 1.0)
    layers = {"blk.0.attn_q": large}
    write_adapter(tmp_path / "a.gguf", header, layers, name="x", base_digest=ABOUT.base_digest)
    adapter = read_header(tmp_path / "a.gguf")
    with pytest.raises(LlamaForgeError, match="too large for F16") as caught:
        attempt(header, adapter, tmp_path)
    assert caught.value.code == "overflow"
    assert nothing_left(tmp_path)
    assert attempt(header, adapter, tmp_path, quantization="BF16").size_bytes


@pytest.mark.parametrize(
    ("said", "packed", "expected"),
    [
        (None, "F16", 1), (None, "Q4_K_M", 15), (None, "Q8_0", 7), (None, "BF16", 32),
        (0, "Q4_K_M", 15), (0, "F32", 0), (None, "F32", 0), (14, "Q4_K_M", 14), (1025, "F16", 1),
    ],
)  # fmt: skip
def test_the_file_always_says_its_type(
    said: int | None, packed: str, expected: int, tmp_path: Path
) -> None:
    header = make_model(tmp_path, packed)
    metadata = {k: v for k, v in header.metadata.items() if k != "general.file_type"}
    if said is not None:
        metadata["general.file_type"] = said
    base = Header(
        header.path, 3, metadata, header.tensors, header.file_bytes, header.kinds | U32_FILE_TYPE
    )
    made = write_merged(tmp_path / "m2.gguf", base, None, ABOUT)
    assert read_header(made.path).get("general.file_type") == expected
