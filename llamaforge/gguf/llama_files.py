"""The files that llama.cpp loads for a model: its own, or one that says what the server reads.

llama.cpp alone does not take what Ollama's converter wrote; with Ollama's translation it does. For
such a model the translation is written out, for as long as llama.cpp is asked.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from llamaforge.errors import InvalidFileError
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.writer import GgufStream, PlannedTensor

_CHUNK_BYTES: Final = 1 << 24
_ENDING: Final = ".served.gguf"

Stop = Callable[[], None]
"""Raises where a person wants it to end."""


def is_translated(header: Header) -> bool:
    """Return whether the server reads the model otherwise than its file says it."""
    return header.stored is not header


@contextmanager
def llama_files(
    header: Header, folder: Path, *, vocabulary_only: bool = False, check_stop: Stop = lambda: None
) -> Iterator[tuple[Path, ...]]:
    """Give the files that llama.cpp loads for a model, all parts in order.

    Args:
        header: the model as the server reads it.
        folder: where a translated file may lie for as long as it is used; it is removed after.
        vocabulary_only: leave out the weights.
        check_stop: called now and then while a file is written.

    Raises:
        InvalidFileError: the model's file became shorter.
        OSError: it cannot be read, or there is no room for a copy.
    """
    if not is_translated(header):
        yield header.files
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".model.", suffix=_ENDING)
    os.close(handle)
    path = Path(name)
    try:
        write_served(path, header, vocabulary_only=vocabulary_only, check_stop=check_stop)
        yield (path,)
    finally:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove translated files that a process which was killed left in `folder`."""
    for path in folder.glob(f".*{_ENDING}"):
        with suppress(OSError):
            path.unlink()


def write_served(
    path: Path, header: Header, *, vocabulary_only: bool = False, check_stop: Stop = lambda: None
) -> None:
    """Write the model of `header` to `path` as one file that says what the header says.

    Raises:
        InvalidFileError: the model's file became shorter.
        OSError: it cannot be read, or there is no room.
    """
    tensors = [] if vocabulary_only else list(header.tensors.values())
    planned = [PlannedTensor(tensor.name, tensor.shape, tensor.type) for tensor in tensors]
    with path.open("wb") as file:
        stream = GgufStream(file, header, {}, planned)
        for tensor in tensors:
            for data in _chunks(header, tensor):
                check_stop()
                stream.write(data)
            stream.end_tensor()


def _chunks(header: Header, tensor: TensorInfo) -> Iterator[bytes]:
    with header.file_of(tensor).open("rb") as source:
        source.seek(tensor.offset)
        rest = tensor.n_bytes
        while rest:
            data = source.read(min(rest, _CHUNK_BYTES))
            if not data:
                raise InvalidFileError(
                    "The model's file has become shorter while it was read.",
                    "Pull the model again.",
                    code="damaged_blob",
                )
            rest -= len(data)
            yield data
