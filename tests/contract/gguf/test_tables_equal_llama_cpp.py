"""What stands here as a table is what llama.cpp's own library and gguf-py say."""

from pathlib import Path

import gguf
import pytest

from llamaforge.gguf.ggml import library
from llamaforge.gguf.header import read_header
from llamaforge.gguf.types import BLOCK_SIZES, FILE_TYPE_NAMES, FLOAT_TYPES, TensorType


def test_block_sizes_are_those_of_gguf_py() -> None:
    theirs = {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {kind.name: sizes for kind, sizes in BLOCK_SIZES.items()}
    # Q8_1 never stands in a file; gguf-py still gives it the size it had in ggml's first years.
    shared = (ours.keys() & theirs.keys()) - {"Q8_1"}
    assert len(shared) >= 30
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    for name in shared:
        assert gguf.GGMLQuantizationType[name].value == TensorType[name].value
    assert set(BLOCK_SIZES) == set(TensorType)


@pytest.mark.parametrize("kind", TensorType, ids=lambda kind: kind.name)
def test_block_sizes_are_those_of_the_library(kind: TensorType) -> None:
    ggml = library()
    assert ggml is not None
    traits = ggml._library.ggml_get_type_traits(int(kind)).contents
    assert (traits.blck_size, traits.type_size) == BLOCK_SIZES[kind]
    assert traits.type_name.decode().lower() == kind.name.lower()
    is_plain = kind in FLOAT_TYPES or kind.name in {"I8", "I16", "I32", "I64", "F64"}
    assert traits.is_quantized != is_plain


def test_file_types_are_named_as_llama_cpp_names_them() -> None:
    theirs = {kind.value: kind.name for kind in gguf.LlamaFileType}
    for number, name in FILE_TYPE_NAMES.items():
        full = theirs[number].removeprefix("MOSTLY_").removeprefix("ALL_")
        assert full == {"MXFP4": "MXFP4_MOE"}.get(name, name)


@pytest.mark.slow
def test_a_real_vocabulary_reads_as_gguf_py_reads_it(vocabulary_file: Path) -> None:
    ours, theirs = read_header(vocabulary_file), gguf.GGUFReader(vocabulary_file)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for key, field in fields.items():
        expected = field.contents()
        if isinstance(expected, list):
            is_text = isinstance(expected[0], str)
            assert (ours.strings(key) if is_text else ours.numbers(key)) == expected
        elif isinstance(expected, float):
            assert ours.get(key) == pytest.approx(expected)
        else:
            assert ours.get(key) == expected
    assert len(ours.tensors) == len(theirs.tensors)
