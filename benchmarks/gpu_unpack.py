"""Unpacking on a device: are the weights those of gguf-py, and how fast are they there?"""

import statistics
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import gguf
import numpy as np
import torch
from torch import Tensor

from llamaforge.gguf.types import FLOAT_TYPES, TensorType
from llamaforge.training import unpack_device, unpack_torch
from tools.random_blocks import KINDS, random_blocks

Row = tuple[str, str, str, str, str]
"""What was measured, its figure, the peer, the peer's figure, the ratio."""

_CHECKED_ROWS, _CHECKED_WIDTH = 1025, 2048
_MEASURED_WEIGHTS: Final = 1 << 27
"""Their packed bytes and bfloat16 values are several times what a GPU's cache holds."""
_MEASURED_WIDTH: Final = 4096
_COPIED_BYTES: Final = 1 << 28
_WARM_ROUNDS: Final = 3
_ROUNDS: Final = 10


def ways(device: torch.device) -> dict[str, Any]:
    """Return the modules that unpack on `device`, by the words for the table."""
    found: dict[str, Any] = {"torch operations": unpack_torch}
    kernels: ModuleType | None = unpack_device._kernels(device)  # noqa: SLF001 - whether they work
    if kernels is not None:
        found["Triton"] = kernels
    return found


def correctness(device: torch.device) -> list[Row]:
    """Return a row for every type: whether all ways give the bits of gguf-py."""
    return [_checked(kind, device) for kind in KINDS]


def differs(rows: list[Row]) -> bool:
    """Return whether a row of `correctness` is bad."""
    return any(not row[1].startswith("exact") for row in rows)


def _checked(kind: TensorType, device: torch.device) -> Row:
    packed = random_blocks(kind, _CHECKED_ROWS, _CHECKED_WIDTH)
    values = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(int(kind)))
    want = torch.from_numpy(np.array(values)).to(device)
    blocks = torch.from_numpy(packed).to(device)
    ids = torch.tensor([_CHECKED_ROWS - 1, 0, 512, 0], device=device)
    used = [(name, way) for name, way in ways(device).items() if kind in way.KINDS]
    wrong = []
    for name, way in used:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = way.unpack(blocks, kind, _CHECKED_WIDTH, dtype)
            wrong += [f"{name}, {dtype}"] * (not _same(found, want.to(dtype)))
    gathered = unpack_device.gather(blocks, ids, kind, _CHECKED_WIDTH, torch.float32)
    wrong += ["gathered rows"] * (not _same(gathered, want[ids]))
    figure = "exact" if not wrong else f"DIFFERS: {'; '.join(wrong)}"
    return (f"{kind.name} weights, {' and '.join(name for name, _ in used)}", figure, "gguf-py",
            "", "")  # fmt: skip


def _same(found: Tensor, want: Tensor) -> bool:
    bits = torch.int32 if want.dtype is torch.float32 else torch.int16
    return found.shape == want.shape and torch.equal(found.view(bits), want.view(bits))


def bandwidth(device: torch.device) -> list[Row]:
    """Return a row for every type and way: bytes read and written a second against a copy's."""
    copied = 2 * _COPIED_BYTES / _copying_seconds(device)
    rows = []
    for kind in KINDS:
        if kind in FLOAT_TYPES:
            continue
        blocks = _measured_blocks(kind).to(device)
        moved = blocks.numel() + 2 * _MEASURED_WEIGHTS
        for name, way in ways(device).items():
            if kind not in way.KINDS:
                continue
            seconds = _seconds(_unpacking(way, blocks, kind), device)
            speed = moved / seconds
            rows.append(
                (
                    f"{kind.name} to bfloat16, {name}",
                    f"{speed / 1e9:,.0f} GB/s",
                    "device copy",
                    f"{copied / 1e9:,.0f} GB/s",
                    f"{speed / copied:.2f}",
                )
            )
    return rows


def _copying_seconds(device: torch.device) -> float:
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _seconds(lambda: target.copy_(source), device)


def _unpacking(way: Any, blocks: Tensor, kind: TensorType) -> Callable[[], object]:
    return lambda: way.unpack(blocks, kind, _MEASURED_WIDTH, torch.bfloat16)


def _measured_blocks(kind: TensorType) -> Tensor:
    """Return blocks of `_MEASURED_WEIGHTS` weights; some rows repeat, which costs no less time."""
    rows = _MEASURED_WEIGHTS // _MEASURED_WIDTH
    own = torch.from_numpy(random_blocks(kind, 512, _MEASURED_WIDTH))
    return own.repeat(rows // 512, 1)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of `work` on a CUDA device, which is warm."""
    for _ in range(_WARM_ROUNDS):
        work()
    stream = torch.cuda.current_stream(device)
    times: list[float] = []
    for _ in range(_ROUNDS):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)
