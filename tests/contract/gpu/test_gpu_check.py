"""`make gpu-check` says where it cannot work, and what it calls exact is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_unpack
from benchmarks.gpu_arms import kind_of
from llamaforge.gguf.types import TensorType
from llamaforge.training import unpack_torch

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_cuda_it_says_so_in_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.endswith("finds no CUDA device, so nothing was checked.")


def test_every_type_is_checked_and_a_wrong_weight_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_unpack, "_CHECKED_ROWS", 600)
    monkeypatch.setattr(gpu_unpack, "_CHECKED_WIDTH", 256)
    rows = gpu_unpack.correctness(CPU)
    assert {row[0].split()[0] for row in rows} == {kind.name for kind in unpack_torch.KINDS}
    assert not gpu_unpack.differs(rows)

    def slightly_off(blocks: torch.Tensor) -> torch.Tensor:
        values = unpack_torch._q8_0(blocks)
        values[0, -1] += 1
        return values

    monkeypatch.setitem(unpack_torch._UNPACKERS, TensorType.Q8_0, slightly_off)
    found = gpu_unpack.correctness(CPU)
    assert gpu_unpack.differs(found)
    assert [row[0].split()[0] for row in found if row[1] != "exact"] == ["Q8_0"]


def test_the_model_has_the_mix_of_q4_k_m() -> None:
    kinds = [kind_of(16)(f"blk.{layer}.ffn_down.weight") for layer in range(16)]
    better = [layer for layer, kind in enumerate(kinds) if kind is TensorType.Q6_K]
    assert better == [0, 1, 4, 7, 10, 13, 14, 15]
    assert kind_of(16)("blk.0.ffn_up.weight") is TensorType.Q4_K
    assert kind_of(16)("token_embd.weight") is TensorType.Q6_K
