"""Packed matrices of random numbers."""

import numpy as np
import torch

from llamaforge.gguf.ggml import pack_rows
from llamaforge.gguf.types import TensorType
from llamaforge.training.packed import PackedWeight


def random_head(rows: int, width: int) -> PackedWeight:
    """Return a Q8_0 matrix of shape [rows, width]."""
    values = np.random.default_rng(5).standard_normal((rows, width), dtype=np.float32)
    blocks = pack_rows(TensorType.Q8_0, values)
    return PackedWeight(torch.from_numpy(blocks), TensorType.Q8_0, rows, width)
