"""Blocks unpack bit for bit as gguf-py unpacks them, with the library and without."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from llamaforge.gguf import ggml as ggml_module
from llamaforge.gguf.ggml import (
    Ggml,
    is_unpackable,
    library,
    round_to_bfloat16,
    unpack,
    unpack_rows,
)
from llamaforge.gguf.types import BLOCK_SIZES, FLOAT_TYPES, TensorType, row_bytes

WITH_NUMPY = [
    kind for kind in BLOCK_SIZES
    if kind not in FLOAT_TYPES and gguf.GGMLQuantizationType(int(kind)) in gguf.quants._type_traits
]  # fmt: skip
WIDTH = 512


def random_blocks(kind: TensorType, rows: int) -> npt.NDArray[np.uint8]:
    """Return packed random numbers; random bytes for types that ggml packs only with samples."""
    random = np.random.default_rng(0)
    if kind.name.startswith(("IQ", "TQ", "MXFP", "NVFP")):
        return random.integers(0, 256, (rows, row_bytes(kind, WIDTH)), dtype=np.uint8)
    # The library itself, also where the code under test has to do without it.
    ggml = library()
    assert ggml is not None
    values = random.standard_normal((rows, WIDTH), dtype=np.float32)
    packed = np.empty((rows, row_bytes(kind, WIDTH)), dtype=np.uint8)
    ggml.pack(kind, values.ctypes.data, packed.ctypes.data, rows, WIDTH)
    return packed


@pytest.fixture(params=["library", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(ggml_module, "library", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("rows", [1, 7, 1031])
@pytest.mark.parametrize("kind", WITH_NUMPY, ids=lambda kind: kind.name)
def test_every_type_unpacks_bit_equal_to_gguf_py(kind: TensorType, rows: int, path: str) -> None:
    if kind.name.startswith("IQ") or (rows == 1031 and path == "numpy"):
        rows = min(rows, 7)
    blocks = random_blocks(kind, rows)
    expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType(int(kind)))
    found = unpack(kind, blocks, (rows, WIDTH))
    # Random bytes may spell scales that are no numbers: both must say so at the same places.
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("kind", [TensorType.Q4_K, TensorType.Q6_K, TensorType.Q8_0])
def test_bfloat16_is_the_nearest_one(kind: TensorType, path: str) -> None:
    rows = 600 if path == "library" else 8
    blocks = random_blocks(kind, rows)
    target = np.empty((rows, WIDTH), dtype=np.uint16)
    unpack_rows(kind, blocks.ctypes.data, target.ctypes.data, rows, WIDTH, bfloat16=True)
    exact = gguf.dequantize(blocks, gguf.GGMLQuantizationType(int(kind)))
    assert np.array_equal(target, round_to_bfloat16(exact))


@pytest.mark.parametrize("kind", sorted(FLOAT_TYPES), ids=lambda kind: kind.name)
def test_plain_numbers_are_only_cast(kind: TensorType, path: str) -> None:
    values = np.random.default_rng(1).standard_normal((5, 24), dtype=np.float32)
    packed = gguf.quantize(values, gguf.GGMLQuantizationType(int(kind))).view(np.uint8)
    expected = gguf.dequantize(packed, gguf.GGMLQuantizationType(int(kind)))
    assert np.array_equal(unpack(kind, packed, (5, 24)), expected)
    target = np.empty((5, 24), dtype=np.uint16)
    unpack_rows(kind, packed.ctypes.data, target.ctypes.data, 5, 24, bfloat16=True)
    assert np.array_equal(target, round_to_bfloat16(expected))


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadPoolExecutor(2) as helpers:
        monkeypatch.setattr(ggml_module, "_helpers", lambda: helpers)
        monkeypatch.setattr(ggml_module, "physical_cores", lambda: 3)
        yield


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 1031])
@pytest.mark.usefixtures("three_threads")
def test_threads_leave_no_row_out_and_write_none_twice(
    rows: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml_module, "_PARALLEL_WEIGHTS", 1)
    monkeypatch.setattr(ggml_module, "_CHUNK_WEIGHTS", 3 * WIDTH)
    blocks = random_blocks(TensorType.Q8_0, rows)
    expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    room = np.full((rows + 2, WIDTH), 77.0, dtype=np.float32)  # a row to spare on either side
    unpack_rows(TensorType.Q8_0, blocks.ctypes.data, room[1:].ctypes.data, rows, WIDTH)
    assert np.array_equal(room[1:-1], expected)
    assert (room[0] == 77.0).all()
    assert (room[-1] == 77.0).all()
    short = np.full((rows + 2, WIDTH), 7, dtype=np.uint16)
    source, target = blocks.ctypes.data, short[1:].ctypes.data
    unpack_rows(TensorType.Q8_0, source, target, rows, WIDTH, bfloat16=True)
    assert np.array_equal(short[1:-1], round_to_bfloat16(expected))
    assert (short[0] == 7).all()
    assert (short[-1] == 7).all()


def test_every_type_that_llama_cpp_writes_can_be_trained_on() -> None:
    written = [kind for kind in TensorType if kind.name.startswith(("Q", "IQ", "TQ", "MXFP", "BF"))]
    unknown = {kind.name for kind in written if not is_unpackable(kind)}
    assert unknown <= {"Q8_1", "Q8_K"}  # which stand only inside of products, never in a file


def test_rounding_is_to_nearest_ties_to_even() -> None:
    bits = np.array([0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF807FFF], dtype=np.uint32)
    rounded = round_to_bfloat16(bits.view(np.float32))
    assert rounded.tolist() == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF80]


def test_a_library_that_is_laid_out_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml = library()
    assert ggml is not None
    monkeypatch.setitem(BLOCK_SIZES, TensorType.Q4_K, (256, 145))
    assert ggml._checked_address(TensorType.Q4_K) is None
    monkeypatch.setitem(BLOCK_SIZES, TensorType.Q8_0, (32, 35))
    with pytest.raises(OSError, match="not laid out"):
        Ggml(ggml._library)
    library.cache_clear()
    assert library() is None
    monkeypatch.undo()
    library.cache_clear()
    assert library() is not None


def test_what_can_be_trained_on_is_known_without_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = [kind for kind in TensorType if is_unpackable(kind)]
    assert {TensorType.Q4_K, TensorType.F16, TensorType.Q8_0} <= set(kinds)
    monkeypatch.setattr(ggml_module, "library", lambda: None)
    assert is_unpackable(TensorType.Q4_K)


def test_a_row_has_whole_blocks() -> None:
    assert row_bytes(TensorType.Q4_K, 512) == 2 * 144
    with pytest.raises(ValueError, match="whole number"):
        row_bytes(TensorType.Q4_K, 300)
