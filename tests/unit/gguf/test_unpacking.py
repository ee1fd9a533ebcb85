"""Blocks unpack bit for bit as gguf-py unpacks them, with the library and without."""

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from llamaforge.gguf import ggml as ggml_module
from llamaforge.gguf.ggml import is_unpackable, library, round_to_bfloat16, unpack, unpack_rows
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
    ggml = library()
    assert ggml is not None
    return ggml.pack(kind, random.standard_normal((rows, WIDTH), dtype=np.float32)).reshape(
        rows, -1
    )


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


def test_rounding_is_to_nearest_ties_to_even() -> None:
    bits = np.array([0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF807FFF], dtype=np.uint32)
    rounded = round_to_bfloat16(bits.view(np.float32))
    assert rounded.tolist() == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF80]


def test_a_library_that_is_laid_out_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml = library()
    assert ggml is not None
    monkeypatch.setitem(BLOCK_SIZES, TensorType.Q4_K, (256, 145))
    assert ggml._checked_address(TensorType.Q4_K) is None


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
