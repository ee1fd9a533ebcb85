"""A hostile header costs little: time and memory are bounded whatever it claims."""

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamaforge.errors import InvalidFileError, NotFoundError
from llamaforge.gguf.header import Header, read_header

MIB = 1024 * 1024
UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def gguf_bytes(*entries: bytes, tensors: bytes = b"", tensor_count: int = 0) -> bytes:
    return (
        b"GGUF" + struct.pack("<IQQ", 3, tensor_count, len(entries)) + b"".join(entries) + tensors
    )


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def string(key: bytes, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", STRING) + text(value)


def array(key: bytes, kind: int, count: int, items: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", ARRAY, kind, count) + items


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Hold what runs inside to 200 MB of Python's memory."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6


def refused(path: Path, use: Callable[[Header], object] = lambda _: None) -> InvalidFileError:
    with bounded_memory(), pytest.raises(InvalidFileError) as caught:
        use(read_header(path))
    assert caught.value.message.startswith(path.name)
    assert caught.value.hint
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hostile.gguf"


def test_a_few_million_empty_strings_are_walked_in_time(path: Path) -> None:
    path.write_bytes(gguf_bytes(array(b"k", STRING, 4 * MIB)))
    os.truncate(path, 33 * MIB)
    start = time.process_time()
    assert read_header(path).length("k") == 4 * MIB
    assert time.process_time() - start < 2


def test_many_arrays_share_one_allowance_of_strings(path: Path) -> None:
    items = bytes(8 * MIB)
    path.write_bytes(gguf_bytes(*(array(b"k%d" % i, STRING, MIB, items) for i in range(9))))
    with pytest.raises(InvalidFileError, match="claim more than 8,388,608 strings"):
        read_header(path)


def test_arrays_of_arrays_are_refused(path: Path) -> None:
    path.write_bytes(gguf_bytes(array(b"k", ARRAY, 1, struct.pack("<IQ", UINT32, 0))))
    assert "array of arrays" in refused(path).message


@pytest.mark.parametrize("letter", [b"x", b"\xff", "𐍈".encode()], ids=["ascii", "broken", "wide"])
def test_many_long_texts_do_not_fill_the_memory(path: Path, letter: bytes) -> None:
    value = letter * (15 * MIB // len(letter))
    path.write_bytes(gguf_bytes(*(string(b"k%d" % i, value) for i in range(4))))
    assert "texts" in refused(path).message


def test_tensor_names_count_as_texts(path: Path) -> None:
    name = text(b"n" * (15 * MIB))
    table = b"".join(name + struct.pack("<IQIQ", 1, 8, 0, 0) for _ in range(3))
    path.write_bytes(gguf_bytes(tensors=table, tensor_count=3))
    assert "texts" in refused(path).message


def test_an_array_too_large_to_be_a_vocabulary_is_not_decoded(path: Path) -> None:
    path.write_bytes(gguf_bytes(array(b"k", UINT8, 60 * MIB)))
    os.truncate(path, 61 * MIB)
    refused(path, lambda header: header.numbers("k"))
    path.write_bytes(gguf_bytes(array(b"k", STRING, 1, struct.pack("<Q", 2**33))))
    os.truncate(path, 2**33 + 1000)
    refused(path, lambda header: header.strings("k"))


def test_an_array_is_decoded_as_what_it_is(path: Path) -> None:
    numbers = array(b"n", UINT32, 2, struct.pack("<II", 7, 2**32 - 1))
    flags = array(b"f", 7, 2, b"\x01\x00")
    words = array(b"s", STRING, 3, text(b"a") + text(b"") + text(b"\xff"))
    path.write_bytes(gguf_bytes(numbers, flags, words))
    header = read_header(path)
    assert header.numbers("n") == [7, 2**32 - 1]
    assert header.numbers("f") == [1, 0]
    assert header.strings("s") == ["a", "", "\udcff"]
    assert header.strings("absent") == header.numbers("absent") == []
    for wrong in (lambda: header.strings("n"), lambda: header.numbers("s")):
        with pytest.raises(InvalidFileError, match="does not hold"):
            wrong()


@pytest.mark.parametrize("lengths", [(2**63, 0), (30, 0), (0, 17)])
def test_a_file_that_changes_after_its_header_was_read_is_noticed(
    path: Path, lengths: tuple[int, int]
) -> None:
    path.write_bytes(gguf_bytes(array(b"k", STRING, 2, text(b"a" * 8) + text(b"b" * 8))))
    header = read_header(path)
    changed = struct.pack("<Q", lengths[0]) + bytes(8) + struct.pack("<Q", lengths[1]) + bytes(8)
    path.write_bytes(path.read_bytes()[:-32] + changed)
    if lengths == (0, 17):
        assert header.strings("k") == ["", ""]  # other strings of other lengths, all inside
    else:
        with pytest.raises(InvalidFileError, match="changed"):
            header.strings("k")
    os.truncate(path, 40)
    with pytest.raises(InvalidFileError, match="changed"):
        header.strings("k")
    path.unlink()
    with pytest.raises(NotFoundError, match="does not exist"):
        header.strings("k")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(InvalidFileError, match="is not a file"):
        read_header(pipe)


def test_a_big_endian_file_is_called_by_its_name(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64))
    assert "big-endian" in refused(path).message


def test_a_tensor_without_weights_is_refused(path: Path) -> None:
    for shape in ((0,), (32, 0), (0, 32)):
        sizes = b"".join(struct.pack("<Q", size) for size in shape)
        entry = text(b"t") + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", 0, 0)
        path.write_bytes(gguf_bytes(tensors=entry, tensor_count=1) + bytes(256))
        assert "'t'" in refused(path).message


def test_a_key_that_stands_twice_is_refused_and_shown_without_escapes(path: Path) -> None:
    path.write_bytes(gguf_bytes(string(b"\x1b[31mk", b"a"), string(b"\x1b[31mk", b"b")))
    message = refused(path).message
    assert "appears twice" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("alignment", [4, 7, 12, 2**32 - 1])
def test_an_alignment_that_is_no_multiple_of_eight_is_refused(path: Path, alignment: int) -> None:
    entry = text(b"general.alignment") + struct.pack("<II", UINT32, alignment)
    path.write_bytes(gguf_bytes(entry) + bytes(64))
    assert str(alignment) in refused(path).message


@pytest.mark.parametrize("value", [struct.pack("<IB", 7, 1), struct.pack("<If", 6, 32.0)])
def test_an_alignment_of_a_wrong_kind_is_refused(path: Path, value: bytes) -> None:
    path.write_bytes(gguf_bytes(text(b"general.alignment") + value) + bytes(64))
    assert "alignment" in refused(path).message
