"""Tensor names: which GGUF tensor feeds which parameter, and in which row order."""

from collections.abc import Callable
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from llamaforge.errors import InvalidFileError
from llamaforge.gguf.architectures import architecture_of
from llamaforge.gguf.header import Header
from llamaforge.gguf.keys import head_counts, head_sizes, layer_count, variant, whole
from llamaforge.words import plural

_PAIRED: Final = frozenset({"attn_q", "attn_k"})
_FUSED: Final = "attn_qkv"
_TILED: Final = {
    "attn_qkv": "head",
    "attn_gate": "head",
    "ssm_conv1d": "head",
    "ssm_alpha": "one",
    "ssm_beta": "one",
    "ssm_a": "one",
    "ssm_dt": "one",
}
"""What holds value heads in its rows, and whether a head has many rows or one."""
_KEYS_FIRST: Final = frozenset({"attn_qkv", "ssm_conv1d"})
_TILED_INPUT: Final = "ssm_out"


def gguf_namer(header: Header) -> Callable[[str], str | None]:
    """Return a function from a transformers module path to its GGUF name, without `.weight`.

    It answers None for modules that have no tensor, such as the rotary embedding.

    Raises:
        RefusedError: the architecture is not known, or the file does not say its layers.
    """
    table = _name_table(header)

    def name_of(module: str) -> str | None:
        found = table.get_name(module)
        return None if found is None else str(found)

    return name_of


def layer_names(header: Header) -> dict[str, bool]:
    """Return what the matrices of the model's blocks may be called as layers, by last names.

    The value says whether it is a name of the usual kind, as in `model.layers.0.mlp.up_proj`; the
    others are what the same matrices are called in models of other makers.

    Raises:
        RefusedError: the architecture is not known, or the file does not say its layers.
    """
    found: dict[str, bool] = {}
    for path, (_, name) in _name_table(header).mapping.items():
        tensor = header.tensors.get(f"{name}.weight")
        if name.startswith("blk.") and tensor is not None and len(tensor.shape) == 2:
            last = path.rsplit(".", 1)[-1]
            found[last] = found.get(last, False) or path.startswith("model.layers.")
    return found


def _name_table(header: Header) -> gguf.TensorNameMap:
    entry = architecture_of(header)
    architecture = next(
        number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == entry.name
    )
    return gguf.get_tensor_name_map(architecture, layer_count(header))


def row_order(header: Header, tensor: str) -> npt.NDArray[np.int64] | None:
    """Return, for each of the GGUF tensor's rows, the row of the transformers weight it holds.

    None means that both have one order. `tensor` is a GGUF name such as `blk.0.attn_q`.
    Sources, both of llama.cpp's converter: `LlamaModel.permute`, which stores a head's
    `[2, dim/2]` as `[dim/2, 2]`; and `FalconModel.modify_tensors`, which sorts
    `[group, queries + key + value, dim]` into all queries, all keys, all values.

    Raises:
        RefusedError: the architecture or its heads are not known.
        InvalidFileError: there is no such tensor, or its rows are not whole heads.
    """
    part = tensor.rsplit(".", 1)[-1]
    rows = architecture_of(header).rows
    if rows == "paired" and part in _PAIRED:
        heads, key_value_heads = head_counts(header)
        heads = key_value_heads if part == "attn_k" else heads
        count = _row_count(header, tensor, heads * 2)
        grid = np.arange(count, dtype=np.int64).reshape(heads, 2, count // heads // 2)
        return grid.swapaxes(1, 2).reshape(-1)
    if rows == "grouped" and part == _FUSED:
        heads, groups = head_counts(header)
        per_group = heads // groups + 2
        size, _ = head_sizes(header)
        count = _row_count(header, tensor, groups * per_group * size)
        grid = np.arange(count, dtype=np.int64).reshape(groups, per_group, -1)
        parts = grid[:, :-2], grid[:, -2], grid[:, -1]
        return np.concatenate([values.reshape(-1) for values in parts])
    if rows == "tiled" and part in _TILED:
        return _tiled(header, keys_first=part in _KEYS_FIRST, size=_TILED[part])
    return None


def column_order(header: Header, tensor: str) -> npt.NDArray[np.int64] | None:
    """Return, for each of the GGUF tensor's columns, the column of the transformers weight.

    None means that both have one order. Columns cannot be moved in packed blocks, so the layer's
    input is put into the file's order instead.
    """
    if architecture_of(header).rows != "tiled" or tensor.rsplit(".", 1)[-1] != _TILED_INPUT:
        return None
    return _tiled(header, keys_first=False, size="head")


def _tiled(header: Header, *, keys_first: bool, size: str) -> npt.NDArray[np.int64] | None:
    """Return the order of value heads that go round the key heads.

    Source: `_LinearAttentionVReorderBase` of llama.cpp's converter: `[key head, number, size]` is
    stored as `[number, key head, size]`, behind all queries and keys with `keys_first`.
    """
    keys, values = whole(header, "ssm.group_count"), whole(header, "ssm.time_step_rank")
    if values % keys:
        raise variant(header, f"has {values} value heads over {keys} key heads")
    width = whole(header, "ssm.inner_size") // values if size == "head" else 1
    grid = np.arange(values * width, dtype=np.int64).reshape(keys, values // keys, width)
    order = grid.swapaxes(0, 1).reshape(-1)
    if not keys_first:
        return order
    before = 2 * keys * whole(header, "ssm.state_size")
    return np.concatenate([np.arange(before, dtype=np.int64), order + before])


def _row_count(header: Header, tensor: str, unit: int) -> int:
    """Return how many rows the tensor has: a whole number of times `unit`."""
    info = header.tensors.get(f"{tensor}.weight")
    if info is None or info.rows % unit:
        found = "nothing" if info is None else f"{plural(info.rows, 'row')}"
        raise InvalidFileError(
            f"{header.path.name} holds {found} for {tensor}.weight, not whole heads.",
            "Pull the model again; the file contradicts itself.",
            code="wrong_shape",
        )
    return info.rows


def inverse(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order that undoes `order`."""
    result = np.empty_like(order)
    result[order] = np.arange(len(order), dtype=np.int64)
    return result
