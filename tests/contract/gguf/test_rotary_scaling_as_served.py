"""A file's rotary scaling is read as llama.cpp reads it, also where keys are left out or old."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llamaforge.evaluation.llama import Server
from llamaforge.gguf.architectures import configuration
from llamaforge.gguf.header import read_header
from tools.random_models import Shape, Vocabulary, write_random_model

SHAPE = Shape(hidden=64, layers=2, heads=2, key_value_heads=1, head_dim=32, feed_forward=64)
IDS = [5, 80, 33, 120, 7, 64, 99, 12] * 6


def written(path: Path, scaling: str | None) -> Path:
    shape = replace(SHAPE, rope_scaling=scaling)
    return write_random_model(path, shape, Vocabulary.byte_level(), "F32")


def renamed(path: Path, old: str, new: str) -> None:
    """Rename a key in place; a name of another length would move what lies behind it."""
    content = path.read_bytes()
    before, after = (struct.pack("<Q", len(key)) + key.encode() for key in (old, new))
    assert len(before) == len(after)
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


def served(path: Path) -> npt.NDArray[np.float32]:
    with Server(path, context=64) as server:
        return server.log_probabilities(IDS, [len(IDS) - 1])


def without_type(path: Path) -> None:
    renamed(path, "llama.rope.scaling.type", "llama.rope.scaling.hype")


def with_factor_of_zero(path: Path) -> None:
    key = b"llama.rope.scaling.factor" + struct.pack("<I", 6)
    content = path.read_bytes()
    old, new = (key + struct.pack("<f", value) for value in (4.0, 0.0))
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("change", "twin"), [(without_type, "linear"), (with_factor_of_zero, None)]
)
def test_what_is_left_out_means_what_it_means_when_served(
    change: Callable[[Path], None], twin: str | None, tmp_path: Path
) -> None:
    path, other = written(tmp_path / "m.gguf", "linear"), written(tmp_path / "twin.gguf", twin)
    change(path)
    assert np.array_equal(served(path), served(other))
    ours, theirs = configuration(read_header(path)), configuration(read_header(other))
    assert ours["rope_parameters"] == theirs["rope_parameters"]


def test_scaling_changes_what_is_served(tmp_path: Path) -> None:
    plain, linear = (
        served(written(tmp_path / f"{scaling}.gguf", scaling)) for scaling in (None, "linear")
    )
    assert not np.array_equal(plain, linear)
