"""What the Triton kernels give under Triton's interpreter, as JSON; run with TRITON_INTERPRET=1.

A process of its own: the interpreter has to be asked for before Triton is imported.
"""

import json
import sys

import gguf
import numpy as np
import torch
from torch import Tensor

from llamaforge.gguf.types import TensorType
from llamaforge.training import unpack_device, unpack_triton
from tools.random_blocks import random_blocks

ROWS, WIDTH = 11, 768
IDS = torch.tensor([[10, 0, 3], [3, 7, 10]])


def same(found: Tensor, want: Tensor) -> bool:
    bits = torch.int32 if want.dtype is torch.float32 else torch.int16
    return torch.equal(found.view(bits), want.view(bits))


def judge(kind: TensorType) -> dict[str, bool]:
    """Return what holds for the kernel of `kind`."""
    packed = random_blocks(kind, ROWS, WIDTH, seed=2)
    blocks = torch.from_numpy(packed)
    values = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(int(kind)))
    want = torch.from_numpy(np.array(values))

    def unpacked(dtype: torch.dtype) -> Tensor:
        return unpack_triton.unpack(blocks, kind, WIDTH, dtype)

    # The interpreter cuts float32 off to make bfloat16; compiled kernels round.
    cut = (want.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    narrow = unpacked(torch.bfloat16)
    gathered = unpack_triton.gather(blocks, IDS, kind, WIDTH, torch.float32)
    unknown = torch.tensor([ROWS, -1, 4], dtype=torch.int32)
    partly = unpack_triton.gather(blocks, unknown, kind, WIDTH, torch.float32)
    chosen = unpack_device.unpack(blocks[3:4], kind, WIDTH, torch.float32)
    return {
        "float32": same(unpacked(torch.float32), want),
        "float16": same(unpacked(torch.float16), want.half()),
        "bfloat16": same(narrow, want.bfloat16()) or same(narrow, cut),
        "gathered": same(gathered, want[IDS]),
        "unknown rows are no numbers": bool(partly[:2].isnan().all()),
        "known rows beside them": same(partly[2], want[4]),
        "no rows": unpack_triton.unpack(blocks[:0], kind, WIDTH, torch.float32).shape[0] == 0,
        "chosen": unpack_device._kernels(blocks.device) is unpack_triton
        and same(chosen, want[3:4]),
    }


if __name__ == "__main__":
    json.dump({kind.name: judge(kind) for kind in sorted(unpack_triton.KINDS)}, sys.stdout)
