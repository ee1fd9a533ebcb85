"""Compile every Triton kernel for CUDA, which needs no GPU; say as JSON what the code does."""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llamaforge.gguf.types import BLOCK_SIZES
from llamaforge.training import unpack_triton

SIGNATURE = {
    "blocks": "*u8",
    "out": "*bf16",
    "ids": "*i64",
    "count": "i32",
    "row_blocks": "i32",
    "rows": "i32",
    "BLOCKS": "constexpr",
}
NAMES = list(SIGNATURE)


def source(kernel: Any, weights: int, *, gathers: bool) -> ASTSource:
    """Return a kernel with its arguments as `unpack_triton` gives them; tensors are aligned."""
    fixed: dict[str, Any] = {"BLOCKS": unpack_triton._WEIGHTS_A_PROGRAM // weights}
    signature = dict(SIGNATURE)
    if not gathers:
        fixed["ids"] = None
        signature["ids"] = "constexpr"
    aligned = {(NAMES.index(name),): [["tt.divisibility", 16]] for name in ("blocks", "out")}
    constants = {(NAMES.index(name),): value for name, value in fixed.items()}
    return ASTSource(kernel, signature, constants, aligned)


def main() -> None:
    """Compile for the device of compute capability `sys.argv[1]`, such as 80."""
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    found = {}
    for kind, kernel in unpack_triton._KERNELS.items():
        for gathers in (False, True):
            made = triton.compile(source(kernel, BLOCK_SIZES[kind][0], gathers=gathers), target)
            code = made.asm["ptx"]
            found[f"{kind.name} {'gather' if gathers else 'unpack'}"] = {
                "rounds": "cvt.rn.bf16" in code,
                "wide stores": "st.global.v4.b32" in code,
                "bytes": len(made.asm["cubin"]),
            }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
