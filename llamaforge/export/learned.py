"""What a run on a full-precision base has learned: PEFT's own files, read back."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file

from llamaforge.errors import InvalidFileError
from llamaforge.export.adapter import Factors
from llamaforge.export.base_tensors import stored_name
from llamaforge.export.dense import Change, DenseWeights
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import column_order, gguf_namer
from llamaforge.gguf.published import published_name
from llamaforge.recipe.training_settings import TrainingSettings

ADAPTER_FILE: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def read_learned(file: Path, settings: TrainingSettings) -> dict[str, Change]:
    """Return what was learned, by the path of each module in the transformers model.

    Raises:
        InvalidFileError: the file is not what PEFT writes for these settings (`bad_checkpoint`).
    """
    values = load_file(file)
    found: dict[str, Change] = {}
    for key in [name for name in values if name.endswith(_A)]:
        stem = key.removesuffix(_A)
        a, b = values.pop(key), values.pop(f"{stem}{_B}", None)
        magnitude = values.pop(f"{stem}{_MAGNITUDE}", None)
        if b is None or a.shape[0] != b.shape[1] or (magnitude is None) is settings.use_dora:
            raise _unsound(file)
        rank = a.shape[0]
        scale = settings.lora_alpha / (math.sqrt(rank) if settings.use_rslora else rank)
        found[stem.removeprefix(_PREFIX)] = Change(
            a.astype(np.float32),
            b.astype(np.float32),
            scale,
            None if magnitude is None else magnitude.reshape(-1).astype(np.float32),
        )
    if values or not found:
        raise _unsound(file)
    return found


def factors_over(header: Header, learned: Mapping[str, Change]) -> dict[str, Factors]:
    """Return what was learned by GGUF tensor: rows as in transformers, columns as in the file."""
    name_of = gguf_namer(header)
    found = {}
    for path, change in learned.items():
        name = name_of(path)
        if name is None:
            raise InvalidFileError(f"The model's file has nothing for the layer {path[:80]}.")
        columns = column_order(header, name)
        a = change.a if columns is None else change.a[:, columns]
        found[name] = Factors(np.ascontiguousarray(a), change.b, change.scale)
    return found


def tuned_weights(folder: Path, model_type: str, learned: Mapping[str, Change]) -> DenseWeights:
    """Return the base's weights with what was learned in them.

    Raises:
        InvalidFileError: the folder has no sound weights, or none for a module that was trained.
    """
    plain = DenseWeights(folder)
    changes = {}
    for path, change in learned.items():
        name = stored_name(plain.tensors, published_name(model_type, f"{path}.weight"))
        if name is None:
            raise InvalidFileError(
                f"The base has no weights for the layer {path[:80]} that was trained.",
                "Name the right repository or folder with --base, and train again.",
                code="other_base",
            )
        changes[name] = change
    return DenseWeights(folder, changes)


def _unsound(file: Path) -> InvalidFileError:
    return InvalidFileError(
        f"The adapter {file.name} is not what the run's settings make.",
        "Start a new run.",
        code="bad_checkpoint",
    )
