"""What the columns of a model's packed matrices are multiplied with, added up over rows of text.

Source of what is added up: `tools/imatrix` of llama.cpp: squares of each matrix's inputs, token by
token; each expert has sums of its own. The output head is left out, as there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import Tensor, nn

from llamaforge.gguf.header import Header
from llamaforge.training.experts import PackedExperts
from llamaforge.training.lora import hidden_states
from llamaforge.training.model import PackedModel, layer_of
from llamaforge.training.packed import PackedLinear


@dataclass(frozen=True)
class InputSums:
    """What was added up of the inputs of the matrices that lie in one tensor."""

    squares: npt.NDArray[np.float32]
    """Sums of squares, [matrices, width]."""
    counts: npt.NDArray[np.float32]
    """Tokens, [matrices]."""


@dataclass
class _Sum:
    squares: Tensor
    """[matrices, width], float64: millions of small squares are added up."""
    counts: Tensor
    """[matrices]"""


def measure_importance(
    packed: PackedModel,
    model: PeftModel,
    header: Header,
    rows: Sequence[Sequence[int]],
    on_row: Callable[[int], None],
) -> dict[str, InputSums]:
    """Return the sums over `rows` of token ids, by the tensors' names in `header`.

    Args:
        packed: the packed model.
        model: the same with its adapter, which is switched on.
        header: the model's header.
        rows: token ids; each row is a text of its own.
        on_row: takes how many rows are done; what it raises ends the measuring.
    """
    sums: dict[str, _Sum] = {}
    with ExitStack() as stack, torch.no_grad():
        for name, matrix, matrices, width, layer in _layers(packed, model, header):
            found = sums.setdefault(
                name,
                _Sum(
                    torch.zeros(matrices, width, dtype=torch.float64),
                    torch.zeros(matrices, dtype=torch.float64),
                ),
            )
            handle = layer.register_forward_pre_hook(_adder(found, matrix))
            stack.callback(handle.remove)
        for done, ids in enumerate(rows, 1):
            hidden_states(model, torch.tensor([list(ids)]))
            on_row(done)
    return {
        name: InputSums(found.squares.float().numpy(), found.counts.float().numpy())
        for name, found in sums.items()
    }


def _adder(found: _Sum, matrix: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        states = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        found.squares[matrix] += states.double().square().sum(dim=0).cpu()
        found.counts[matrix] += len(states)

    return add


def _layers(
    packed: PackedModel, model: PeftModel, header: Header
) -> Iterator[tuple[str, int, int, int, nn.Module]]:
    """Yield each matrix: its tensor's name, its number there, how many lie there, width, module.

    The module is the outermost one: an adapter that lies on a matrix multiplies with it itself.
    """
    for path, name in packed.names.items():
        module = model.get_base_model().get_submodule(path)
        yield f"{name}.weight", 0, 1, _packed_layer(module).in_features, module
    for path, module in model.get_base_model().named_modules():
        if not isinstance(module, PackedExperts):
            continue
        layer = layer_of(path)
        fused = f"{layer}ffn_gate_up_exps.weight" in header.tensors
        for part, number, linear in module.layers():
            if fused and part == "up":
                continue  # it has the gate's inputs, and lies in one tensor with it
            tensor = "gate_up" if fused and part == "gate" else part
            matrices = module.num_experts
            yield f"{layer}ffn_{tensor}_exps.weight", number, matrices, linear.in_features, linear


def _packed_layer(module: nn.Module) -> PackedLinear:
    """Return the packed layer that `module` is, or on which it is an adapter."""
    if isinstance(module, PackedLinear):
        return module
    inner = module.get_submodule("base_layer")
    assert isinstance(inner, PackedLinear)  # noqa: S101 - nothing else is named
    return inner
