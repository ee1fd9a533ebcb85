"""A trained LoRA as a GGUF adapter over the very file it was trained on.

Source of the layout: `convert_lora_to_gguf.py` and `llama-adapter.cpp` of llama.cpp: tensors
`<base tensor>.lora_a` [r, in] and `.lora_b` [out, r], applied as W + (alpha / r) · B A.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from llamaforge import __version__
from llamaforge.errors import LlamaForgeError
from llamaforge.files import commit
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import row_order

BASE_DIGEST_KEY: Final = "llamaforge.base.digest"
"""`sha256:<hex>` of the file that the adapter was trained on."""


@dataclass(frozen=True)
class Factors:
    """One layer's trained matrices, in transformers' row order: W' = W + scale · B A."""

    a: npt.NDArray[np.float32]
    """[r, in_features]"""
    b: npt.NDArray[np.float32]
    """[out_features, r]"""
    scale: float


def write_adapter(
    path: Path, base: Header, layers: Mapping[str, Factors], *, name: str, base_digest: str
) -> None:
    """Write `layers` to `path`; the file appears whole or not at all.

    Args:
        path: where the adapter goes.
        base: the header of the file it was trained on.
        layers: by GGUF tensor name without `.weight`, such as `blk.0.attn_q`.
        name: the adapter's own name.
        base_digest: `sha256:<hex>` of the base file.

    Raises:
        LlamaForgeError: a value is not finite (`not_finite`).
    """
    for tensor, factors in layers.items():
        if not (np.isfinite(factors.a).all() and np.isfinite(factors.b).all()):
            raise LlamaForgeError(
                f"The trained weights of {tensor} are not finite numbers.",
                "Train again with a lower learning rate.",
                code="not_finite",
            )
    temporary = path.with_name(f".{path.name}.tmp")
    # One alpha serves the whole file, so what differs between layers goes into B.
    rank = max(factors.a.shape[0] for factors in layers.values())
    alpha = max(factors.scale for factors in layers.values()) * rank
    writer = gguf.GGUFWriter(temporary, base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string("general.generated_by", f"LlamaForge {__version__}")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_string(BASE_DIGEST_KEY, base_digest)
    for tensor in sorted(layers):
        factors = layers[tensor]
        order = row_order(base, tensor)
        b = factors.b if order is None else factors.b[order]
        b = b * np.float32(factors.scale * factors.a.shape[0] / alpha)
        writer.add_tensor(f"{tensor}.weight.lora_a", np.ascontiguousarray(factors.a))
        writer.add_tensor(f"{tensor}.weight.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    commit(temporary, path)
