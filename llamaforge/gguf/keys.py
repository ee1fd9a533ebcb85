"""Reading a model's own keys from a header: each is of the kind it should be, or is refused."""

import math
from collections.abc import Mapping
from typing import Any, Final

from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header

_MOST: Final = 1 << 27
_MOST_LAYERS: Final = 1024
_LOG_MULTIPLIER: Final = "rope.scaling.yarn_log_multiplier"
_SCALING_DETAILS: Final[Mapping[str, float]] = {
    "rope.scaling.attn_factor": 1.0,
    _LOG_MULTIPLIER: 0.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
"""Refinements of a rotary scaling, and the values at which both sides compute the same."""
YARN_DETAILS: Final = frozenset(
    {_LOG_MULTIPLIER, "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
)
"""Those that llama.cpp reads for some architectures."""
_CLOSE: Final = 1e-4


def whole(header: Header, key: str, default: int | None = None) -> int:
    """Return the positive whole number at `<architecture>.<key>`.

    Raises:
        RefusedError: it is absent and has no default, or is something else.
    """
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
        raise variant(header, f"does not say its {words(key)} as one number")
    return value


def first_whole(header: Header, key: str, default: int | None = None) -> int:
    """Return the positive whole number at `<architecture>.<key>`, or the first of an array.

    Raises:
        RefusedError: as `whole`.
    """
    if not is_array(header, key):
        return whole(header, key, default)
    values = header.numbers(f"{header.architecture}.{key}")
    if not values or not isinstance(values[0], int) or not 0 < values[0] < _MOST:
        raise variant(header, f"does not say its {words(key)} as whole numbers")
    return values[0]


def real(header: Header, key: str, default: float | None = None) -> float:
    """Return the positive finite number at `<architecture>.<key>`.

    Raises:
        RefusedError: it is absent and has no default, or is something else.
    """
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise variant(header, f"does not say its {words(key)} as one number")
    return float(value)


def truth(header: Header, key: str, *, default: bool) -> bool:
    """Return the truth value at `<architecture>.<key>`.

    Raises:
        RefusedError: it is something else.
    """
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if not isinstance(value, bool):
        raise variant(header, f"does not say its {words(key)} as true or false")
    return value


def layer_count(header: Header) -> int:
    """Return how many layers the model has, without those that only guess tokens ahead.

    Raises:
        RefusedError: the file does not say it, or says a number that no model has.
    """
    ahead = header.own("nextn_predict_layers", 0)
    layers = whole(header, "block_count") - (ahead if isinstance(ahead, int) else 0)
    if (
        not 0 < layers <= _MOST_LAYERS
    ):  # each one is built before the first missing tensor is noticed
        raise variant(header, f"claims {layers:,} layers")
    return layers


def head_counts(header: Header) -> tuple[int, int]:
    """Return how many heads queries have, and how many keys and values have.

    Raises:
        RefusedError: they differ from layer to layer, or do not fit each other.
    """
    heads = whole(header, "attention.head_count")
    key_value_heads = whole(header, "attention.head_count_kv", heads)
    if heads % key_value_heads:
        raise variant(header, f"has {heads} query heads over {key_value_heads} key heads")
    return heads, key_value_heads


def head_sizes(header: Header) -> tuple[int, int]:
    """Return the width of a head, and how much of it the rotary embedding turns.

    Raises:
        RefusedError: keys and values have heads of two widths, or a width is odd.
    """
    heads, _ = head_counts(header)
    size = whole(header, "attention.key_length", whole(header, "embedding_length") // heads)
    values = whole(header, "attention.value_length", size)
    turned = whole(header, "rope.dimension_count", size)
    if values != size:
        raise variant(header, f"has heads of {size} and values of {values}")
    if size % 2 or turned % 2 or turned > size:
        raise variant(header, f"has heads of {size}, {turned} of it turned")
    return size, turned


def rope(header: Header, details: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the rotary embedding's parameters as transformers names them.

    Args:
        header: the file's header.
        details: refinements, of `YARN_DETAILS`, that llama.cpp reads for the architecture.

    Raises:
        RefusedError: its scaling is of a kind or a form that is not known.
    """
    found: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": real(header, "rope.freq_base", 10_000.0),
    }
    size, turned = head_sizes(header)
    if turned != size:
        found["partial_rotary_factor"] = turned / size
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "linear")
    if kind == "none" or has_rope_factors(header):
        return found
    factor = _scaling_factor(header)
    if kind in {"linear", "yarn"} and factor == 1.0:
        return found
    _check_details(header, details, factor if kind == "yarn" else 1.0)
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        context = whole(header, "context_length")
        found |= {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": whole(
                header, "rope.scaling.original_context_length", context
            ),
        }
        return found | (_yarn_details(header, factor) if details else {})
    raise variant(header, f"has the rotary scaling {str(kind)[:40]!r}")


def _check_details(header: Header, read: frozenset[str], factor: float) -> None:
    for key, usual in _SCALING_DETAILS.items():
        if key not in read and header.own(key, usual) != usual:
            raise variant(header, f"has a {words(key)} of its own")
    key = "rope.scaling.yarn_attn_factor"
    strength = real(header, key, 1.0)
    # llama.cpp does not read it, and computes what it usually is.
    if strength != 1.0 and not math.isclose(strength, _yarn_strength(factor, 1.0), abs_tol=_CLOSE):
        raise variant(header, f"has a {words(key)} of its own")


def _yarn_details(header: Header, factor: float) -> dict[str, float]:
    """Source: the constructor of `llama_context` in `llama-context.cpp` of llama.cpp."""
    multiplier = header.own(_LOG_MULTIPLIER, 0.0)
    strength = _yarn_strength(factor, 1.0)
    if multiplier != 0.0:
        strength /= _yarn_strength(factor, real(header, _LOG_MULTIPLIER))
    return {
        "attention_factor": strength,
        "beta_fast": real(header, "rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": real(header, "rope.scaling.yarn_beta_slow", 1.0),
    }


def _yarn_strength(factor: float, multiplier: float) -> float:
    """Return by what YaRN multiplies the rotary embedding."""
    return 1.0 if factor <= 1.0 else 0.1 * multiplier * math.log(factor) + 1.0


def still_frequencies(header: Header, *, interleaved: bool) -> list[int]:
    """Return which rotary frequencies turn nothing in a text, of a model that also sees pictures.

    Parts of a head turn by a place in time, height or width, which in a text are all the token's
    own place; what no part takes turns by a fourth number, which is zero there.
    Source: `ggml_mrope_cache_init` in `ops.cpp` of ggml.
    """
    sections = header.numbers(f"{header.architecture}.rope.dimension_sections")
    if not 3 <= len(sections) <= 4 or not all(0 <= size < _MOST for size in sections):
        raise variant(header, "does not say which parts of a head turn by what")
    total, turned = sum(sections), sum(sections[:3])
    if turned == 0:
        raise variant(header, "turns no part of a head")
    _, size = head_sizes(header)
    places = [number % total for number in range(size // 2)]
    if not interleaved:
        return [number for number, place in enumerate(places) if place >= turned]
    return [number for number, place in enumerate(places) if place >= 3 * sections[place % 3]]


def has_rope_factors(header: Header) -> bool:
    """Return whether the file brings factors for long and for short texts (Phi-3's LongRoPE)."""
    return "rope_factors_short.weight" in header.tensors


def sliding_layers(header: Header, every: int, *, default_window: int | None = None) -> list[str]:
    """Return the kind of attention of each layer, as transformers names it.

    Every layer but each `every`-th sees a window only, or those that the file says; none does
    where the file has no window.

    Raises:
        RefusedError: the file's own pattern is none.
    """
    pattern = f"{header.architecture}.attention.sliding_window_pattern"
    layers = layer_count(header)
    if header.own("attention.sliding_window", default_window or 0) == 0:
        return ["full_attention"] * layers
    if header.is_array(pattern):
        kinds = header.numbers(pattern)[:layers]
        if len(kinds) < layers or not all(kind in (0, 1) for kind in kinds):
            raise variant(header, "does not say which of its layers see a window")
    else:
        every = whole(header, "attention.sliding_window_pattern", every)
        kinds = [(number + 1) % every != 0 for number in range(layers)]
    return ["sliding_attention" if kind else "full_attention" for kind in kinds]


def recurrent_layers(header: Header) -> list[str]:
    """Return the kind of each layer of a model that mixes linear and full attention.

    Raises:
        RefusedError: the file's own list of kinds is not one.
    """
    layers = layer_count(header)
    key = f"{header.architecture}.attention.recurrent_layers"
    if header.is_array(key):
        kinds = header.numbers(key)[:layers]
        if len(kinds) < layers:
            raise variant(header, f"names the kinds of {len(kinds)} of its {layers} layers")
    else:
        interval = whole(header, "full_attention_interval", 4)
        kinds = [(number + 1) % interval != 0 for number in range(layers)]
    return ["linear_attention" if kind else "full_attention" for kind in kinds]


def has(header: Header, tensor: str) -> bool:
    """Return whether the file holds the tensor."""
    return tensor in header.tensors


def is_array(header: Header, key: str) -> bool:
    """Return whether `<architecture>.<key>` is an array, such as one value a layer."""
    return header.is_array(f"{header.architecture}.{key}")


def words(key: str) -> str:
    """Return a key as words."""
    return key.replace(".", " ").replace("_", " ")


def variant(header: Header, what: str) -> RefusedError:
    """Return the refusal of a file that says `what` of itself."""
    return RefusedError(
        f"{header.path.name} {what}.",
        "The file is incomplete, or of a variant that cannot be trained yet.",
        code="unsupported_variant",
    )


def _scaling_factor(header: Header) -> float:
    """Return the factor as llama.cpp reads it: an older name counts, and zero means none."""
    key = "rope.scaling.factor"
    if f"{header.architecture}.{key}" not in header.metadata:
        key = "rope.scale_linear"
    return 1.0 if header.own(key) == 0 else real(header, key, 1.0)
