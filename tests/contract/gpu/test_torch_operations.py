"""Blocks that torch's operations unpack give the very bits that gguf-py gives."""

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch

from llamaforge.gguf.types import BLOCK_SIZES, TensorType
from llamaforge.training import unpack_torch
from tools.random_blocks import KINDS, random_blocks

WIDTH = 768  # of every block size a multiple, and of none of the chunk sizes


def theirs(kind: TensorType, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = gguf.quants.dequantize(
        blocks, gguf.GGMLQuantizationType(int(kind))
    )
    return values


def test_every_type_of_the_list_has_operations() -> None:
    assert set(KINDS) == unpack_torch.KINDS


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_bits_of_gguf_py(kind: TensorType, rows: int) -> None:
    blocks = random_blocks(kind, rows, WIDTH, seed=rows)
    want = theirs(kind, blocks)
    assert np.isfinite(want).all()
    found = unpack_torch.unpack(torch.from_numpy(blocks), kind, WIDTH, torch.float32)
    assert found.shape == (rows, WIDTH)
    np.testing.assert_array_equal(found.numpy().view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_narrower_types_are_rounded_once(kind: TensorType, dtype: torch.dtype) -> None:
    blocks = random_blocks(kind, 5, WIDTH)
    found = unpack_torch.unpack(torch.from_numpy(blocks), kind, WIDTH, dtype)
    want = torch.from_numpy(np.array(theirs(kind, blocks))).to(dtype)
    assert torch.equal(found.view(torch.int16), want.view(torch.int16))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_at_odd_addresses_and_chunks_that_do_not_fit_change_nothing(
    kind: TensorType, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = torch.from_numpy(random_blocks(kind, 9, WIDTH))
    whole = unpack_torch.unpack(blocks, kind, WIDTH, torch.float32)
    monkeypatch.setattr(unpack_torch, "_CHUNK_WEIGHTS", 4 * BLOCK_SIZES[kind][0])
    assert torch.equal(unpack_torch.unpack(blocks, kind, WIDTH, torch.float32), whole)
    assert torch.equal(unpack_torch.unpack(blocks[2:5], kind, WIDTH, torch.float32), whole[2:5])


def test_no_rows_give_no_weights() -> None:
    empty = torch.empty(0, 18 * (WIDTH // 32), dtype=torch.uint8)
    found = unpack_torch.unpack(empty, TensorType.Q4_0, WIDTH, torch.bfloat16)
    assert found.shape == (0, WIDTH)
