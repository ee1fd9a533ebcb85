"""The content of `config.json`, with the names that transformers 4 reads beside today's."""

import math
from typing import Any, Final

_BESIDE: Final = ("rope_theta", "partial_rotary_factor")
"""What older configurations have beside the scaling, not in it."""
_YOUNG: Final = "proportional"
"""A rotary embedding that transformers 4 does not know."""
_CLOSE: Final = 1e-3


def model_config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration of a model with weights of type `dtype`.

    Where both names stand, every version of transformers makes the same of them.
    """
    found = config | {"dtype": dtype, "torch_dtype": dtype}
    rope: dict[str, Any] = config.get("rope_parameters", {})
    if rope.get("full_attention", {}).get("rope_type") == _YOUNG:
        return found
    if "full_attention" in rope:
        found["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    found |= {key: rope[key] for key in _BESIDE if key in rope}
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = _scaling(config, rope)
    return found


def _scaling(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary scaling as older versions have it.

    Phi-3's knew three fields, and worked out the rest by the rule that is checked here.
    """
    if config["model_type"] == "phi3":
        factor, original = rope["factor"], rope["original_max_position_embeddings"]
        usual = math.sqrt(1 + math.log(factor) / math.log(original))
        if math.isclose(rope["attention_factor"], usual, rel_tol=_CLOSE):
            factors = {key: rope[key] for key in ("short_factor", "long_factor")}
            return {"type": "longrope", **factors}
    return {key: value for key, value in rope.items() if key not in _BESIDE}
