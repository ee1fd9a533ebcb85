"""The size that a safetensors file must have, and what the index of a sharded one says.

Source of the format: https://huggingface.co/docs/safetensors/index#format — eight bytes with the
length of a JSON header, the header, then the tensors without a gap.
"""

import json
import os
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import parse_json
from llamaforge.catalog.hub_files import is_plain_weights_name
from llamaforge.errors import InvalidFileError

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 25_000_000
_MAX_INDEX_BYTES: Final = 64_000_000
_MAX_FILE_BYTES: Final = 1 << 62


@dataclass(frozen=True)
class WeightsIndex:
    """What `model.safetensors.index.json` says."""

    shards: tuple[str, ...]
    """Names of files in the index's folder, each once, sorted."""
    tensor_bytes: int | None
    """Bytes of all tensors together, without the shards' headers."""


@dataclass(frozen=True)
class WeightsSize:
    """Sizes that the header of a safetensors file gives, in bytes."""

    file_bytes: int
    tensor_bytes: int


def read_index(path: Path) -> WeightsIndex | None:
    """Return what an index says, or None where it is not there or not an index.

    An index that names a file outside its own folder is none.
    """
    data = read_small(path, _MAX_INDEX_BYTES)
    if data is None:
        return None
    try:
        value = parse_json(data, path.name)
    except InvalidFileError:
        return None
    weights = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weights, dict) or not weights:
        return None
    shards = {name for name in weights.values() if isinstance(name, str)}
    if not shards or not all(map(is_plain_weights_name, shards)):
        return None
    metadata = value.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return WeightsIndex(tuple(sorted(shards)), _size(total))


def read_weights_size(path: Path) -> WeightsSize | None:
    """Return the sizes that the header of a safetensors file promises.

    None where there is no such file, or its header is cut short or unsound. The tensors
    themselves are not read.
    """
    header = read_header_text(path)
    try:
        value: Any = None if header is None else json.loads(header)
    except (ValueError, RecursionError):
        return None
    if header is None or not isinstance(value, dict):
        return None
    ends = [_end_of(entry) for name, entry in value.items() if name != "__metadata__"]
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return None
    end = max(known, default=0)
    return WeightsSize(_LENGTH_BYTES + len(header) + end, end)


def read_small(path: Path, limit_bytes: int) -> bytes | None:
    """Return the content of a regular file, or None: not there, unreadable, or too long."""
    try:
        with _open_regular(path) as file:
            data = file.read(limit_bytes + 1)
    except OSError:
        return None
    return data if len(data) <= limit_bytes else None


def _open_regular(path: Path) -> BufferedReader:
    """Open `path` for reading. `OSError` for what is no file: a pipe would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{os.fspath(path)!r} is not a regular file")
    return path.open("rb")


def read_header_text(path: Path) -> bytes | None:
    """Return the JSON at the beginning of a safetensors file; None where it is cut or too long."""
    try:
        with _open_regular(path) as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    except OSError:
        return None
    return header if len(header) == length else None


def _end_of(entry: Any) -> int | None:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2:
        return None
    return _size(offsets[1])


def _size(value: Any) -> int | None:
    """Return a number of bytes; some tools write it as a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _MAX_FILE_BYTES else None
