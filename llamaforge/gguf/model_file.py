"""A model's file, or the several that it was split into, as one header.

Source of the format: `tools/gguf-split` of llama.cpp. The first part has the metadata; each has
`split.no`, counted from zero, `split.count` and a table of its own tensors.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from llamaforge.errors import InvalidFileError, NotFoundError
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.served import as_served

MAX_PARTS: Final = 1024
_NAME: Final = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")
SPLIT_NUMBER: Final = "split.no"
"""Which part a file is, counted from zero."""
_COUNT, _TENSORS = "split.count", "split.tensors.count"
SPLIT_KEYS: Final = (SPLIT_NUMBER, _COUNT, _TENSORS)
"""What a part says of itself, and no whole file does."""


def read_model(path: Path, parts: Sequence[Path] = ()) -> Header:
    """Return the header of a model as the server reads it, whose parts are one.

    Args:
        path: the file, or the first part, which is named like `name-00001-of-00003.gguf`.
        parts: all parts in their order, where they are not named so.

    Raises:
        NotFoundError: a file is not there, or cannot be read.
        InvalidFileError: a file is no sound GGUF file, or the parts are not of one model.
    """
    return as_served(read_whole(path, parts))


def read_whole(path: Path, parts: Sequence[Path] = ()) -> Header:
    """Return the header of a model as its files have it. Arguments and errors as `read_model`."""
    first = read_header(path)
    count = split_count(first)
    if count == 1 and len(parts) < 2:
        return first
    files = tuple(parts) if len(parts) > 1 else part_paths(path, count)
    if len(files) != count:
        raise InvalidFileError(
            f"{path.name} is part of {count} files, and {len(files)} are there.",
            "Pull the model again; some of its files are missing.",
            code="missing_part",
        )
    return _joined([first, *(_part(file, path) for file in files[1:])], files)


def split_count(header: Header) -> int:
    """Return how many files the model of a header is split into; 1 for a whole one.

    Raises:
        InvalidFileError: it claims more than any model has.
    """
    count = header.get(_COUNT, 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return 1
    if count > MAX_PARTS:
        raise InvalidFileError(
            f"{header.path.name} says that it is one of {count:,} files.",
            "Pull the model again; the file was damaged.",
            code="broken_gguf",
        )
    return count


def part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """Return the paths of all parts, by the name of one of them.

    Raises:
        InvalidFileError: the name is not one of a part.
    """
    found = _NAME.fullmatch(path.name)
    if found is None or int(found[3]) != count:
        raise InvalidFileError(
            f"{path.name} is one of {count} parts of a model, and is not named like one.",
            f"Name the parts like model-00001-of-{count:05}.gguf, as llama-gguf-split does.",
            code="missing_part",
        )
    return tuple(
        path.with_name(f"{found[1]}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    )


def _part(path: Path, first: Path) -> Header:
    try:
        return read_header(path)
    except NotFoundError as error:
        if path.exists():
            raise
        raise NotFoundError(
            f"{path.name} is missing: {first.name} is only a part of the model.",
            f"Put it beside the others, into {path.parent}.",
            code="missing_part",
        ) from error


def _joined(headers: Sequence[Header], files: tuple[Path, ...]) -> Header:
    first = headers[0]
    tensors = {}
    for number, header in enumerate(headers):
        if header.get(SPLIT_NUMBER) != number or header.get(_COUNT) != len(headers):
            raise InvalidFileError(
                f"{header.path.name} is not part {number + 1} of {len(headers)} of "
                f"{first.path.name}: it says that it is part {_said(header)}.",
                "Pull the model again; its files are mixed up.",
                code="wrong_part",
            )
        for name, info in header.tensors.items():
            if name in tensors:
                raise InvalidFileError(
                    f"The tensor {name[:80]!r} lies in two parts of {first.path.name}.",
                    "Pull the model again; its files are mixed up.",
                    code="wrong_part",
                )
            tensors[name] = replace(info, file=number)
    expected = first.get(_TENSORS, len(tensors))
    if expected != len(tensors):
        raise InvalidFileError(
            f"The parts of {first.path.name} hold {len(tensors)} tensors of {expected}.",
            "Pull the model again; its files are mixed up.",
            code="wrong_part",
        )
    metadata = {key: value for key, value in first.metadata.items() if key not in SPLIT_KEYS}
    return Header(
        first.path,
        first.version,
        metadata,
        tensors,
        sum(header.file_bytes for header in headers),
        first.kinds,
        files,
    )


def _said(header: Header) -> str:
    number, count = header.get(SPLIT_NUMBER), header.get(_COUNT)
    if not isinstance(number, int) or not isinstance(count, int):
        return "of nothing"
    return f"{number + 1} of {count}"
