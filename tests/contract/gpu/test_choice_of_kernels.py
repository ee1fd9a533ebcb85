"""Triton's kernels are used where they work; where they do not, that is said and work goes on."""

import importlib.util

import pytest
import torch

from llamaforge.gguf.types import TensorType
from llamaforge.training import unpack_device, unpack_torch
from tools.random_blocks import random_blocks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_device, "_kernels", unpack_device._kernels.__wrapped__)


def test_kernels_that_fail_leave_the_work_to_torch_and_name_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("no C compiler was found\nand many lines more")

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # stands for CUDA
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(unpack_device, "_tried", fail)
    blocks = torch.from_numpy(random_blocks(TensorType.Q4_K, 3, 256))
    with pytest.warns(RuntimeWarning, match=r"RuntimeError: no C compiler was found\): blocks are"):
        found = unpack_device.unpack(blocks, TensorType.Q4_K, 256, torch.float32)
    want = unpack_torch.unpack(blocks, TensorType.Q4_K, 256, torch.float32)
    assert torch.equal(found, want)


def test_without_triton_there_are_no_kernels_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert unpack_device._kernels(CPU) is None
    assert not recwarn.list


def test_other_devices_than_cuda_are_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name in ("cpu", "mps", "xpu", "meta"):
        assert unpack_device._kernels(torch.device(name)) is None
