"""Writing a GGUF file as a stream: metadata first, then tensors in the order of their table.

Source of the format: `docs/gguf.md` of the ggml repository. Metadata of another file is copied byte
for byte; the sizes of all tensors are known before the first is written, so nothing is held.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

from llamaforge.gguf.header import ArrayRef, Header, Values
from llamaforge.gguf.types import TensorType, row_bytes

_VERSION: Final = 3
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_DEFAULT_ALIGNMENT: Final = 32


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    """ggml's order: the row length first."""
    type: TensorType

    @property
    def rows(self) -> int:
        """All outer dimensions multiplied."""
        rows = 1
        for size in self.shape[1:]:
            rows *= size
        return rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return row_bytes(self.type, self.shape[0])

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.rows * self.row_bytes


class Sink(Protocol):
    """Where a file goes: written from its beginning to its end."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write, and return how many bytes."""
        ...

    def tell(self) -> int:
        """Return how many bytes were written."""
        ...


class GgufStream:
    """A file that is being written: the head on construction, then each tensor's rows in turn."""

    def __init__(
        self,
        file: Sink,
        base: Header,
        changes: Mapping[str, str | int | None],
        tensors: Sequence[PlannedTensor],
    ) -> None:
        """Write everything before the tensors' data.

        Args:
            file: where it goes, at its beginning.
            base: the file whose metadata is copied.
            changes: keys to set, text or a whole number below 2³²; None removes one.
            tensors: all tensors, in the order in which they will be written.
        """
        self._file = file
        alignment = base.get("general.alignment", _DEFAULT_ALIGNMENT)
        self._alignment = alignment if isinstance(alignment, int) else _DEFAULT_ALIGNMENT
        self._write_keys(base, changes, len(tensors))
        offset = 0
        for tensor in tensors:
            self._write_text(tensor.name)
            sizes = (len(tensor.shape), *tensor.shape)
            file.write(struct.pack(f"<I{len(tensor.shape)}Q", *sizes))
            file.write(struct.pack("<IQ", int(tensor.type), offset))
            offset = self._aligned(offset + tensor.n_bytes)
        self._pad()

    def write(self, data: bytes | memoryview) -> None:
        """Write some of the current tensor's bytes."""
        self._file.write(data)

    def end_tensor(self) -> None:
        """Fill up to where the next tensor begins."""
        self._pad()

    def _write_keys(
        self, base: Header, changes: Mapping[str, str | int | None], tensors: int
    ) -> None:
        kept = [key for key in base.metadata if key not in changes]
        added = {key: value for key, value in changes.items() if value is not None}
        count = len(kept) + len(added)
        self._file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, tensors, count))
        with base.path.open("rb") as source:
            for key in kept:
                self._write_text(key)
                self._copy_value(source, base.metadata[key], base.kinds[key])
        for key, value in added.items():
            self._write_text(key)
            if isinstance(value, str):
                self._file.write(struct.pack("<I", _STRING))
                self._write_text(value)
            else:
                self._file.write(struct.pack("<II", _UINT32, value))

    def _copy_value(self, source: BinaryIO, value: Any, kind: int) -> None:
        self._file.write(struct.pack("<I", kind))
        if isinstance(value, ArrayRef):
            self._file.write(struct.pack("<IQ", value.item_type, value.count))
            source.seek(value.start)
            self._file.write(source.read(value.end - value.start))
        elif isinstance(value, Values):
            self._file.write(struct.pack("<IQ", value.item_type, value.count))
            form = f"<{value.count}{_SCALARS[value.item_type][1]}"
            self._file.write(struct.pack(form, *value.items))
        elif kind == _STRING:
            self._write_text(value)
        else:
            self._file.write(struct.pack(_SCALARS[kind], value))

    def _write_text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        self._file.write(struct.pack("<Q", len(data)) + data)

    def _aligned(self, offset: int) -> int:
        return -(-offset // self._alignment) * self._alignment

    def _pad(self) -> None:
        at = self._file.tell()
        self._file.write(bytes(self._aligned(at) - at))
