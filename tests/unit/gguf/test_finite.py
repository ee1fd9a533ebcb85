"""Scales that are no numbers are found without unpacking: judged by ggml's own unpacking."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamaforge.gguf.finite import not_finite
from llamaforge.gguf.ggml import is_unpackable, unpack
from llamaforge.gguf.header import read_header
from llamaforge.gguf.types import BLOCK_SIZES, TensorType

KINDS = [kind for kind in TensorType if is_unpackable(kind)]


def written(path: Path, kind: TensorType, data: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("good", np.ones(32, np.float32))
    writer.add_tensor("tried", data, raw_dtype=gguf.GGMLQuantizationType(int(kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_verdict_is_that_of_unpacking(kind: TensorType, tmp_path: Path) -> None:
    weights, size = BLOCK_SIZES[kind]
    generator = np.random.default_rng(int(kind))
    verdicts = set()
    for number in range(150):
        blocks = 1 + number % 3 if weights > 1 else 4
        data = generator.integers(0, 256, (1, blocks * size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = unpack(kind, data, (1, blocks * weights))
        expected = bool(np.isfinite(values).all())
        if kind is TensorType.MXFP4:  # a scale too large is refused, whatever it stands beside
            assert expected or data[:, ::size].max() > 252
            expected = data[:, ::size].max() <= 252
        path = written(tmp_path / "m.gguf", kind, data)
        found = not_finite(read_header(path))
        assert found == (None if expected else "tried")
        verdicts.add(expected)
    assert verdicts == ({True} if kind is TensorType.NVFP4 else {True, False})
