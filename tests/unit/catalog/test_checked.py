"""A blob is read whole once: again only where it, or what was noted of it, changed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamaforge import paths
from llamaforge.catalog.checked import Checked, checked

LONG_AGO = 1_700_000_000


def blob(path: Path, value: float = 1.0) -> tuple[Path, str]:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("values", np.full(64, value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaforge.catalog.checked._SETTLED_NS", -1)


def reads(path: Path, digest: str) -> tuple[Checked, bool]:
    told: list[int] = []
    return checked(path, digest, told.append), bool(told)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path: Path) -> None:
    path, digest = blob(tmp_path / "m.gguf")
    assert reads(path, digest) == (Checked(digest, ""), True)
    assert reads(path, digest) == (Checked(digest, ""), False)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, (LONG_AGO, LONG_AGO)),
        lambda path: path.write_bytes(path.read_bytes()),
        lambda path: (path.rename(f"{path}.old"), blob(path)),
        lambda _: (paths.home() / "cache" / "checked-1.json").write_text("{"),
        lambda _: (paths.home() / "cache" / "checked-1.json").write_text("[1]"),
        lambda _: (paths.home() / "cache" / "checked-1.json").unlink(),
    ],
)
def test_what_changed_is_read_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path, digest = blob(tmp_path / "m.gguf")
    checked(path, digest)
    change(path)
    assert reads(path, digest) == (Checked(digest, ""), True)


@pytest.mark.usefixtures("settled")
def test_a_changed_byte_is_found_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    path, digest = blob(tmp_path / "m.gguf")
    os.utime(path, (LONG_AGO, LONG_AGO))
    checked(path, digest)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    found = checked(path, digest)
    assert found.digest == hashlib.sha256(content).hexdigest() != digest


def test_a_file_that_has_just_changed_is_not_noted(tmp_path: Path) -> None:
    path, digest = blob(tmp_path / "m.gguf")
    assert reads(path, digest)[1]
    assert reads(path, digest)[1]


@pytest.mark.usefixtures("settled")
def test_the_tensor_that_is_no_number_is_remembered(tmp_path: Path) -> None:
    path, digest = blob(tmp_path / "m.gguf", float("nan"))
    assert reads(path, digest) == (Checked(digest, "values"), True)
    assert reads(path, digest) == (Checked(digest, "values"), False)
