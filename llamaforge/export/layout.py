"""What a transformers model wants of a GGUF file: its configuration and its parameters' sources."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parameter(_Frozen):
    """One parameter of the transformers model, and what of the file it is made of."""

    name: str
    """Such as `model.layers.0.self_attn.q_proj.weight`."""
    shape: tuple[int, ...]
    """As torch has it."""
    tensors: tuple[str, ...]
    """GGUF tensors: one, or two that lie in each expert together; none where all is zero."""
    join: Literal["one", "stacked", "interleaved", "turned"] = "one"
    """Stacked: each expert's rows of the first tensor, then those of the second. Interleaved:
    their rows take turns. Turned: each expert is written column by column, as the product from
    the right wants it; two tensors' rows take turns."""
    offset: float = 0.0
    """What the file has added to transformers' values."""
    is_logarithm: bool = False
    """Whether the file holds -exp(x) of a value x."""


class Layout(_Frozen):
    """A whole model."""

    config: dict[str, Any]
    """The content of `config.json`, without the type of the weights."""
    parameters: tuple[Parameter, ...]
    modules: tuple[str, ...]
    """The paths of all modules of the transformers model."""

    @property
    def model_type(self) -> str:
        """The kind of transformers model."""
        return str(self.config["model_type"])
