"""Reading a GGUF header in milliseconds: arrays are walked over, and decoded only when asked for.

Source of the format: `docs/gguf.md` of the ggml repository. Every count, length and offset is
held against the file's size before it is believed, so a lying file is refused in bounded time
and memory.
"""

import math
import mmap
import os
import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge.errors import InvalidFileError, NotFoundError
from llamaforge.gguf.types import BLOCK_SIZES, TensorType

MAX_STRING_BYTES: Final = 16 * 1024 * 1024
MAX_TEXT_BYTES: Final = 32 * 1024 * 1024  # all keys, strings and names together: bounds the memory
MAX_ARRAY_ITEMS: Final = 64 * 1024 * 1024
MAX_WALKED_STRINGS: Final = 8 * 1024 * 1024  # in all arrays together: bounds the time
MAX_DECODED_ITEMS: Final = 2 * 1024 * 1024
MAX_DECODED_BYTES: Final = 64 * 1024 * 1024
MAX_METADATA_KEYS: Final = 65_536
MAX_TENSORS: Final = 65_536
MAX_TENSOR_DIMENSIONS: Final = 4

_STRING, _ARRAY = 8, 9
_SCALARS: Final[dict[int, struct.Struct]] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_BIG_ENDIAN_VERSIONS: Final = frozenset({2 << 24, 3 << 24})
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in the file, and in what form."""

    name: str
    shape: tuple[int, ...]
    """ggml's order: the row length (input width) first, so a torch `[out, in]` is `(in, out)`."""
    type: TensorType
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int
    file: int = 0
    """Which of the model's files it lies in; a model may be split into several."""

    @property
    def width(self) -> int:
        """The number of weights in a row."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        """The number of rows, all outer dimensions multiplied."""
        return self.elements // self.shape[0]

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """An array that was walked over: its item type, count and place in the file."""

    item_type: int
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Values:
    """An array of numbers that stands in no file."""

    item_type: int
    items: tuple[int | float, ...]

    @property
    def count(self) -> int:
        """How many items it has."""
        return len(self.items)


class Header:
    """The metadata and the tensor table of a model: of one GGUF file, or of all its parts.

    Scalars and strings are at hand; arrays are decoded by `strings` and `numbers` on request.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        metadata: dict[str, Any],
        tensors: dict[str, TensorInfo],
        file_bytes: int,
        kinds: dict[str, int] | None = None,
        files: tuple[Path, ...] = (),
    ) -> None:
        """Take what was read.

        Args:
            path: the file, or the first of several.
            version: of the format.
            metadata: from keys to scalars, strings, `ArrayRef` and `Values`.
            tensors: by name, in the order in which they lie.
            file_bytes: of all files together.
            kinds: the type number of every key's value.
            files: all files, where there are several.
        """
        self.path = path
        self.files = files or (path,)
        self.kinds = kinds or {}
        self.version = version
        self.metadata = metadata
        self.tensors = tensors
        self.file_bytes = file_bytes
        self.stored: Header = self
        """The same model as its file has it, where this is how a server reads it."""
        self.stored_names: dict[str, str] = {}
        """What tensors are called in the file, of those that are called otherwise here."""

    def file_of(self, tensor: TensorInfo) -> Path:
        """Return the file that holds a tensor."""
        return self.files[tensor.file]

    def read_tensor(self, tensor: TensorInfo) -> bytes:
        """Return all bytes of a small tensor.

        Raises:
            NotFoundError: its file cannot be read.
            InvalidFileError: the file has changed.
        """
        path = self.file_of(tensor)
        try:
            with path.open("rb") as file:
                file.seek(tensor.offset)
                data = file.read(tensor.n_bytes)
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(data) != tensor.n_bytes:
            raise self._changed()
        return data

    @property
    def architecture(self) -> str:
        """`general.architecture`, or an empty string."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    @property
    def parameters(self) -> int:
        """The number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def tensor_bytes(self) -> int:
        """The bytes of all tensors as they lie packed in the file."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def own(self, key: str, default: Any = None) -> Any:
        """Return the scalar or string at `<architecture>.<key>`."""
        return self.get(f"{self.architecture}.{key}", default)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the scalar or string at `key`; an array counts as absent."""
        value = self.metadata.get(key, default)
        return default if isinstance(value, ArrayRef | Values) else value

    def is_array(self, key: str) -> bool:
        """Return whether the value at `key` is an array."""
        return isinstance(self.metadata.get(key), ArrayRef | Values)

    def length(self, key: str) -> int:
        """Return how many items the array at `key` has; 0 where there is none."""
        value = self.metadata.get(key)
        return value.count if isinstance(value, ArrayRef | Values) else 0

    def strings(self, key: str) -> list[str]:
        """Decode the array of strings at `key`; an absent one is empty.

        Bytes that are not UTF-8 are kept as surrogate escapes.

        Raises:
            InvalidFileError: it holds something else, is too large, or the file has changed.
            NotFoundError: the file is no longer there.
        """
        ref = self._array(key)
        if ref is None:
            return []
        if ref.item_type != _STRING:
            raise self._not(key, "strings")
        data = self._read(ref)
        found = []
        position = 0
        unpack = _U64.unpack_from
        for _ in range(ref.count):
            # The file is read anew, so its lengths may no longer be those that were walked over.
            start = position + 8
            if start > len(data):
                raise self._changed()
            position = start + unpack(data, position)[0]
            if position > len(data):
                raise self._changed()
            found.append(data[start:position].decode("utf-8", "surrogateescape"))
        return found

    def numbers(self, key: str) -> list[Any]:
        """Decode the array of numbers at `key`; an absent one is empty.

        Raises:
            InvalidFileError: it holds something else, is too large, or the file has changed.
            NotFoundError: the file is no longer there.
        """
        value = self.metadata.get(key)
        if isinstance(value, Values):
            return list(value.items)
        ref = self._array(key)
        if ref is None:
            return []
        scalar = _SCALARS.get(ref.item_type)
        if scalar is None:
            raise self._not(key, "numbers")
        code = {"?": "b"}.get(scalar.format[1], scalar.format[1])
        values = array(code)
        values.frombytes(self._read(ref))
        return values.tolist()

    def first_of(self, key: str, count: int) -> ArrayRef | Values | None:
        """Return the array at `key` without what stands after its first `count` items.

        Raises:
            NotFoundError, InvalidFileError: as `strings`.
        """
        value = self.metadata.get(key)
        if isinstance(value, Values):
            return Values(value.item_type, value.items[:count])
        if not isinstance(value, ArrayRef) or value.count <= count:
            return value if isinstance(value, ArrayRef) else None
        if value.item_type == _STRING:
            sizes = self._string_sizes(value, count)
            return ArrayRef(_STRING, count, value.start, value.start + sum(sizes) + 8 * count)
        size = _SCALARS[value.item_type].size
        return ArrayRef(value.item_type, count, value.start, value.start + size * count)

    def _string_sizes(self, ref: ArrayRef, count: int) -> list[int]:
        data, at, sizes = self._read(ref), 0, []
        for _ in range(count):
            if at + 8 > len(data):
                raise self._changed()
            sizes.append(_U64.unpack_from(data, at)[0])
            at += 8 + sizes[-1]
        return sizes

    def _array(self, key: str) -> ArrayRef | None:
        value = self.metadata.get(key)
        return value if isinstance(value, ArrayRef) else None

    def _read(self, ref: ArrayRef) -> bytes:
        size = ref.end - ref.start
        if ref.count > MAX_DECODED_ITEMS or size > MAX_DECODED_BYTES:
            raise InvalidFileError(
                f"{self.path.name} is not a sound GGUF file: one of its arrays has {ref.count:,} "
                f"items in {size:,} bytes.",
                "Choose another model; no vocabulary is that large.",
                code="broken_gguf",
            )
        try:
            with self.path.open("rb") as file:
                file.seek(ref.start)
                data = file.read(size)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if len(data) != size:
            raise self._changed()
        return data

    def _not(self, key: str, what: str) -> InvalidFileError:
        return InvalidFileError(
            f"In {self.path.name} the key {key[:80]} does not hold {what}.",
            "Pull the model again; the file was damaged.",
            code="broken_gguf",
        )

    def _changed(self) -> InvalidFileError:
        return InvalidFileError(
            f"{self.path.name} changed while it was being read.",
            "Wait until whatever writes it is done, then try again.",
            code="changed_gguf",
        )


class _Cursor:
    """A position in a mapped file that never moves past its end."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.name = name
        self._text_bytes = 0
        self._walked_strings = 0

    def refuse(self, what: str) -> InvalidFileError:
        return InvalidFileError(
            f"{self.name} is not a sound GGUF file: {what}.",
            "Pull the model again; the file was damaged or cut short.",
            code="broken_gguf",
        )

    def skip(self, size: int) -> None:
        if size > self.size - self.at:
            raise self.refuse("it ends before its header does")
        self.at += size

    def scalar(self, form: struct.Struct) -> Any:
        start = self.at
        self.skip(form.size)
        return form.unpack_from(self.data, start)[0]

    def string(self) -> str:
        size = self.scalar(_U64)
        if size > MAX_STRING_BYTES:
            raise self.refuse(f"a string claims {size} bytes")
        self._text_bytes += size
        if self._text_bytes > MAX_TEXT_BYTES:
            raise self.refuse(f"its texts have more than {MAX_TEXT_BYTES:,} bytes")
        start = self.at
        self.skip(size)
        return self.data[start : self.at].decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        form = _SCALARS.get(kind)
        if form is None:
            raise self.refuse(f"it holds a value of the unknown type {kind}")
        return self.scalar(form)

    def array(self) -> ArrayRef:
        item_type = self.scalar(_U32)
        count = self.scalar(_U64)
        start = self.at
        if count > MAX_ARRAY_ITEMS:
            raise self.refuse(f"an array claims {count} items")
        if item_type == _STRING:
            self._walk_strings(count)
        elif item_type == _ARRAY:
            raise self.refuse("it holds an array of arrays")  # llama.cpp takes none either
        else:
            form = _SCALARS.get(item_type)
            if form is None:
                raise self.refuse(f"an array holds items of the unknown type {item_type}")
            self.skip(count * form.size)
        return ArrayRef(item_type, count, start, self.at)

    def _walk_strings(self, count: int) -> None:
        """Step over `count` strings by their lengths; this loop is the header's whole cost."""
        self._walked_strings += count
        if self._walked_strings > MAX_WALKED_STRINGS:
            raise self.refuse(f"its arrays claim more than {MAX_WALKED_STRINGS:,} strings")
        at, data, unpack = self.at, self.data, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
        except (struct.error, OverflowError) as error:
            raise self.refuse("a string runs past its end") from error
        if at > self.size:
            raise self.refuse("a string runs past its end")
        self.at = at


def read_header(path: Path) -> Header:
    """Read the header of the GGUF file at `path`.

    Raises:
        NotFoundError: there is no such file, or it cannot be read.
        InvalidFileError: it is no regular file, no GGUF file, is cut short, or contradicts
            itself.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise InvalidFileError(
                f"{path} is not a file.",
                "Name a GGUF file, or a model by its name in Ollama.",
                code="not_gguf",
            )
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise InvalidFileError(
                    f"{path.name} is not a GGUF file: it has only {size} bytes.",
                    "Pull the model again; the file was damaged or cut short.",
                    code="broken_gguf",
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> NotFoundError:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"The file {path} does not exist.", "Pull the model again.")
    return NotFoundError(
        f"The file {path} cannot be read: {error.strerror}.",
        "Check its permissions, or run as a user who may read it.",
        code="unreadable",
    )


def _parse(path: Path, data: mmap.mmap) -> Header:
    cursor = _Cursor(data, path.name)
    if data[:4] != b"GGUF":
        raise InvalidFileError(
            f"{path.name} is not a GGUF file: it does not begin with the letters GGUF.",
            "Only models in GGUF format can be trained; pull the model again if it should be one.",
            code="not_gguf",
        )
    cursor.at = 4
    version = cursor.scalar(_U32)
    if version in _BIG_ENDIAN_VERSIONS:
        raise InvalidFileError(
            f"{path.name} is a big-endian GGUF file, which only few machines read.",
            "Pull a little-endian one: the usual kind.",
            code="unsupported_gguf",
        )
    if version not in (2, 3):
        raise cursor.refuse(f"it has version {version}, and only 2 and 3 are known")
    tensor_count = cursor.scalar(_U64)
    key_count = cursor.scalar(_U64)
    if key_count > MAX_METADATA_KEYS or tensor_count > MAX_TENSORS:
        raise cursor.refuse(f"it claims {key_count} keys and {tensor_count} tensors")
    metadata: dict[str, Any] = {}
    kinds: dict[str, int] = {}
    for _ in range(key_count):
        key = cursor.string()
        if key in metadata:
            raise cursor.refuse(f"the key {key[:80]!r} appears twice")
        kinds[key] = cursor.scalar(_U32)
        metadata[key] = cursor.value(kinds[key])
    tensors = _tensor_table(cursor, tensor_count, metadata)
    return Header(path, version, metadata, tensors, len(data), kinds)


def _tensor_table(cursor: _Cursor, count: int, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.refuse(f"its alignment is {alignment!r}")
    raw = list(_raw_tensors(cursor, count))
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in raw:
        if name in tensors:
            raise cursor.refuse(f"the tensor {name[:80]!r} appears twice")
        if offset % alignment:
            raise cursor.refuse(f"the tensor {name[:80]!r} begins between two aligned places")
        tensors[name] = _placed(cursor, name, shape, kind, base, offset)
    return tensors


def _raw_tensors(cursor: _Cursor, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    for _ in range(count):
        name = cursor.string()
        dimensions = cursor.scalar(_U32)
        if not 1 <= dimensions <= MAX_TENSOR_DIMENSIONS:
            raise cursor.refuse(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(cursor.scalar(_U64) for _ in range(dimensions))
        yield name, shape, cursor.scalar(_U32), cursor.scalar(_U64)


def _placed(
    cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int, base: int, offset: int
) -> TensorInfo:
    """Return the tensor with its size worked out and held against the file's end."""
    try:
        tensor_type = TensorType(kind)
    except ValueError:
        raise InvalidFileError(
            f"{cursor.name}: the tensor {name[:80]!r} has the unknown type number {kind}.",
            "This file needs a newer version of LlamaForge.",
            code="unsupported_type",
        ) from None
    weights, size = BLOCK_SIZES[tensor_type]
    if shape[0] == 0 or shape[0] % weights:
        raise cursor.refuse(
            f"a row of {name[:80]!r} has {shape[0]} weights, no whole number of blocks"
        )
    if not all(shape):
        raise cursor.refuse(f"the tensor {name[:80]!r} has no weights")
    elements = math.prod(shape)
    n_bytes = elements // weights * size
    if n_bytes > cursor.size or offset > cursor.size or base + offset + n_bytes > cursor.size:
        raise InvalidFileError(
            f"{cursor.name} is cut short: the tensor {name[:80]!r} ends at byte "
            f"{base + offset + n_bytes:,}, and the file has {cursor.size:,}.",
            "Pull the model again; the download did not finish.",
            code="truncated_gguf",
        )
    return TensorInfo(name, shape, tensor_type, base + offset, n_bytes)
