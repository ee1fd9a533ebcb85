"""A model and its adapter as one GGUF file, streamed: only some rows a core are ever unpacked.

What the file says of itself, vocabulary and template included, is copied from the model's own.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from llamaforge import hardware
from llamaforge.catalog.blob import quantization_of
from llamaforge.errors import InvalidFileError, LlamaForgeError, RefusedError
from llamaforge.export.adapter import BASE_DIGEST_KEY
from llamaforge.export.base_tensors import BaseTensors
from llamaforge.export.importance import Importance
from llamaforge.export.mix import FILE_TYPES, tensor_types
from llamaforge.export.place import HashingFile, check_room, remove_leftovers
from llamaforge.export.weights import Adapter, Array, check_stop, unpacked
from llamaforge.files import commit
from llamaforge.gguf.finite import is_finite
from llamaforge.gguf.ggml import can_pack, pack_rows
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.types import FILE_TYPE_NAMES, TensorType
from llamaforge.gguf.writer import GgufStream, PlannedTensor

_ROWS_WEIGHTS: Final = 128 * 1024
"""Weights that a core unpacks at a time: 512 KiB, which stay in its second-level cache."""
_PRODUCT_SIZE: Final = 256 * 1024
"""Multiplications in one matrix product; numpy's library divides larger ones among threads of its
own, which would get in the way of those that are at work already."""
_COPIED_WEIGHTS: Final = 4 * 1024 * 1024
"""Weights that are copied at a time: 2 to 16 MiB."""
_AHEAD: Final = 4
"""Pieces for each core that may be waiting to be written."""
_QUANTIZATION_VERSION: Final = 2
_UNKNOWN_FILE_TYPE: Final = 1024
"""From here on llama.cpp marks what it only guessed."""
ADAPTER_DIGEST_KEY: Final = "llamaforge.adapter.digest"
"""`sha256:<hex>` of the adapter file that was merged in."""
_IMPORTANCE: Final = "quantize.imatrix."
IMPORTANCE_ROWS_KEY: Final = f"{_IMPORTANCE}chunks_count"
"""How many rows the importance matrix was measured on that a file was packed with."""


@dataclass(frozen=True)
class Provenance:
    """Where a merged file comes from, as it will say itself."""

    name: str
    """What it is called."""
    run: str
    base: str
    """The model's name in Ollama."""
    base_digest: str
    """`sha256:<hex>` of the file that was trained on."""
    program: str
    """The program with its version."""
    adapter_digest: str | None = None
    """`sha256:<hex>` of the adapter's file, where it is known."""


@dataclass(frozen=True)
class Merged:
    """A file that was written."""

    path: Path
    sha256: str
    size_bytes: int
    quantization: str
    """As it was chosen; empty where every tensor kept its own type."""


def write_merged(
    path: Path,
    base: Header,
    adapter: Header | None,
    provenance: Provenance,
    *,
    full: BaseTensors | None = None,
    quantization: str | None = None,
    importance: Importance | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Merged:
    """Write `base` with `adapter` merged into its weights to `path`, whole or not at all.

    Args:
        path: where it goes; what lies there is replaced at the very end.
        base: the model that was trained on, as the server reads it; what its file holds beside
            is copied.
        adapter: what was trained; None only packs the base anew.
        provenance: what the file says of its making.
        full: full-precision weights, with what was learned in them, that take the place of the
            file's own; without an adapter then.
        quantization: one of `mix.FILE_TYPES`; None keeps the type of every tensor.
        importance: how much an error in each column counts, where that was measured.
        on_progress: takes the bytes that are written, and all of them.
        stopped: asked between rows; True ends it without a file.

    Raises:
        InvalidFileError: the adapter is damaged, or made for another file.
        RefusedError: a type cannot be packed (`cannot_pack`), or the disk has no room.
        LlamaForgeError: a merged weight is not finite (`not_finite`) or too large for its type
            (`overflow`), or it was `stopped`.
    """
    pairs = None if adapter is None else Adapter(adapter, base, provenance.base_digest)
    stored = base.stored
    names = {base.stored_names.get(name, name): name for name in base.tensors}
    types = {name: info.type for name, info in stored.tensors.items()}
    if quantization is not None:
        chosen = tensor_types(base, quantization, with_importance=importance is not None)
        types |= {name: chosen[served] for name, served in names.items()}
    if full is not None:
        changed = full.names
    else:
        changed = frozenset() if pairs is None else frozenset(pairs.names)
    touched = {name for name, served in names.items() if served in changed}
    columns = _columns(base, names, importance)
    _check_packable(stored, types, touched, columns)
    planned = [
        PlannedTensor(name, info.shape, types[name]) for name, info in stored.tensors.items()
    ]
    total = sum(tensor.n_bytes for tensor in planned)
    remove_leftovers(path)
    check_room(path, total, "choose a smaller quantisation")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            changes = _changes(base, provenance, quantization) | _measured(importance)
            hashing = HashingFile(file)
            stream = GgufStream(hashing, stored, changes, planned)
            done = 0
            with ExitStack() as stack:
                sources = [stack.enter_context(path.open("rb")).fileno() for path in stored.files]
                results = stack.enter_context(
                    closing(
                        _in_order(
                            _pieces(stored, planned, _Learned(pairs, full, names), columns),
                            lambda part: part.result(sources[part.info.file]),
                        )
                    )
                )
                for piece, data in results:
                    stream.write(data)
                    done += len(data)
                    on_progress(done, total)
                    check_stop(stopped)
                    if piece.ends_tensor:
                        stream.end_tensor()
                        if piece.full is not None:
                            piece.full.release()
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Merged(path, hashing.sha256, hashing.tell(), quantization or "")


@dataclass(frozen=True)
class _Piece:
    """Some rows of a tensor as they will be written, still to be worked out."""

    info: TensorInfo
    type: TensorType
    first: int
    last: int
    pair: tuple[Array, Array] | None
    """A and B of the tensor's adapter."""
    columns: Array | None
    """How much an error in each column counts, [width]."""
    full: "_Origin | None" = None
    """Where its values come from, if not from the file."""

    @property
    def ends_tensor(self) -> bool:
        """Whether the tensor has no rows after these."""
        return self.last == self.info.rows

    def result(self, file: int) -> bytes | memoryview:
        """Return the rows: read, and where something changes unpacked, added to and packed."""
        info, rows = self.info, self.last - self.first
        if self.full is not None:
            return self._packed(self.full.rows(self.first, self.last))
        row = info.n_bytes // info.rows
        raw = os.pread(file, rows * row, info.offset + self.first * row)
        if len(raw) != rows * row:
            raise InvalidFileError(
                "The model's file has become shorter while it was read.",
                "Pull the model again.",
                code="damaged_blob",
            )
        if self.pair is None and self.type is info.type:
            return raw
        values = unpacked(np.frombuffer(raw, np.uint8).reshape(rows, row), info.type, info.width)
        if self.pair is not None:
            _add_product(values, *self.pair, self.first)
        return self._packed(values)

    def _packed(self, values: Array) -> memoryview:
        """Return rows as they will be written.

        Raises:
            LlamaForgeError: a value is no finite number, or too large for the type.
        """
        info = self.info
        if not np.isfinite(values).all():
            raise LlamaForgeError(
                f"The merged weights of {info.name} are not finite numbers.",
                "The model's file or the adapter is damaged; verify the run again.",
                code="not_finite",
            )
        packed = _packed(values, self.type, self.columns)
        if not is_finite(packed, self.type):
            raise LlamaForgeError(
                f"The merged weights of {info.name} are too large for {self.type.name}.",
                "Choose another type with --quant, such as BF16.",
                code="overflow",
            )
        return packed.data


@dataclass(frozen=True)
class _Origin:
    """One tensor's values in full precision."""

    weights: BaseTensors
    name: str
    """As it is served."""

    def rows(self, first: int, last: int) -> Array:
        """Return rows `first` to `last`, float32 [n, width]."""
        return self.weights.rows(self.name, first, last)

    def release(self) -> None:
        """Let the system have back the memory that they take."""
        self.weights.release(self.name)


@dataclass(frozen=True)
class _Learned:
    """What was learned, by the names that tensors have in the file."""

    adapter: Adapter | None
    full: BaseTensors | None
    names: Mapping[str, str]
    """The names of those that are served, as they are called there."""

    def factors(self, name: str) -> tuple[Array, Array] | None:
        """Return A, already scaled, and B; None for a tensor that is not changed."""
        served = self.names.get(name)
        if self.adapter is None or served not in self.adapter.names:
            return None
        return self.adapter.factors(served)

    def origin(self, name: str) -> _Origin | None:
        """Return where the values come from, if not from the file."""
        served = self.names.get(name)
        if self.full is None or served is None or served not in self.full.names:
            return None
        return _Origin(self.full, served)


def _pieces(
    base: Header,
    planned: Sequence[PlannedTensor],
    learned: "_Learned",
    columns: Mapping[str, Array],
) -> Iterator[_Piece]:
    """Yield everything to write, in the file's order."""
    for tensor in planned:
        info = base.tensors[tensor.name]
        pair, origin = learned.factors(tensor.name), learned.origin(tensor.name)
        is_copied = pair is None and origin is None and tensor.type is info.type
        weights = _COPIED_WEIGHTS if is_copied else _ROWS_WEIGHTS
        step = max(1, weights // info.width)
        counting = columns.get(tensor.name)
        matrices: Sequence[Array | None] = [None] if counting is None else list(counting)
        rows = info.rows // len(matrices)
        for number, counts in enumerate(matrices):
            end = (number + 1) * rows
            for first in range(number * rows, end, step):
                last = min(first + step, end)
                yield _Piece(info, tensor.type, first, last, pair, counts, origin)


def _in_order(
    pieces: Iterator[_Piece], work: Callable[[_Piece], bytes | memoryview]
) -> Generator[tuple[_Piece, bytes | memoryview], None, None]:
    """Yield pieces with their results in order, while others are worked out on all cores."""
    cores = hardware.physical_cores()
    threads = ThreadPoolExecutor(cores, thread_name_prefix="merge")
    waiting: deque[tuple[_Piece, Future[bytes | memoryview]]] = deque()
    try:
        for piece in pieces:
            waiting.append((piece, threads.submit(work, piece)))
            if len(waiting) > _AHEAD * cores:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _add_product(values: Array, a: Array, b: Array, first: int) -> None:
    """Add rows of B A, from the row `first` on, to `values`."""
    step = max(1, _PRODUCT_SIZE // a.size)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        # What overflows is found right after, with the name of the tensor.
        with np.errstate(over="ignore", invalid="ignore"):
            part += b[first + start : first + start + len(part)] @ a


def _packed(values: Array, kind: TensorType, columns: Array | None) -> npt.NDArray[np.uint8]:
    with np.errstate(over="ignore"):  # what overflows is found right after
        return pack_rows(kind, values, columns).reshape(-1)


def _check_packable(
    base: Header,
    types: dict[str, TensorType],
    touched: set[str],
    columns: Mapping[str, Array],
) -> None:
    for name, info in base.tensors.items():
        changed = name in touched or types[name] is not info.type
        if changed and not can_pack(types[name], with_importance=name in columns):
            raise RefusedError(
                f"The tensor {name[:60]} has the type {types[name].name}, which cannot be packed "
                "again without an importance matrix.",
                "Choose a quantisation with --quant, such as Q4_K_M or Q8_0, or measure one with "
                "--imatrix.",
                code="cannot_pack",
            )


def _columns(
    base: Header, names: Mapping[str, str], importance: Importance | None
) -> dict[str, Array]:
    """Return how much the columns of each tensor count, by the names of the file.

    Raises:
        InvalidFileError: it was measured on a model of other sizes.
    """
    found: dict[str, Array] = {}
    for name, served in names.items():
        columns = importance.of(served) if importance is not None else None
        if columns is None:
            continue
        info = base.tensors[served]
        if info.width != columns.shape[1] or info.rows % len(columns):
            raise InvalidFileError(
                f"The importance matrix was measured on another model: {served[:60]} has "
                f"{info.width:,} columns.",
                "Remove it; it is measured anew then.",
                code="bad_imatrix",
            )
        found[name] = columns
    return found


def _measured(importance: Importance | None) -> dict[str, str | int | None]:
    """Return what a file says of an importance matrix, as llama.cpp's own tool writes it."""
    if importance is None:
        return {}
    return {
        f"{_IMPORTANCE}dataset": "the run's training data",
        f"{_IMPORTANCE}entries_count": len(importance.columns),
        IMPORTANCE_ROWS_KEY: importance.rows,
    }


def _changes(
    base: Header, provenance: Provenance, quantization: str | None
) -> dict[str, str | int | None]:
    changes: dict[str, str | int | None] = {
        "general.name": provenance.name,
        "general.base_model.count": 1,
        "general.base_model.0.name": provenance.base,
        "general.generated_by": provenance.program,
        "llamaforge.run": provenance.run,
        BASE_DIGEST_KEY: provenance.base_digest,
        "general.quantization_version": _QUANTIZATION_VERSION,
        "general.file_type": file_type(base, quantization),
        ADAPTER_DIGEST_KEY: provenance.adapter_digest,
    }
    # What these say of the base's makers would be said of this file now.
    stale = ("basename", "finetune", "base_model.0.repo_url", "base_model.0.organization",
             "source.url", "source.huggingface.repository", "source.repo_url")  # fmt: skip
    changes |= {f"general.{key}": None for key in stale if f"general.{key}" in base.metadata}
    # The matrix that the base was packed with is none of this file's.
    return changes | dict.fromkeys(key for key in base.metadata if key.startswith(_IMPORTANCE))


def file_type(base: Header, quantization: str | None) -> int:
    """Return what `general.file_type` of a merged file says; zero only of one in F32.

    A base need not say it, or may say it wrongly; Ollama takes no file that does not.
    """
    if quantization is not None:
        return FILE_TYPES[quantization]
    said = base.get("general.file_type")
    if isinstance(said, int) and not isinstance(said, bool) and 0 < said < _UNKNOWN_FILE_TYPE:
        return said
    main = quantization_of(base)
    # Of the mixtures that are mostly of one type the medium one is the usual.
    return next(
        (
            number
            for ending in ("", "_M", "_MOE")
            for number, name in FILE_TYPE_NAMES.items()
            if name == f"{main}{ending}"
        ),
        FILE_TYPES["F16"],
    )
