"""A trained adapter as PEFT has it, over the full-precision weights that the file was made from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from llamaforge.export.hugging_face import Exported, described
from llamaforge.export.layout import Layout
from llamaforge.export.place import check_room, new_folder
from llamaforge.export.weights import Adapter, Array
from llamaforge.files import write_json
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import column_order, inverse, row_order

_WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class PeftSettings:
    """How the adapter was trained, in PEFT's words."""

    r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool

    def scale(self, rank: int) -> float:
        """Return by what PEFT multiplies B A."""
        return self.lora_alpha / (math.sqrt(rank) if self.use_rslora else rank)


def write_peft(
    path: Path,
    base: Header,
    adapter: Header,
    layout: Layout,
    settings: PeftSettings,
    *,
    base_model: str | None,
    replace: bool = False,
) -> Exported:
    """Write the adapter to the directory `path`, whole or not at all.

    Args:
        path: the directory to make.
        base: the file that was trained on.
        adapter: what was trained.
        layout: how transformers lays out the model of `base`.
        settings: how it was trained.
        base_model: the repository or folder of the full-precision weights; None where unknown.
        replace: whether an adapter that lies at `path` may be replaced.

    Raises:
        InvalidFileError: the adapter is damaged or made for another file, or `path` is taken.
        RefusedError: the disk has no room.
    """
    pairs = Adapter(adapter, base)
    check_room(path, adapter.tensor_bytes, "remove what is not needed")
    weights: dict[str, Array] = {}
    ranks: dict[str, int] = {}
    for parameter in layout.parameters:
        if not parameter.tensors or parameter.tensors[0] not in pairs.names:
            continue
        module = parameter.name.removesuffix(".weight")
        a, b, scale = _in_order(base, pairs, parameter.tensors[0])
        ranks[module] = a.shape[0]
        b = b * np.float32(scale / settings.scale(a.shape[0]))
        weights[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(a)
        weights[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(b)
    with new_folder(path, replace=replace) as folder:
        save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
        write_json(folder / "adapter_config.json", _config(layout, settings, ranks, base_model))
        exported = described(folder, {})
    return Exported(path, *exported)


def _in_order(base: Header, pairs: Adapter, tensor: str) -> tuple[Array, Array, float]:
    """Return A, B and the scale with rows and columns in transformers' order."""
    a, b, scale = pairs.pair(tensor)
    stem = tensor.removesuffix(".weight")
    rows, columns = row_order(base, stem), column_order(base, stem)
    if rows is not None:
        b = b[inverse(rows)]
    if columns is not None:
        a = a[:, inverse(columns)]
    return a, b, scale


def _config(
    layout: Layout, settings: PeftSettings, ranks: dict[str, int], base_model: str | None
) -> dict[str, Any]:
    alpha = settings.lora_alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": settings.r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": settings.lora_dropout,
        "use_rslora": settings.use_rslora,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != settings.r},
        "alpha_pattern": {},
        "target_modules": _targets(layout, set(ranks)),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
    }


def _targets(layout: Layout, adapted: set[str]) -> list[str]:
    """Return the last names of the adapted modules, or whole paths where others share them.

    Experts, which some versions of transformers have as modules of their own, share them too.
    """
    last = {path.rpartition(".")[2] for path in adapted}
    named = {path for path in layout.modules if path.rpartition(".")[2] in last}
    has_experts = any(parameter.join != "one" for parameter in layout.parameters)
    return sorted(last if named == adapted and not has_experts else adapted)
