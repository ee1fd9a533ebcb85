"""From a file's tensors to the parameters of a transformers model, as a Hub repository has them.

What lies otherwise in the file is put right: the order of rows and columns, what norms have added,
and how the experts of a layer lie together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llamaforge.export.layout import Layout, Parameter
from llamaforge.export.shards import Planned
from llamaforge.export.weights import Array, MergedWeights
from llamaforge.gguf.header import TensorInfo
from llamaforge.gguf.names import column_order, inverse, row_order
from llamaforge.gguf.published import expert_names, published, published_name


def planned_tensors(weights: MergedWeights, layout: Layout) -> list[Planned]:
    """Return the tensors of a repository, none of which is read yet."""
    kind = layout.model_type
    found: list[Planned] = []
    for parameter in layout.parameters:
        if parameter.join == "stacked" and published(kind).experts:
            found += _separate(weights, parameter, kind)
        else:
            name = published_name(kind, parameter.name)
            found.append(Planned(name, parameter.shape, _reader(weights, parameter)))
    return found


class _Reader:
    """Reads one parameter, in its own order, when it is called."""

    def __init__(self, weights: MergedWeights, parameter: Parameter) -> None:
        self._weights = weights
        self._parameter = parameter
        self._infos = [weights.base.tensors[name] for name in parameter.tensors]

    def __call__(self) -> Iterator[Array]:
        """Yield the values in parts; what was mapped of the file is given back at the end."""
        for values in self._parts():
            yield self._restored(values)
        for info in self._infos:
            self._weights.release(info)

    def _parts(self) -> Iterator[Array]:
        if not self._infos:
            yield np.zeros(self._parameter.shape, dtype=np.float32)
        elif self._parameter.join == "one":
            yield from _in_order(self._weights, self._infos[0])
        elif self._parameter.join == "interleaved":
            values = [self._weights.rows(info, slice(None)) for info in self._infos]
            yield np.stack(values, axis=-1)
        elif self._parameter.join == "stacked":
            for number in range(self._parameter.shape[0]):
                for info in self._infos:
                    yield from self._weights.parts(info, _expert(info, number))
        else:
            for number in range(self._parameter.shape[0]):
                values = [self._weights.rows(info, _expert(info, number)) for info in self._infos]
                yield np.ascontiguousarray(
                    np.stack(values, axis=1).reshape(-1, values[0].shape[1]).T
                )

    def _restored(self, values: Array) -> Array:
        if self._parameter.is_logarithm:
            values = np.log(-values)
        return values - np.float32(self._parameter.offset) if self._parameter.offset else values


def _reader(weights: MergedWeights, parameter: Parameter) -> _Reader:
    return _Reader(weights, parameter)


def _in_order(weights: MergedWeights, info: TensorInfo) -> Iterator[Array]:
    """Yield a tensor with its rows and columns in transformers' order."""
    stem = info.name.removesuffix(".weight").removesuffix(".bias")
    rows, columns = row_order(weights.base, stem), column_order(weights.base, stem)
    if rows is not None and len(rows) != info.rows:  # a vector: its values are the rows
        yield weights.rows(info, slice(None)).reshape(len(rows), -1)[inverse(rows)]
        return
    for values in weights.parts(info, slice(None) if rows is None else inverse(rows)):
        yield values if columns is None else values[:, inverse(columns)]


def _expert(info: TensorInfo, number: int) -> slice:
    """Return the rows of one expert."""
    rows = math.prod(info.shape[1:2])
    return slice(number * rows, (number + 1) * rows)


def _separate(weights: MergedWeights, parameter: Parameter, model_type: str) -> Iterator[Planned]:
    """Yield the matrices of every expert one by one."""
    for number in range(parameter.shape[0]):
        names = expert_names(model_type, parameter.name, number)
        for name, tensor in zip(names, parameter.tensors, strict=True):
            info = weights.base.tensors[tensor]
            yield Planned(name, (info.shape[1], info.width), _ExpertReader(weights, info, number))


@dataclass(frozen=True)
class _ExpertReader:
    """Reads one matrix of one expert when it is called."""

    weights: MergedWeights
    info: TensorInfo
    number: int

    def __call__(self) -> Iterator[Array]:
        """Yield the matrix in parts."""
        return self.weights.parts(self.info, _expert(self.info, self.number))
