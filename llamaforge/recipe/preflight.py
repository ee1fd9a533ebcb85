"""What a run needs of the machine, and the refusal of one that could not end well."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge import hardware
from llamaforge.data.library import find
from llamaforge.data.sources import Source, expand
from llamaforge.errors import RefusedError
from llamaforge.gguf.ggml import can_pack
from llamaforge.gguf.header import Header
from llamaforge.gguf.llama_files import is_translated
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import PROGRAM_BYTES, Estimator
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.spec import RunSpec
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.safe_text import safe_line
from llamaforge.words import megabytes

_FLOAT32_BYTES: Final = 4
_CHECKPOINTS: Final = 3
"""Two are kept while the next is written."""
_COPIES_IN_CHECKPOINT: Final = 3
"""The adapter and the two moments of Adam."""
_BFLOAT16_BYTES: Final = 2
_NF4_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight of four bits; for 64 of them a scale in eight bits, for 256 scales one in 32 bits."""
_MOST_BYTES: Final = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 1.0625, "Q6_K": 0.83}
"""Bytes of a weight in the types that may be larger than the model's own."""
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
    """The least of this machine's memory that it can do with, all its processes together: one short
    row at a time, activations computed again."""
    gpu: int
    """The same of a GPU's memory, of which each process has one; 0 where none is computed on."""


def needs_of(spec: RunSpec, header: Header) -> Needs:
    """Return what the run takes on a model, whose `header` is as the server reads it."""
    trained = trained_parameters(header, spec.training)
    adapter = trained * _FLOAT32_BYTES
    snapshot = 0
    for phase in spec.phases:  # each has a snapshot of its own, also of the same files
        local = [source for source in phase.data.sources if not source.is_on_the_hub]
        if local:
            snapshot += sum(map(_snapshot_bytes, expand(local).files))
        if phase.data.snapshot is not None:
            files = find(phase.data.snapshot).manifest.files.values()
            snapshot += sum(file.bytes for file in files)
    kept = sum(_CHECKPOINTS + phase.training.keeps_best for phase in spec.phases)
    checkpoints = kept * _COPIES_IN_CHECKPOINT * adapter
    # A server that takes no adapters gets a file with both merged, as large as the model's own.
    is_merged = spec.publish.name is not None or not spec.training.makes_adapter
    merged = _merged_bytes(spec, header) if is_merged else 0
    # llama.cpp is asked about a file that says what Ollama's server reads.
    translated = header.tensor_bytes if is_translated(header) else 0
    memory, gpu = _memory(spec, header)
    return Needs(
        adapter=adapter,
        made=adapter + snapshot + merged + translated,
        disk=checkpoints + adapter + snapshot + merged + translated + _SLACK_DISK_BYTES,
        memory=memory,
        gpu=gpu,
    )


def _memory(spec: RunSpec, header: Header) -> tuple[int, int]:
    """Return the least that a run needs of the machine's memory, and of each GPU's."""
    launch = spec.launch
    numbers = range(1, len(spec.phases) + 1)
    each = max(_least_of_phase(spec.of_phase(number), header) for number in numbers)
    # Whoever divides the base has read it as a whole; the processes of a machine take turns.
    undivided = spec.model_copy(update={"launch": LaunchSettings()})
    read = frozen_bytes(undivided, header) - frozen_bytes(spec, header) if launch.fsdp else 0
    if spec.training.device != "cpu":
        return launch.processes * PROGRAM_BYTES + read, each
    # A file that is mapped lies in memory once.
    shared = header.tensor_bytes if spec.training.base == "gguf" else 0
    return shared + launch.processes * (each - shared) + read, 0


def _least_of_phase(spec: RunSpec, header: Header) -> int:
    trained = trained_parameters(header, spec.training)
    return least_memory(header, spec.training, trained, held_bytes(spec, header))


def least_memory(
    header: Header, settings: TrainingSettings, trained_weights: int, held_bytes: int | None
) -> int:
    """Return the memory that training cannot do without, whatever its cut, in bytes.

    Raises:
        RefusedError: the architecture is not known.
    """
    smallest = Cut(1, 1, gradient_checkpointing=True)
    estimator = Estimator(header, settings, trained_weights, held_bytes=held_bytes)
    return estimator.memory(smallest, _SHORT_ROW_TOKENS).total


def held_bytes(spec: RunSpec, header: Header) -> int | None:
    """Return what the base holds in memory, or None where it is the model's own file."""
    return None if spec.training.base == "gguf" else frozen_bytes(spec, header)


def _merged_bytes(spec: RunSpec, header: Header) -> int:
    """Return how large a merged file is: as the model's own, or in its own type at most."""
    most = _MOST_BYTES.get(spec.publish.quantization or "", 0.0)
    return max(header.stored.file_bytes, int(most * header.parameters))


def trained_parameters(header: Header, training: TrainingSettings) -> int:
    """Return how many weights are trained: the adapter's, or all of the model's."""
    if not training.use_peft:
        return header.parameters
    return adapter_parameters(header, training.lora_r)


def frozen_bytes(spec: RunSpec, header: Header) -> int:
    """Return what the weights that are not trained take in memory: the file, or the base.

    Weights that are all trained are counted with what trains them.
    """
    training = spec.training
    if training.base == "gguf":
        return header.path.stat().st_size
    if not training.use_peft:
        return 0
    size = _BFLOAT16_BYTES if training.compute_dtype == "bfloat16" else _FLOAT32_BYTES
    blocks = {name: item for name, item in header.tensors.items() if name.startswith("blk.")}
    if training.load_in_4bit:
        inside = sum(tensor.elements for tensor in blocks.values() if len(tensor.shape) == 2)
        return int(inside * _NF4_BYTES) + size * (header.parameters - inside)
    if spec.launch.fsdp:
        # Each process has its part of every layer, and for the moment one as a whole.
        layers: dict[str, int] = {}
        for name, tensor in blocks.items():
            layer = name.split(".")[1]
            layers[layer] = layers.get(layer, 0) + tensor.elements
        inside, largest = sum(layers.values()), max(layers.values(), default=0)
        part = min(inside, inside // spec.launch.world + largest)
        return size * (header.parameters - inside + part)
    return size * header.parameters


def check_way(spec: RunSpec, header: Header) -> None:
    """Return if the result of a run on the full-precision base can be made and kept.

    Raises:
        RefusedError: bitsandbytes is needed and absent (`no_bitsandbytes`), or the merged file
            would need a type that nobody here can pack (`cannot_pack`).
    """
    training = spec.training
    if training.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise RefusedError(
            "load_in_4bit (QLoRA) needs bitsandbytes, which is not installed.",
            "Install it: pip install 'llamaforge[qlora]'; or leave out --set load_in_4bit=true",
            code="no_bitsandbytes",
        )
    for phase in spec.phases:
        if "8bit" in phase.training.optim and importlib.util.find_spec("bitsandbytes") is None:
            raise RefusedError(
                f"The optimizer {phase.training.optim} needs bitsandbytes, which is not installed.",
                "Install it: pip install 'llamaforge[qlora]'; or leave out --set optim=…",
                code="no_bitsandbytes",
            )
    if training.makes_adapter or spec.publish.quantization is not None:
        return
    for name, tensor in header.tensors.items():
        if not can_pack(tensor.type):
            way = "a DoRA adapter" if training.use_peft else "a model of which every weight changed"
            raise RefusedError(
                f"The result of {way} is one merged file, and the type {tensor.type.name} of "
                f"{safe_line(name, limit=60)} cannot be packed again without an importance matrix.",
                "Choose its type: --set quantization=Q4_K_M",
                code="cannot_pack",
            )


def adapter_parameters(header: Header, lora_r: int) -> int:
    """Return the weights of a LoRA over every linear layer of the blocks.

    A layer of shape [rows, width] gets A [lora_r, width] and B [rows, lora_r].
    """
    return sum(
        lora_r * (tensor.width + tensor.rows)
        for name, tensor in header.tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    )


def check_trackers(spec: RunSpec) -> None:
    """Refuse a run whose figures shall go to a program that is not installed.

    Raises:
        RefusedError: `no_tracker`, with what to install.
    """
    for name in sorted({name for phase in spec.phases for name in phase.training.report_to}):
        if importlib.util.find_spec(name) is None:
            raise RefusedError(
                f"The figures shall go to {name}, which is not installed.",
                f"Install it: pip install 'llamaforge[{name}]', or leave out report_to.",
                code="no_tracker",
            )


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse a run that would fill the disk of `folder`, which need not exist yet.

    Raises:
        RefusedError: `no_disk_space`, with what is free and what is needed.
    """
    free = hardware.free_disk_bytes(folder)
    if free < needed_bytes:
        raise RefusedError(
            f"The run needs up to {megabytes(needed_bytes)} of disk space, and "
            f"{megabytes(free)} are free at {folder}.",
            "Free some space, or set LLAMAFORGE_HOME to a folder on a larger disk.",
            code="no_disk_space",
        )


def check_memory(needs: Needs) -> None:
    """Refuse a run that cannot be held in this machine's memory whatever its settings.

    Raises:
        RefusedError: `no_memory`, with what is available and what is needed.
    """
    available = hardware.available_memory_bytes()
    if available < needs.memory:
        raise RefusedError(
            f"The run needs at least {megabytes(needs.memory)} of memory, and "
            f"{megabytes(available)} are available.",
            "Close other programs, or choose a smaller model or one of smaller blocks.",
            code="no_memory",
        )
    free = max((gpu.free_bytes for gpu in hardware.gpus()), default=0) if needs.gpu else 0
    if 0 < free < needs.gpu:  # 0: the driver does not say
        raise RefusedError(
            f"The run needs at least {megabytes(needs.gpu)} of a GPU's memory, and "
            f"{megabytes(free)} are free.",
            "Close other programs that use the GPU, or choose a smaller model.",
            code="no_memory",
        )


def _snapshot_bytes(source: Source) -> int:
    growth = _PACKED_GROWTH if source.place.suffix in _PACKED else 1
    return math.ceil(source.place.stat().st_size * growth * _SNAPSHOT_GROWTH * source.weight)
