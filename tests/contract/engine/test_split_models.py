"""A model that is split into several files is one model: read, trained, served and merged."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamaforge.errors import InvalidFileError, LlamaForgeError, NotFoundError
from llamaforge.evaluation.check_file import check_file
from llamaforge.evaluation.fidelity import measure_fidelity
from llamaforge.evaluation.llama import Server
from llamaforge.export.adapter import write_adapter
from llamaforge.export.merged import Provenance, write_merged
from llamaforge.export.weights import MergedWeights
from llamaforge.gguf.finite import not_finite
from llamaforge.gguf.header import read_header
from llamaforge.gguf.llama_files import llama_files
from llamaforge.gguf.model_file import read_model
from tests.contract.engine.engine_bench import VOCABULARY, fidelity_rows, make_model, make_trained
from tools.ollama_models import write_ollama_model
from tools.split_models import split_model

ABOUT = Provenance("mine", "run", "base", "sha256:0", "program")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_model(tmp_path).path


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    found = split_model(whole, tmp_path, tensors=7)
    assert [path.name for path in found] == [f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    return found


def renamed(parts: list[Path]) -> list[Path]:
    """Give the parts names as blobs of a store have them."""
    return [path.rename(path.with_name(f"sha256-{n:064}")) for n, path in enumerate(parts)]


@pytest.mark.parametrize("as_blobs", [False, True])
def test_it_is_trained_served_and_merged_as_the_whole_is(
    whole: Path, parts: list[Path], as_blobs: bool, tmp_path: Path
) -> None:
    files = renamed(parts) if as_blobs else parts
    header = read_model(files[0], files if as_blobs else ())
    before = read_header(whole)
    assert list(header.tensors) == list(before.tensors)
    assert header.tensor_bytes == before.tensor_bytes
    assert not [key for key in header.metadata if key.startswith("split.")]
    assert not_finite(header) is None
    trained = make_trained(header)
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, header, trained.layers(), name="mine", base_digest="sha256:0")
    with llama_files(header, tmp_path) as found:
        assert found == tuple(files)
        with Server(found, context=64, adapter=adapter) as server:
            result = measure_fidelity(trained, server, fidelity_rows(), lambda done: None)
    assert result.passed, result.reason
    assert result.kl_mean < 1e-3
    merged, expected = tmp_path / "merged.gguf", tmp_path / "expected.gguf"
    write_merged(merged, header, read_header(adapter), ABOUT)
    write_merged(expected, before, read_header(adapter), ABOUT)
    assert merged.read_bytes() == expected.read_bytes()
    judged = check_file(merged, like=files, adapter=adapter)
    assert judged["kl_mean"] < judged["kl_base_mean"] / 2


def test_its_weights_are_those_of_the_whole(whole: Path, parts: list[Path]) -> None:
    header, before = read_model(parts[0]), read_header(whole)
    ours, theirs = MergedWeights(header, None), MergedWeights(before, None)
    for name in before.tensors:
        np.testing.assert_array_equal(
            ours.raw(header.tensors[name]), theirs.raw(before.tensors[name])
        )


def test_parts_of_a_file_of_ollama_are_read_as_the_server_reads_them(tmp_path: Path) -> None:
    path, equivalent = write_ollama_model(tmp_path, "qwen25vl", VOCABULARY)
    files = split_model(path, tmp_path, tensors=9)
    header = read_model(files[0])
    assert header.architecture == "qwen2vl"
    assert set(header.tensors) == set(read_header(equivalent).tensors)
    make_trained(header)


def lose_the_second(parts: list[Path]) -> None:
    parts[1].unlink()


def swap_the_last_two(parts: list[Path]) -> None:
    between = parts[1].with_name("between")
    parts[1].rename(between)
    parts[2].rename(parts[1])
    between.rename(parts[2])


def repeat_the_second(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[1].read_bytes())


def give_the_first_another_name(parts: list[Path]) -> None:
    parts[0].rename(parts[0].with_name("other.gguf"))
    parts[0] = parts[0].with_name("other.gguf")


def cut_the_last(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-4096])


@pytest.mark.parametrize(
    ("spoil", "code", "named"),
    [
        (lose_the_second, "missing_part", "model-00002-of-00003.gguf"),
        (swap_the_last_two, "wrong_part", "model-00002-of-00003.gguf"),
        (repeat_the_second, "wrong_part", "model-00003-of-00003.gguf"),
        (give_the_first_another_name, "missing_part", "other.gguf"),
        (cut_the_last, "truncated_gguf", "model-00003-of-00003.gguf"),
    ],
)
def test_parts_that_do_not_make_one_model_are_refused_by_name(
    parts: list[Path], spoil: Callable[[list[Path]], None], code: str, named: str
) -> None:
    spoil(parts)
    with pytest.raises(LlamaForgeError) as caught:
        read_model(parts[0])
    assert caught.value.code == code
    assert named in caught.value.message
    assert isinstance(caught.value, InvalidFileError | NotFoundError)
    assert caught.value.hint


def test_a_part_that_lost_a_tensor_is_refused(whole: Path, parts: list[Path]) -> None:
    lost = parts[0].parent / "lost"
    lost.mkdir()
    short = gguf.GGUFWriter(lost / "short.gguf", "llama")
    short.add_uint16("split.no", 2)
    short.add_uint16("split.count", 3)
    short.add_int32("split.tensors.count", len(read_header(whole).tensors))
    short.add_tensor("blk.9.attn_norm.weight", np.ones(256, dtype=np.float32))
    short.write_header_to_file()
    short.write_kv_data_to_file()
    short.write_tensors_to_file()
    short.close()
    with pytest.raises(InvalidFileError, match="hold 15 tensors of 21"):
        read_model(parts[0], [*parts[:2], lost / "short.gguf"])
