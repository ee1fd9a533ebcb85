"""The frozen layers of a full-precision base, divided among the processes that train an adapter.

Each process keeps its part of every layer, and has a whole layer only while it computes with it
(FSDP). The adapter is whole in all of them, so that its gradients, checkpoints and optimizer are as
without: what is frozen has no gradients to be exchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftModel
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from llamaforge.training.lora import base_model


@dataclass(frozen=True)
class Sharded:
    """What was divided."""

    layers: int
    whole_bytes: int
    """Frozen weights altogether."""
    kept_bytes: int
    """Those that lie in this process."""


def mesh_of_all(device: str) -> DeviceMesh:
    """Let all processes agree to divide something; `device` is `cpu` or `cuda`."""
    return init_device_mesh(device, (distributed.get_world_size(),))


def shard_frozen(
    model: PeftModel, names: Mapping[str, str], mesh: DeviceMesh, device: str
) -> Sharded:
    """Keep this process's part of the frozen weights of each layer; nothing is exchanged yet.

    From then on every pass is one of all processes together. What lies outside of layers (the
    embeddings, the output head) stays whole.

    Args:
        model: a dense model with an adapter, in the host's memory.
        names: its linear layers by path, as in `LoadedModel`.
        mesh: all processes.
        device: `cpu` or `cuda`, where it is brought, layer by layer.
    """
    whole = _frozen_bytes(model)
    trained = {value for value in model.parameters() if value.requires_grad}
    base = base_model(model)
    paths = dict.fromkeys(map(_layer_of, names))
    for path in paths:
        fully_shard(
            base.get_submodule(path), mesh=mesh, reshard_after_forward=True, ignored_params=trained
        )
    for value in (*model.parameters(), *model.buffers()):
        if not isinstance(value, DTensor):
            value.data = value.data.to(device)
    return Sharded(len(paths), whole, _frozen_bytes(model))


def _layer_of(path: str) -> str:
    """Return the path of the layer that a module lies in: up to the first number."""
    parts = path.split(".")
    number = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: number + 1])


def _frozen_bytes(model: nn.Module) -> int:
    frozen = (value for value in model.parameters() if not value.requires_grad)
    return sum(
        own.numel() * own.element_size()
        for value in frozen
        for own in [value.to_local() if isinstance(value, DTensor) else value]
    )
