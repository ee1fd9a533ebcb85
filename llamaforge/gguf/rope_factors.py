"""A file's own rotary factors as a transformers configuration says them.

Sources: `_compute_llama3_parameters` and `_compute_longrope_parameters` of transformers; the files'
`rope_freqs`, `rope_factors_short` and `rope_factors_long` are what llama.cpp's converter wrote.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamaforge.gguf.architectures import architecture_of
from llamaforge.gguf.header import Header
from llamaforge.gguf.keys import has_rope_factors, head_sizes, real, rope, whole
from llamaforge.gguf.types import TensorType

_LLAMA3: Final = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""As all Llama models since 3.1 have them; their `factor` differs."""
_CLOSE: Final = 1e-5

_Array = npt.NDArray[np.float64]


def rope_changes(header: Header) -> dict[str, Any]:
    """Return the attributes of the configuration that say a file's own rotary factors."""
    if has_rope_factors(header):
        original = whole(
            header, "rope.scaling.original_context_length", whole(header, "context_length")
        )
        return _listed(
            header,
            short=_values(header, "rope_factors_short.weight"),
            long=_values(header, "rope_factors_long.weight"),
            original=original,
            strength=real(header, "rope.scaling.attn_factor", 1.0),
        )
    if "rope_freqs.weight" not in header.tensors or architecture_of(header).configure is not None:
        return {}  # a configuration that is read as a whole says them itself
    factors = _values(header, "rope_freqs.weight")
    known = _LLAMA3 | {"factor": float(round(factors.max(), 3))}
    if np.allclose(_llama3_factors(header, known, factors.size), factors, rtol=_CLOSE, atol=0.0):
        return {"rope_parameters": rope(header) | {"rope_type": "llama3"} | known}
    context = whole(header, "context_length")
    return _listed(header, short=factors, long=factors, original=context, strength=1.0)


def _listed(
    header: Header, *, short: _Array, long: _Array, original: int, strength: float
) -> dict[str, Any]:
    found = rope(header) | {
        "rope_type": "longrope",
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "factor": whole(header, "context_length") / original,
        "original_max_position_embeddings": original,
        "attention_factor": strength,
    }
    # Some configurations look for it among their own attributes.
    return {"rope_parameters": found, "original_max_position_embeddings": original}


def _llama3_factors(header: Header, known: dict[str, float], count: int) -> _Array:
    """Return by what each frequency is divided."""
    _, turned = head_sizes(header)
    base = real(header, "rope.freq_base", 10_000.0)
    frequencies = base ** -(np.arange(0, turned, 2, dtype=np.float64) / turned)
    turns = known["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = known["low_freq_factor"], known["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clip(0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / known["factor"] + smooth))[:count]


def _values(header: Header, name: str) -> _Array:
    info = header.tensors[name]
    kind = np.float16 if info.type is TensorType.F16 else np.float32
    return np.frombuffer(header.read_tensor(info), dtype=kind).astype(np.float64)
