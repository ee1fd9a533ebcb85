"""How much an error in each column of a matrix counts: an importance matrix, read and written.

A column counts by the mean square of what it is multiplied with. The file is llama.cpp's own form.
Source: `tools/imatrix` and `tools/quantize` of llama.cpp: `<tensor>.in_sum2` [width, matrices] and
`<tensor>.counts` [1, matrices]; a matrix that never had an input counts one everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from llamaforge import __version__
from llamaforge.errors import InvalidFileError
from llamaforge.files import commit
from llamaforge.gguf.header import read_header

ADAPTER_KEY: Final = "llamaforge.adapter.digest"
"""`sha256:<hex>` of the adapter with which it was measured."""
_SUMS, _COUNTS = ".in_sum2", ".counts"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sums:
    """What was added up of one tensor's inputs."""

    squares: Array
    """Sums of squares, [matrices, width]: one matrix, or one for each expert."""
    counts: Array
    """Tokens, [matrices]."""


@dataclass(frozen=True)
class Importance:
    """An importance matrix for a whole model."""

    columns: Mapping[str, Array]
    """[matrices, width] by tensor name, such as `blk.0.attn_q.weight`."""
    rows: int
    """Rows of the data that it was measured on."""
    adapter_digest: str

    def of(self, name: str) -> Array | None:
        """Return how much the columns of a tensor count, [matrices, width], if it is known."""
        return self.columns.get(name)


def write_importance(
    path: Path, sums: Mapping[str, Sums], *, rows: int, row_tokens: int, adapter_digest: str
) -> None:
    """Write sums by tensor name to `path`; the file appears whole or not at all.

    Args:
        path: where it goes.
        sums: what was measured.
        rows: how many rows of the data it was measured on.
        row_tokens: the most tokens of one of them.
        adapter_digest: `sha256:<hex>` of the adapter.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    writer = gguf.GGUFWriter(temporary, "")
    writer.add_type("imatrix")
    writer.add_string("general.generated_by", f"LlamaForge {__version__}")
    writer.add_array("imatrix.datasets", ["the run's training data"])
    writer.add_uint32("imatrix.chunk_count", rows)
    writer.add_uint32("imatrix.chunk_size", row_tokens)
    writer.add_string(ADAPTER_KEY, adapter_digest)
    for name in sorted(sums):
        writer.add_tensor(name + _SUMS, sums[name].squares)
        writer.add_tensor(name + _COUNTS, sums[name].counts.reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    commit(temporary, path)


def read_importance(path: Path) -> Importance:
    """Return what a file says.

    Raises:
        NotFoundError: it cannot be read.
        InvalidFileError: it is no importance matrix, or holds what is no number.
    """
    header = read_header(path)
    if header.get("general.type") != "imatrix":
        raise _refuse(path, "is no importance matrix")
    columns: dict[str, Array] = {}
    for name, info in header.tensors.items():
        if not name.endswith(_SUMS):
            continue
        stem = name.removesuffix(_SUMS)
        counted = header.tensors.get(stem + _COUNTS)
        if counted is None or counted.elements != info.rows:
            raise _refuse(path, f"does not say how often {stem[:60]} had an input")
        sums = np.frombuffer(header.read_tensor(info), dtype="<f4").reshape(info.rows, info.width)
        counts = np.frombuffer(header.read_tensor(counted), dtype="<f4").reshape(-1, 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32)
        if not (np.isfinite(means).all() and (means >= 0).all()):
            raise _refuse(path, f"holds what is no number for {stem[:60]}")
        columns[stem] = np.stack([_without_zeros(matrix) for matrix in means])
    rows = header.get("imatrix.chunk_count", 0)
    return Importance(columns, rows if isinstance(rows, int) else 0, str(header.get(ADAPTER_KEY)))


def _without_zeros(columns: Array) -> Array:
    """Return columns of which each counts something.

    Where a whole block counts nothing ggml packs it as zeros: what the rows never used would be
    lost for every other text. So a column that had no input counts as little as any that had one.
    """
    seen = columns[columns > 0]
    least = seen.min() if seen.size else np.float32(1.0)
    return np.where(columns > 0, columns, least).astype(np.float32)


def _refuse(path: Path, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"{path.name} {what}.", "Remove it; it is measured anew then.", code="bad_imatrix"
    )
