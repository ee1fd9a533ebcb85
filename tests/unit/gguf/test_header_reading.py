"""The header reader says what gguf-py says, decodes nothing unasked, and survives any file."""

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamaforge.errors import InvalidFileError, LlamaForgeError
from llamaforge.gguf import header as header_module
from llamaforge.gguf.header import ArrayRef, read_header
from tools.random_models import FILE_TYPES, Shape, Vocabulary, write_random_model

SMALL = Shape(layers=1, feed_forward=256)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("header")
    return write_random_model(folder / "m.gguf", SMALL, Vocabulary.byte_level(), "Q4_K_M")


@pytest.mark.parametrize("quantization", FILE_TYPES)
def test_it_says_what_gguf_py_says(quantization: str, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", SMALL, Vocabulary.byte_level(), quantization)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for key, field in fields.items():
        expected = field.contents()
        if isinstance(expected, list):
            is_text = bool(expected) and isinstance(expected[0], str)
            assert (ours.strings(key) if is_text else ours.numbers(key)) == expected
            assert ours.length(key) == len(expected)
        elif isinstance(expected, float):
            assert ours.get(key) == pytest.approx(expected)
        else:
            assert ours.get(key) == expected
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert int(info.type) == int(tensor.tensor_type)
        assert (info.offset, info.n_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert info.elements == tensor.n_elements
    assert ours.parameters == sum(tensor.n_elements for tensor in theirs.tensors)
    assert ours.tensor_bytes == sum(tensor.n_bytes for tensor in theirs.tensors)


def test_no_array_is_decoded_that_nobody_asked_for(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise AssertionError("an array was decoded")

    monkeypatch.setattr(header_module.Header, "_read", refuse)
    header = read_header(model)
    assert isinstance(header.metadata["tokenizer.ggml.tokens"], ArrayRef)
    assert header.length("tokenizer.ggml.tokens") == 265
    with pytest.raises(AssertionError, match="was decoded"):
        header.strings("tokenizer.ggml.tokens")


def test_a_file_cut_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    steps = [*range(0, 4000, 37), *range(4000, len(content) - 1, len(content) // 60)]
    for size in [*steps, len(content) - 1]:
        cut.write_bytes(content[:size])
        with pytest.raises(InvalidFileError) as caught:
            read_header(cut)
        assert caught.value.message.endswith(".")
        assert caught.value.hint


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)
)
def test_a_damaged_header_is_read_or_refused_and_nothing_else(
    model: Path, tmp_path: Path, damages: list[tuple[float, bytes]]
) -> None:
    content = bytearray(model.read_bytes())
    header_bytes = 7000
    for place, data in damages:
        start = int(place * header_bytes)
        content[start : start + len(data)] = data
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    try:
        header = read_header(path)
        for key in list(header.metadata):
            header.get(key)
        header.strings("tokenizer.ggml.tokens")
        assert all(
            info.offset >= 0 and info.offset + info.n_bytes <= len(content)
            for info in header.tensors.values()
        )
    except LlamaForgeError:
        pass


def lie(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, dimensions: list[int], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack("<I", len(dimensions)) + b"".join(
        struct.pack("<Q", size) for size in dimensions
    )
    return text(name) + shape + struct.pack("<IQ", kind, offset)


LIES = {
    "empty": b"",
    "not gguf": b"PK\x03\x04" + bytes(100),
    "version 1": lie(version=1),
    "version of the future": lie(version=99),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64),
    "countless keys": lie(keys=2**62),
    "countless tensors": lie(tensors=2**62),
    "long key": lie(struct.pack("<Q", 2**63), keys=1),
    "long string": lie(text(b"k"), struct.pack("<IQ", 8, 2**40), b"x" * 64, keys=1),
    "unknown kind": lie(text(b"k"), struct.pack("<I", 77), bytes(64), keys=1),
    "endless array": lie(text(b"k"), struct.pack("<IIQ", 9, 4, 2**61), bytes(64), keys=1),
    "deep arrays": lie(text(b"k"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 5000, keys=1),
    "many dimensions": lie(tensor(b"t", [1] * 99), bytes(64), tensors=1),
    "huge tensor": lie(tensor(b"t", [2**32, 2**32]), bytes(64), tensors=1),
    "overflowing tensor": lie(tensor(b"t", [2**63, 2]), bytes(64), tensors=1),
    "tensor beyond the end": lie(tensor(b"t", [32], 0, 2**40), bytes(64), tensors=1),
    "unaligned tensor": lie(tensor(b"t", [8], 0, 3), bytes(256), tensors=1),
    "row no block fits": lie(tensor(b"t", [33], 2), bytes(256), tensors=1),
    "unknown type": lie(tensor(b"t", [32], 9999), bytes(256), tensors=1),
    "same tensor twice": lie(tensor(b"t", [8]) + tensor(b"t", [8]), bytes(256), tensors=2),
    "alignment of zero": lie(
        text(b"general.alignment"), struct.pack("<II", 4, 0), tensor(b"t", [8]), bytes(256),
        tensors=1, keys=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[name])
    with pytest.raises(LlamaForgeError) as caught:
        read_header(path)
    assert "lie.gguf" in caught.value.message


def test_a_file_that_is_not_there_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(LlamaForgeError):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(LlamaForgeError):
        read_header(tmp_path)
