"""The tensors of a GGUF file out of the full-precision weights that it was made from.

The layout says which parameter of transformers each tensor of the file holds, and how it lies in
it; here that is gone through the other way round. What the layout does not name, such as the
factors of the rotary embedding, stays the file's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.export.dense import DenseWeights
from llamaforge.export.layout import Layout, Parameter
from llamaforge.export.weights import Array
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.names import column_order, row_order
from llamaforge.gguf.published import expert_names, possible_names, published_name
from llamaforge.safe_text import safe_line

_HEAD: Final = "lm_head.weight"
_TABLES: Final = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class _Segment:
    """Some rows of a stored tensor, one after the other."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class _Origin:
    """Where the values of one GGUF tensor come from."""

    segments: tuple[_Segment, ...]
    width: int
    rows: npt.NDArray[np.int64] | None = None
    """For each row of the file, the row of the parameter; None where both have one order."""
    columns: npt.NDArray[np.int64] | None = None
    vector: npt.NDArray[np.int64] | None = None
    """For each group of values of a vector, the group of the parameter."""
    offset: float = 0.0
    """What the file has added."""
    is_logarithm: bool = False
    """Whether the file holds -exp(x) of a value x."""


class BaseTensors:
    """Reads tensors of a GGUF file, in that file's order, from the weights it was made from."""

    def __init__(self, header: Header, layout: Layout, weights: DenseWeights) -> None:
        """Find every parameter of the layout in `weights`.

        Raises:
            InvalidFileError: one is missing or of another shape (`other_base`).
            RefusedError: the layout keeps experts as no full-precision base has them.
        """
        self._header = header
        self._weights = weights
        self._kind = layout.model_type
        self._origins: dict[str, _Origin] = {}
        for parameter in layout.parameters:
            if parameter.join == "stacked":
                self._take_experts(parameter)
            elif parameter.join != "one":
                raise RefusedError(
                    f"The experts of {safe_line(self._kind)} models are published packed, so "
                    "there is no full-precision base to merge into.",
                    "Train on the model's own file instead: --from gguf",
                    code="quantized_base",
                )
            elif parameter.tensors:
                self._origins[parameter.tensors[0]] = self._plain(parameter, layout)

    @property
    def names(self) -> frozenset[str]:
        """The GGUF tensors whose values come from the base."""
        return frozenset(self._origins)

    def rows(self, name: str, first: int, last: int) -> Array:
        """Return rows `first` to `last` of a tensor as the file has them, float32 [n, width]."""
        origin = self._origins[name]
        if origin.vector is not None:
            # It is small, and a part of it would need to know the rest.
            whole = self._joined(origin, 0, origin.segments[0].rows)
            ordered = whole.reshape(len(origin.vector), -1)[origin.vector]
            values = ordered.reshape(-1, origin.width)[first:last]
        elif origin.rows is not None:
            values = self._weights.rows(origin.segments[0].name, origin.rows[first:last])
        else:
            values = self._joined(origin, first, last)
        if origin.columns is not None:
            values = values[:, origin.columns]
        if origin.is_logarithm:
            values = -np.exp(values)
        if origin.offset:
            values = values + np.float32(origin.offset)
        return values

    def release(self, name: str) -> None:
        """Let the system have back the memory in which it holds what a tensor is made of."""
        for segment in self._origins[name].segments:
            self._weights.release(segment.name)

    def _joined(self, origin: _Origin, first: int, last: int) -> Array:
        """Return neighbouring rows out of all segments that they touch."""
        parts, start = [], 0
        for segment in origin.segments:
            low, high = max(first - start, 0), min(last - start, segment.rows)
            if low < high:
                if self._weights.tensors[segment.name].width == origin.width:
                    at = slice(segment.first + low, segment.first + high)
                    parts.append(self._weights.rows(segment.name, at))
                else:  # a convolution has a dimension of one more; it is small
                    whole = self._weights.rows(segment.name, slice(None))
                    parts.append(whole.reshape(-1, origin.width)[low:high])
            start += segment.rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _plain(self, parameter: Parameter, layout: Layout) -> _Origin:
        tensor = parameter.tensors[0]
        info = self._header.tensors[tensor]
        name = self._find(parameter.name, tied=layout.parameters)
        stored = self._weights.tensors[name]
        # Rows that stand for no token come last in both tables, and the file was made without them.
        is_longer = tensor in _TABLES and stored.width == info.width and stored.rows > info.rows
        if math.prod(stored.shape) != info.elements and not is_longer:
            raise _wrong_shape(name, stored.shape, info)
        stem = tensor.removesuffix(".weight").removesuffix(".bias")
        rows, columns = row_order(self._header, stem), column_order(self._header, stem)
        # A vector's rows are its values, and so may be those of a matrix that lies otherwise.
        by_row = rows is not None and len(rows) == info.rows and stored.width == info.width
        return _Origin(
            (_Segment(name, 0, info.rows),),
            info.width,
            rows if by_row else None,
            columns,
            None if by_row else rows,
            parameter.offset,
            parameter.is_logarithm,
        )

    def _take_experts(self, parameter: Parameter) -> None:
        """Note where the experts of a layer lie: each for itself, or all in one tensor."""
        count, tensors = parameter.shape[0], parameter.tensors
        separate = [expert_names(self._kind, parameter.name, number) for number in range(count)]
        one_by_one = bool(separate[0]) and self._known(separate[0][0]) is not None
        places: dict[str, list[_Segment]] = {tensor: [] for tensor in tensors}
        for number in range(count):
            if one_by_one:
                for place, published in enumerate(separate[number]):
                    name = self._find(published)
                    rows = self._weights.tensors[name].rows
                    places[tensors[min(place, len(tensors) - 1)]].append(_Segment(name, 0, rows))
                continue
            name = self._find(parameter.name)
            each = self._weights.tensors[name].rows // count // len(tensors)
            for place, tensor in enumerate(tensors):
                first = (number * len(tensors) + place) * each
                places[tensor].append(_Segment(name, first, each))
        for tensor, segments in places.items():
            info = self._header.tensors[tensor]
            widths = {self._weights.tensors[segment.name].width for segment in segments}
            if sum(segment.rows for segment in segments) != info.rows or widths != {info.width}:
                raise _wrong_shape(
                    segments[0].name, self._weights.tensors[segments[0].name].shape, info
                )
            self._origins[tensor] = _Origin(tuple(segments), info.width)

    def _known(self, published: str) -> str | None:
        return stored_name(self._weights.tensors, published)

    def _find(self, name: str, tied: tuple[Parameter, ...] = ()) -> str:
        """Return the folder's name for a parameter.

        Raises:
            InvalidFileError: the folder has no such tensor.
        """
        found = self._known(published_name(self._kind, name))
        if found is None and name == _HEAD and tied:
            # The file holds the head once more, which the base has tied to its embedding.
            embedding = next(p.name for p in tied if p.tensors == ("token_embd.weight",))
            found = self._known(published_name(self._kind, embedding))
        if found is None:
            raise InvalidFileError(
                f"The base has no tensor {safe_line(name, limit=80)}, which the model's file was "
                "made from.",
                "Name the right repository or folder with --base.",
                code="other_base",
            )
        return found


def stored_name(tensors: Mapping[str, object], published: str) -> str | None:
    """Return what a folder calls the tensor that is published as `published`, if it has it."""
    return next((name for name in possible_names(published) if name in tensors), None)


def _wrong_shape(name: str, shape: tuple[int, ...], info: TensorInfo) -> InvalidFileError:
    return InvalidFileError(
        f"The base's tensor {safe_line(name, limit=80)} is {' × '.join(map(str, shape))}, and "
        f"{info.name} of the model's file {' × '.join(map(str, reversed(info.shape)))}.",
        "Name the right repository or folder with --base.",
        code="other_base",
    )
