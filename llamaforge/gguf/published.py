"""How repositories of full-precision weights name what transformers keeps otherwise in memory.

Repositories keep experts as their makers published them, which transformers joins on loading and
other programs expect; and models that see pictures too keep the language model one level deeper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Published:
    """How repositories of one kind of model name what transformers has otherwise."""

    renamed: tuple[tuple[str, str], ...] = ()
    """Parts of names: in transformers, in the repository."""
    experts: tuple[str, str, str] | None = None
    """Gate, up and down of one expert, where each has matrices of its own."""


_SEPARATE: Final = Published(experts=("gate_proj", "up_proj", "down_proj"))
_PUBLISHED: Final[Mapping[str, Published]] = {
    "mixtral": Published(((".mlp.", ".block_sparse_moe."),), ("w1", "w3", "w2")),
    "qwen2_moe": _SEPARATE,
    "qwen3_moe": _SEPARATE,
    "olmoe": _SEPARATE,
    "granitemoe": Published(
        (
            (".experts.gate_up_proj", ".input_linear.weight"),
            (".experts.down_proj", ".output_linear.weight"),
            (".router.weight", ".router.layer.weight"),
        )
    ),
}
"""By `model_type`. Source: `conversion_mapping.py` of transformers, which reads these names."""

_DEEPER: Final = ("model.language_model.", "language_model.model.", "model.text_model.")
"""What stands in place of `model.` where the language model is a part of another one."""
_HEAD: Final = "lm_head."
LANGUAGE_MODEL_KEYS: Final[Mapping[str, str]] = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^model\.text_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""Patterns of names, and what takes their place where the language model is loaded alone."""


def published(model_type: str) -> Published:
    """Return how repositories name the parts of a kind of model."""
    return _PUBLISHED.get(model_type, Published())


def published_name(model_type: str, name: str) -> str:
    """Return what a repository calls the parameter `name` of transformers."""
    for ours, theirs in published(model_type).renamed:
        name = name.replace(ours, theirs)
    return name


def expert_names(model_type: str, name: str, number: int) -> tuple[str, ...]:
    """Return the repository's matrices of one expert that make its part of the parameter `name`.

    They lie below each other, as in `….mlp.experts.gate_up_proj`. Empty where the repository has
    all experts in one tensor, as transformers has.
    """
    experts = published(model_type).experts
    path, _, key = name.rpartition(".")
    if experts is None or key not in {"gate_up_proj", "down_proj"}:
        return ()
    own = experts[:2] if key == "gate_up_proj" else experts[2:]
    return tuple(published_name(model_type, f"{path}.{number}.{matrix}.weight") for matrix in own)


def possible_names(name: str) -> tuple[str, ...]:
    """Return what a tensor that is published as `name` may be called, the likeliest first.

    The language model of one that sees pictures too lies a level deeper, and one that was saved
    without its head a level higher.
    """
    if name.startswith("model."):
        rest = name.removeprefix("model.")
        return (name, *(f"{deeper}{rest}" for deeper in _DEEPER), rest)
    if name.startswith(_HEAD):
        return (name, f"language_model.{name}")
    return (name,)


def is_of_language_model(name: str) -> bool:
    """Return whether a repository's tensor belongs to a layer of the language model.

    Towers for pictures and sounds have layers too, and layers that guess tokens ahead.
    """
    plain = next((name.replace(deeper, "model.", 1) for deeper in _DEEPER if deeper in name), name)
    return plain.startswith(("model.layers.", "transformer.h.", "layers."))
