"""An importance matrix is what the matrices were multiplied with, and makes packing lose less."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.export.importance import Importance, Sums, read_importance, write_importance
from llamaforge.export.merged import write_merged
from llamaforge.export.mix import tensor_types
from llamaforge.export.weights import MergedWeights
from llamaforge.gguf.ggml import pack_rows, unpack
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.types import TensorType
from llamaforge.training.importance import InputSums, measure_importance
from tests.contract.engine.engine_bench import (
    SMALL,
    VOCABULARY,
    make_rows,
    make_trained,
    unpack_in_place,
)
from tests.contract.export.test_merged_file import ABOUT, answers, divergence
from tools.architecture_models import write_architecture_model
from tools.random_models import quantize, write_random_model

Array = npt.NDArray[np.float32]


def measured(header: Header, seed: int = 3, rows: int = 6) -> dict[str, InputSums]:
    trained = make_trained(header)
    ids = [row.ids for row in make_rows(rows, seed=seed)]
    seen: list[int] = []
    found = measure_importance(trained.packed, trained.model, header, ids, seen.append)
    assert seen == list(range(1, rows + 1))
    return found


def importance(sums: dict[str, InputSums], folder: Path) -> Importance:
    path = folder / "imatrix.gguf"
    body = {name: Sums(item.squares, item.counts) for name, item in sums.items()}
    write_importance(path, body, rows=6, row_tokens=40, adapter_digest="sha256:1")
    return read_importance(path)


def uneven_model(folder: Path) -> Header:
    """Return a model whose norms let some columns through far more than others."""
    path = write_random_model(
        folder / "uneven.gguf", replace(SMALL, feed_forward=512), VOCABULARY, "F32", seed=1
    )
    header = read_header(path)
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(5)
    for name, info in header.tensors.items():
        if name.endswith("norm.weight"):
            values = np.exp(random.standard_normal(info.elements)).astype(np.float32)
            data[info.offset : info.offset + info.n_bytes] = values.tobytes()
    path.write_bytes(bytes(data))
    return read_header(path)


@pytest.mark.parametrize("quantization", ["Q4_0", "Q5_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_types_and_bytes_are_llama_cpps(quantization: str, tmp_path: Path) -> None:
    shape = replace(SMALL, layers=9)
    base = read_header(write_random_model(tmp_path / "m.gguf", shape, VOCABULARY, "F32", seed=1))
    check_bytes(base, importance(measured(base), tmp_path), quantization, tmp_path)


@pytest.mark.parametrize("name", ["mixtral", "qwen35", "gemma4-experts"])
def test_each_expert_has_an_importance_of_its_own(name: str, tmp_path: Path) -> None:
    path = write_architecture_model(tmp_path / "m.gguf", name, VOCABULARY, "F32", seed=1)
    base = read_header(path)
    found = importance(measured(base), tmp_path)
    experts = [values for key, values in found.columns.items() if "_exps" in key]
    assert all(len(values) == 4 for values in experts)
    assert bool(experts) == (name != "qwen35")
    check_bytes(base, found, "Q4_K_M", tmp_path)


def check_bytes(base: Header, found: Importance, quantization: str, folder: Path) -> None:
    quantize(base.path, folder / "peer.gguf", quantization, found.columns)
    peer = read_header(folder / "peer.gguf")
    expected = {name: info.type for name, info in peer.tensors.items()}
    assert tensor_types(base, quantization, with_importance=True) == expected
    made = write_merged(
        folder / "ours.gguf", base, None, ABOUT, quantization=quantization, importance=found
    )
    theirs, mine = gguf.GGUFReader(peer.path), gguf.GGUFReader(made.path)
    packed = {tensor.name: np.array(tensor.data) for tensor in mine.tensors}
    for tensor in theirs.tensors:
        assert np.array_equal(packed[tensor.name], tensor.data), tensor.name
    written = read_header(made.path)
    assert written.get("quantize.imatrix.entries_count") == len(found.columns)
    plain = write_merged(folder / "plain.gguf", base, None, ABOUT, quantization=quantization)
    assert plain.sha256 != made.sha256


@pytest.mark.parametrize("name", ["llama", "qwen2moe", "qwen35", "phi3", "gpt-oss", "falcon"])
def test_what_is_measured_is_what_plain_layers_are_multiplied_with(
    name: str, tmp_path: Path
) -> None:
    path = write_architecture_model(tmp_path / "m.gguf", name, VOCABULARY, "F32", seed=1)
    header = read_header(path)
    found = measured(header)
    trained = make_trained(header)
    ids = [row.ids for row in make_rows(6, seed=3)]
    seen: dict[str, list[Tensor]] = {}

    def keep(tensor: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module, output
            states = inputs[0].reshape(-1, inputs[0].shape[-1])
            seen.setdefault(tensor, []).append(states.double())

        return hook

    unpack_in_place(trained.packed)
    base = trained.model.get_base_model()
    for place, tensor in trained.packed.names.items():
        base.get_submodule(place).register_forward_hook(keep(f"{tensor}.weight"))
    with torch.no_grad():
        for row in ids:
            trained.model(input_ids=torch.tensor([row]))
    tokens = sum(map(len, ids))
    for tensor, inputs in seen.items():
        joined = torch.cat(inputs)
        assert len(joined) == tokens
        assert found[tensor].counts.tolist() == [tokens]
        np.testing.assert_allclose(
            found[tensor].squares[0], joined.square().sum(dim=0).numpy(), rtol=1e-4, atol=1e-5
        )
    experts = {key for key in found if "_exps" in key}
    assert set(seen) | experts == set(found)
    assert found.keys() <= header.tensors.keys()
    chosen = int(header.own("expert_used_count", 0))
    for key in experts:
        assert found[key].counts.sum() == tokens * chosen


def test_it_lessens_what_packing_changes_in_rows_it_never_saw(tmp_path: Path) -> None:
    base = uneven_model(tmp_path)
    found = importance(measured(base, seed=3, rows=24), tmp_path)
    unseen = measured(base, seed=77, rows=24)
    plain = write_merged(tmp_path / "plain.gguf", base, None, ABOUT, quantization="Q4_K_M")
    weighed = write_merged(
        tmp_path / "weighed.gguf", base, None, ABOUT, quantization="Q4_K_M", importance=found
    )
    assert plain.size_bytes < weighed.size_bytes + 4096
    exact = MergedWeights(base, None)
    packed = {
        "plain": MergedWeights(read_header(plain.path), None),
        "weighed": MergedWeights(read_header(weighed.path), None),
    }
    errors: dict[str, float] = dict.fromkeys(packed, 0.0)
    for name, sums in unseen.items():
        counts = sums.squares[0] / sums.counts[0]
        whole = exact.rows(base.tensors[name], slice(None))
        for kind, weights in packed.items():
            rows = weights.rows(weights.base.tensors[name], slice(None))
            errors[kind] += float((np.square(rows - whole) * counts).sum())
    assert errors["weighed"] < 0.8 * errors["plain"]
    served = answers(base.path)
    assert divergence(served, answers(weighed.path)) < divergence(served, answers(plain.path))


def test_types_that_need_one_can_be_packed_with_it(tmp_path: Path) -> None:
    base = read_header(write_random_model(tmp_path / "m.gguf", SMALL, VOCABULARY, "F32", seed=1))
    found = importance(measured(base), tmp_path)
    packed = write_merged(
        tmp_path / "q8.gguf", base, None, ABOUT, quantization="Q8_0", importance=found
    )
    header = read_header(packed.path)
    for kind in (TensorType.IQ2_XS, TensorType.IQ3_XXS, TensorType.IQ4_XS):
        tiny = {
            name: replace(info, type=kind) if "attn_q.weight" in name else info
            for name, info in header.tensors.items()
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "llamaforge.export.merged.tensor_types",
                lambda *_, kinds=tiny, **__: {name: info.type for name, info in kinds.items()},
            )
            made = write_merged(
                tmp_path / "iq.gguf", base, None, ABOUT, quantization="Q8_0", importance=found
            )
            assert read_header(made.path).tensors["blk.0.attn_q.weight"].type is kind
            assert np.isfinite(answers(made.path)).all()
            if kind is TensorType.IQ2_XS:
                with pytest.raises(RefusedError, match="importance matrix"):
                    write_merged(tmp_path / "iq2.gguf", base, None, ABOUT, quantization="Q8_0")


def test_one_of_another_model_is_refused(tmp_path: Path) -> None:
    base = read_header(write_random_model(tmp_path / "m.gguf", SMALL, VOCABULARY, "F32", seed=1))
    other = Importance({"blk.0.attn_q.weight": np.ones((1, 8), np.float32)}, 1, "")
    with pytest.raises(InvalidFileError, match="another model"):
        write_merged(tmp_path / "o.gguf", base, None, ABOUT, quantization="Q4_0", importance=other)
    assert not (tmp_path / "o.gguf").exists()


def test_a_matrix_without_an_input_counts_one_everywhere(tmp_path: Path) -> None:
    sums = {"blk.0.ffn_up_exps.weight": InputSums(
        np.array([[8.0, 2.0], [0.0, 0.0]], np.float32), np.array([2.0, 0.0], np.float32)
    )}  # fmt: skip
    found = importance(sums, tmp_path)
    assert found.columns["blk.0.ffn_up_exps.weight"].tolist() == [[4.0, 1.0], [1.0, 1.0]]
    assert (found.rows, found.adapter_digest) == (6, "sha256:1")


def test_a_column_without_an_input_counts_as_little_as_any_and_not_nothing(
    tmp_path: Path,
) -> None:
    sums = {
        "a.weight": InputSums(
            np.array([[0.0, 6.0, 2.0, 0.0], [0.0] * 4], np.float32),
            np.array([2.0, 2.0], np.float32),
        )
    }
    assert importance(sums, tmp_path).columns["a.weight"].tolist() == [
        [1.0, 3.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 1.0],
    ]


@pytest.mark.parametrize("kind", [TensorType.Q4_K, TensorType.Q6_K, TensorType.Q4_0])
def test_weights_that_no_row_used_are_not_lost(kind: TensorType, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    squares = np.where(np.arange(512) < 256, 0.0, 2.0).astype(np.float32)[None]
    sums = {"a.weight": InputSums(squares, np.array([1.0], np.float32))}
    counts = importance(sums, tmp_path).columns["a.weight"][0]
    packed = pack_rows(kind, values, counts)
    error = unpack(kind, packed, values.shape) - values
    assert np.sqrt(np.square(error).mean()) < 0.15


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_no_number_is_refused(value: float, tmp_path: Path) -> None:
    sums = {"a": InputSums(np.array([[value]], np.float32), np.array([1.0], np.float32))}
    with pytest.raises(InvalidFileError, match="no number"):
        importance(sums, tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", SMALL, VOCABULARY, "F32", seed=1)
    with pytest.raises(InvalidFileError, match="no importance matrix"):
        read_importance(path)
