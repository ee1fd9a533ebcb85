"""Whether a full-precision base and a GGUF file hold the same weights, but for the rounding.

Some rows of every tensor are held against each other: another model, or rows that lie in another
order than expected, have nothing in common, whatever their sizes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from llamaforge.errors import RefusedError
from llamaforge.export.base_tensors import BaseTensors
from llamaforge.export.weights import Array, MergedWeights
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.types import TensorType

_ROWS: Final = 4
_LEAST_COSINE: Final = 0.6
"""Even weights of two bits keep more than this; weights of another model have about none."""
_SAME: Final = 0.01
"""Part by which values that the file keeps as floats may differ from the base's."""


@dataclass(frozen=True)
class Closeness:
    """How near a file is to a base."""

    error: float
    """‖file − base‖ / ‖base‖ over the rows of matrices that were looked at: what the quantisation
    takes."""
    least_cosine: float
    tensors: int
    """How many were looked at."""
    exact: bool
    """Whether all values that the file keeps as 32-bit floats, its norms, are those of the base."""


def closeness(header: Header, base: BaseTensors) -> Closeness:
    """Return how near the file with `header` is to its base.

    Raises:
        RefusedError: a tensor has nothing in common with the base's (`other_base`).
    """
    weights = MergedWeights(header, None)
    difference = size = 0.0
    least, exact = 1.0, True
    for name in sorted(base.names):
        info = header.tensors[name]
        ours, theirs = _sample(weights, base, info)
        own = float(np.linalg.norm(theirs))
        gap = float(np.linalg.norm(ours - theirs))
        if len(info.shape) > 1:
            difference, size = difference + gap**2, size + own**2
        cosine = _cosine(ours, theirs)
        least = min(least, cosine)
        if cosine < _LEAST_COSINE:
            raise RefusedError(
                "The base is not what this model's file was made from: their weights in "
                f"{name[:60]} have nothing in common (cosine {cosine:.2f}).",
                "Name the right repository or folder with --base.",
                code="other_base",
            )
        if info.type is TensorType.F32 and len(info.shape) == 1:
            exact = exact and gap <= _SAME * max(own, 1e-6)
    return Closeness(float(np.sqrt(difference / max(size, 1e-30))), least, len(base.names), exact)


def _sample(weights: MergedWeights, base: BaseTensors, info: TensorInfo) -> tuple[Array, Array]:
    """Return the same rows of the file and of the base, evenly taken."""
    places = sorted({number * info.rows // _ROWS for number in range(_ROWS)})
    ours = [weights.rows(info, slice(row, row + 1)) for row in places]
    theirs = [base.rows(info.name, row, row + 1) for row in places]
    return np.concatenate(ours).ravel(), np.concatenate(theirs).ravel()


def _cosine(ours: Array, theirs: Array) -> float:
    """Return the cosine; 1 where both are next to nothing, as fresh biases are."""
    sizes = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    if max(sizes) < 1e-6 * np.sqrt(ours.size):
        return 1.0
    return float(np.dot(ours, theirs) / max(sizes[0] * sizes[1], 1e-30))
