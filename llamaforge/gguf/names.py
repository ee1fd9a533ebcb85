"""Tensor names: which GGUF tensor feeds which parameter, and in which row order."""

from collections.abc import Callable
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from llamaforge.errors import InvalidFileError
from llamaforge.gguf.architectures import architecture_of, head_counts, layer_count
from llamaforge.gguf.header import Header

_PERMUTED: Final = frozenset({"attn_q", "attn_k"})


def gguf_namer(header: Header) -> Callable[[str], str | None]:
    """Return a function from a transformers module path to its GGUF name, without `.weight`.

    It answers None for modules that have no tensor, such as the rotary embedding.

    Raises:
        RefusedError: the architecture is not known, or the file does not say its layers.
    """
    entry = architecture_of(header)
    architecture = next(
        number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == entry.name
    )
    table = gguf.get_tensor_name_map(architecture, layer_count(header))

    def name_of(module: str) -> str | None:
        found = table.get_name(module)
        return None if found is None else str(found)

    return name_of


def row_order(header: Header, tensor: str) -> npt.NDArray[np.int64] | None:
    """Return, for each of the GGUF tensor's rows, the row of the transformers weight it holds.

    None means that both have one order. `tensor` is a GGUF name such as `blk.0.attn_q`.
    Source: `LlamaModel.permute` of llama.cpp's converter: `[head, 2, dim/2]` is stored as
    `[head, dim/2, 2]`.

    Raises:
        RefusedError: the architecture or its heads are not known.
        InvalidFileError: there is no such tensor, or its rows are not whole heads.
    """
    part = tensor.rsplit(".", 1)[-1]
    if not architecture_of(header).query_key_permuted or part not in _PERMUTED:
        return None
    heads, key_value_heads = head_counts(header)
    if part == "attn_k":
        heads = key_value_heads
    info = header.tensors.get(f"{tensor}.weight")
    if info is None or info.rows % (heads * 2):
        found = "nothing" if info is None else f"{info.rows:,} rows"
        raise InvalidFileError(
            f"{header.path.name} holds {found} for {tensor}.weight, not {heads} whole heads.",
            "Pull the model again; the file contradicts itself.",
            code="wrong_shape",
        )
    grid = np.arange(info.rows, dtype=np.int64).reshape(heads, 2, info.rows // heads // 2)
    return grid.swapaxes(1, 2).reshape(-1)


def inverse(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order that undoes `order`."""
    result = np.empty_like(order)
    result[order] = np.arange(len(order), dtype=np.int64)
    return result
