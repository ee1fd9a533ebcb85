"""What a run needs of the machine, and the refusal of one that could not end well."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge import hardware
from llamaforge.data.library import find
from llamaforge.data.sources import Source, expand
from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header
from llamaforge.gguf.llama_files import is_translated
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import Estimator
from llamaforge.recipe.spec import RunSpec, TrainingSettings

_FLOAT32_BYTES: Final = 4
_CHECKPOINTS: Final = 3
"""Two are kept while the next is written."""
_COPIES_IN_CHECKPOINT: Final = 3
"""The adapter and the two moments of Adam."""
_SNAPSHOT_GROWTH: Final = 2
"""Rows in the program's own form are larger than most that people write."""
_PACKED: Final = frozenset({".gz", ".zst", ".zstd", ".parquet"})
_PACKED_GROWTH: Final = 10
_SLACK_DISK_BYTES: Final = 200_000_000
"""Events, the log and reports."""
_SHORT_ROW_TOKENS: Final = 64


@dataclass(frozen=True)
class Needs:
    """What a run takes, in bytes."""

    adapter: int
    """The adapter's weights as float32, if every linear layer of the blocks is adapted."""
    made: int
    """The rows, and what the stages beside training make of them."""
    disk: int
    """The most that its directory will hold at one time."""
    memory: int
    """The least that it can do with: one short row at a time, activations computed again."""


def needs_of(spec: RunSpec, header: Header) -> Needs:
    """Return what the run takes on a model, whose `header` is as the server reads it."""
    adapter = adapter_parameters(header, spec.training.lora_r) * _FLOAT32_BYTES
    local = [source for source in spec.data.sources if not source.is_on_the_hub]
    snapshot = sum(map(_snapshot_bytes, expand(local).files)) if local else 0
    if spec.data.snapshot is not None:
        snapshot = sum(file.bytes for file in find(spec.data.snapshot).manifest.files.values())
    checkpoints = _CHECKPOINTS * _COPIES_IN_CHECKPOINT * adapter
    # A server that takes no adapters gets a file with both merged, as large as the model's own.
    merged = 0 if spec.publish.name is None else header.stored.file_bytes
    # llama.cpp is asked about a file that says what Ollama's server reads.
    translated = header.tensor_bytes if is_translated(header) else 0
    return Needs(
        adapter=adapter,
        made=adapter + snapshot + merged,
        disk=checkpoints + adapter + snapshot + merged + translated + _SLACK_DISK_BYTES,
        memory=least_memory(header, spec.training, adapter // _FLOAT32_BYTES),
    )


def least_memory(header: Header, settings: TrainingSettings, trained_weights: int) -> int:
    """Return the memory that training cannot do without, whatever its cut, in bytes.

    Raises:
        RefusedError: the architecture is not known.
    """
    smallest = Cut(1, 1, gradient_checkpointing=True)
    return Estimator(header, settings, trained_weights).memory(smallest, _SHORT_ROW_TOKENS).total


def adapter_parameters(header: Header, lora_r: int) -> int:
    """Return the weights of a LoRA over every linear layer of the blocks.

    A layer of shape [rows, width] gets A [lora_r, width] and B [rows, lora_r].
    """
    return sum(
        lora_r * (tensor.width + tensor.rows)
        for name, tensor in header.tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    )


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse a run that would fill the disk of `folder`, which need not exist yet.

    Raises:
        RefusedError: `no_disk_space`, with what is free and what is needed.
    """
    free = hardware.free_disk_bytes(folder)
    if free < needed_bytes:
        raise RefusedError(
            f"The run needs up to {_megabytes(needed_bytes)} of disk space, and "
            f"{_megabytes(free)} are free at {folder}.",
            "Free some space, or set LLAMAFORGE_HOME to a folder on a larger disk.",
            code="no_disk_space",
        )


def check_memory(needed_bytes: int) -> None:
    """Refuse a run that cannot be held in this machine's memory whatever its settings.

    Raises:
        RefusedError: `no_memory`, with what is available and what is needed.
    """
    available = hardware.available_memory_bytes()
    if available < needed_bytes:
        raise RefusedError(
            f"The run needs at least {_megabytes(needed_bytes)} of memory, and "
            f"{_megabytes(available)} are available.",
            "Close other programs, or choose a smaller model or one of smaller blocks.",
            code="no_memory",
        )


def _snapshot_bytes(source: Source) -> int:
    growth = _PACKED_GROWTH if source.place.suffix in _PACKED else 1
    return math.ceil(source.place.stat().st_size * growth * _SNAPSHOT_GROWTH * source.weight)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
