"""Packed parts that differ from a plain layer: experts, scaled embeddings, reordered columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, cast

import torch
from torch import Tensor, nn

from llamaforge.training.packed import PackedEmbedding, PackedLinear, PackedWeight

Activation = Callable[[Tensor, Tensor], Tensor]
"""From an expert's gate and its other half, [n, intermediate] each, to what goes down again."""


class PackedExperts(nn.Module):
    """The experts of one layer: those that a token was sent to are unpacked, one at a time.

    They stay frozen. Takes the place of the model's own module, and is called as that is.
    """

    def __init__(
        self,
        weights: Sequence[Sequence[PackedWeight]],
        biases: Sequence[Sequence[Tensor] | None],
        activation: Activation,
        compute_dtype: torch.dtype,
    ) -> None:
        """Take gate, up and down, each with one matrix for every expert."""
        super().__init__()
        self.num_experts = len(weights[0])
        self._activation = activation
        # Kept from the list of submodules: PEFT would lay an adapter over each of them.
        self._parts = tuple(
            tuple(
                PackedLinear(weight, None if bias is None else bias[number], compute_dtype)
                for number, weight in enumerate(part)
            )
            for part, bias in zip(weights, biases, strict=True)
        )

    def layers(self) -> Iterator[tuple[str, int, PackedLinear]]:
        """Yield each expert's layers with their part, `gate`, `up` or `down`, and its number."""
        for name, part in zip(("gate", "up", "down"), self._parts, strict=True):
            for number, layer in enumerate(part):
                yield name, number, layer

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Return the experts' joint answer, shape [n, hidden].

        Args:
            hidden: states, shape [n, hidden].
            chosen: numbers of the experts of each token, shape [n, k].
            shares: what each of them counts, shape [n, k].
        """
        gate, up, down = self._parts
        result = torch.zeros_like(hidden)
        for number in torch.unique(chosen).tolist():
            tokens, places = torch.where(chosen == number)
            state = hidden[tokens]
            inner = self._activation(gate[number](state), up[number](state))
            answer = down[number](inner) * shares[tokens, places, None]
            result = result.index_add(0, tokens, answer.to(result.dtype))
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for part in self._parts:
            for layer in part:
                layer._apply(fn, recurse)  # noqa: SLF001 - as nn.Module does with its submodules
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


class ScaledEmbedding(nn.Module):
    """A packed embedding whose rows are multiplied by the model's own scale."""

    def __init__(self, packed: PackedEmbedding, scale: float) -> None:
        super().__init__()
        self.packed_embedding = packed
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the scaled embeddings of `input_ids` [b, s], shape [b, s, embedding_dim]."""
        return cast("Tensor", self.packed_embedding(input_ids)) * self.scale


class ReorderedInput(nn.Module):
    """A packed layer whose columns lie in another order than its model's: the input is reordered.

    Adapters go on the layer inside, so that they have the file's order.
    """

    INNER: Final = "inner"
    columns: Tensor

    def __init__(self, inner: PackedLinear, columns: Tensor) -> None:
        """Take the layer, and for each of its columns the place of it in the input."""
        super().__init__()
        self.inner = inner
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for x [..., in_features]."""
        return cast("Tensor", self.inner(x.index_select(-1, self.columns)))


def is_experts(module: nn.Module) -> bool:
    """Return whether `module` holds all experts of a layer, as transformers keeps them."""
    names = {name for name, _ in module.named_parameters(recurse=False)}
    return {"gate_up_proj", "down_proj"} <= names


def activation_of(module: nn.Module) -> Activation:
    """Return how transformers' `module` joins its gate and its other half."""
    experts: Any = module
    if isinstance(dict(module.named_parameters(recurse=False)).get("gate_up_proj_bias"), Tensor):
        return lambda gate, up: cast(
            # The module itself takes both halves interleaved, as its own weights have them.
            "Tensor",
            experts._apply_gate(torch.stack((gate, up), dim=-1).flatten(-2)),  # noqa: SLF001
        )
    return lambda gate, up: cast("Tensor", experts.act_fn(gate) * up)
