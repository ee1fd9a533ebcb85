"""The Triton kernels give gguf-py's bits under Triton's interpreter, and compile for CUDA."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: pip install 'llamaforge[kernels]', or a CUDA build of torch",
)


def said(script: str, *arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    """Return what a process answers that runs `script` of this folder."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.contract.gpu.{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return answer


def test_kernels_under_the_interpreter_give_the_bits_of_gguf_py() -> None:
    found = said("interpreted", TRITON_INTERPRET="1")
    assert set(found) == {"Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
    assert [(kind, what) for kind, all_ in found.items() for what, holds in all_.items()
            if not holds] == []  # fmt: skip


@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_for_cuda_round_to_bfloat16_and_store_sixteen_bytes_at_a_time(
    capability: str, tmp_path: Path
) -> None:
    pytest.importorskip("triton.backends.nvidia")
    found = said("compiled", capability, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 12
    for kernel, facts in found.items():
        assert facts["rounds"], kernel
        assert facts["wide stores"], kernel
        assert facts["bytes"] > 0, kernel
