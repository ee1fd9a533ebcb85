"""Which block type each tensor gets in a chosen quantisation: llama.cpp's own rule.

Source: `llama_tensor_get_type` in `src/llama-quant.cpp` of llama.cpp, for the quantisations that
are offered here. A contract test holds it against what `llama_model_quantize` writes.
"""

from dataclasses import dataclass, field
from typing import Final

from llamaforge.errors import UsageError
from llamaforge.gguf.header import Header, TensorInfo
from llamaforge.gguf.keys import head_counts, layer_count
from llamaforge.gguf.types import BLOCK_SIZES, FLOAT_TYPES, TensorType

FILE_TYPES: Final = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
}
"""`general.file_type` of each quantisation that can be chosen."""

_MAIN: Final = {
    "Q4_K_S": TensorType.Q4_K,
    "Q4_K_M": TensorType.Q4_K,
    "Q5_K_S": TensorType.Q5_K,
    "Q5_K_M": TensorType.Q5_K,
}
_FINER: Final = {"Q4_0": TensorType.Q4_1, "Q5_0": TensorType.Q5_1}
"""For what goes down again in the first layers, where there is an importance matrix."""
_FALLBACKS: Final = {
    TensorType.Q4_K: TensorType.Q5_0,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
}
"""For rows that are no multiple of 256."""
_KEPT: Final = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "altup", "laurel",
                "per_layer_model_proj")  # fmt: skip
"""Parts of the names of tensors that stay as they are."""
_EMBEDDINGS: Final = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
_LAYERS_OF_70B: Final = 80
_OF_70B: Final = frozenset({"llama", "qwen2", "qwen2vl", "deci"})
_EIGHT: Final = 8


def check_quantization(name: str) -> str:
    """Return the name as llama.cpp spells it.

    Raises:
        UsageError: there is no such quantisation to choose.
    """
    found = next((known for known in FILE_TYPES if known.lower() == name.lower()), None)
    if found is None:
        raise UsageError(
            f"{name[:40]!r} is no quantisation that can be chosen.",
            f"Choose one of: {', '.join(FILE_TYPES)}; or leave it out to keep the file's own.",
            code="quantization",
        )
    return found


def tensor_types(
    header: Header, quantization: str, *, with_importance: bool = False
) -> dict[str, TensorType]:
    """Return the type of every tensor of a file in `quantization`.

    llama.cpp chooses some types otherwise where it has an importance matrix.
    """
    main = _MAIN.get(quantization) or TensorType[quantization]
    rule = _Rule(header, quantization, main, with_importance)
    # llama.cpp goes by layers, so that "the first few" means the same for every kind of tensor.
    ordered = sorted(header.tensors.values(), key=lambda tensor: _place(tensor.name))
    return {tensor.name: rule.type_of(tensor) for tensor in ordered}


def _place(name: str) -> tuple[int, str]:
    block, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return (int(number) if block == "blk" and number.isdigit() else -1, name)


@dataclass
class _Rule:
    header: Header
    quantization: str
    main: TensorType
    with_importance: bool
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.architecture = self.header.architecture
        experts = self.header.own("expert_count", 0)
        self.experts = experts if isinstance(experts, int) else 0
        self.layers = layer_count(self.header)
        self.tied = "output.weight" not in self.header.tensors
        self.values = sum(_kind(name) == "value" for name in self.header.tensors)

    def type_of(self, tensor: TensorInfo) -> TensorType:
        """Return the type of one tensor; they must be asked for by layer."""
        name = tensor.name
        if not _may_change(tensor):
            return tensor.type
        if self.main in FLOAT_TYPES:
            return self.main
        kind = _kind(name)
        found = self.main
        if name == "output.weight" or (self.tied and name in _EMBEDDINGS):
            found = self._of_output(tensor)
        elif kind == "value":
            found = self._of_value()
        elif kind == "key" and self.experts == _EIGHT:
            found = TensorType.Q8_0
        elif kind == "down":
            found = self._of_down(name)
        elif kind == "attention" and self.experts == _EIGHT and self._is_q4_beside_falcon():
            found = TensorType.Q5_K
        return _fitting(found, tensor.width)

    def _of_output(self, tensor: TensorInfo) -> TensorType:
        weights, _ = BLOCK_SIZES[self.main]
        if self.architecture == "falcon" or tensor.width % weights or self.main is TensorType.Q8_0:
            return TensorType.Q8_0
        return TensorType.Q6_K

    def _of_value(self) -> TensorType:
        number = self._next("value")
        found = self.main
        if self.quantization.endswith("K_M") and _more_bits(number, self.values):
            found = TensorType.Q6_K
        elif self.quantization == "Q4_K_S" and number < 4:
            found = TensorType.Q5_K
        if self._is_70b() and found is TensorType.Q4_K:
            found = TensorType.Q5_K
        return TensorType.Q8_0 if self.experts == _EIGHT else found

    def _of_down(self, name: str) -> TensorType:
        number, total = self._next("down"), self.layers
        if self.experts > 1:
            number = _place(name)[0]
        found = self.main
        if self.quantization == "Q4_K_M" and self.architecture == "falcon":
            if number < total // 16:
                found = TensorType.Q6_K
            elif _more_bits(number, total):
                found = TensorType.Q5_K
        elif self.quantization.endswith("K_M") and _more_bits(number, total):
            found = TensorType.Q6_K
        elif self.quantization == "Q4_K_S" and self.architecture != "falcon":
            found = TensorType.Q5_K if number < total // 8 else found
        elif self.with_importance and self.quantization in _FINER and number < total // 8:
            found = _FINER[self.quantization]
        return found

    def _is_q4_beside_falcon(self) -> bool:
        return self.quantization.startswith("Q4_K") and self.architecture != "falcon"

    def _is_70b(self) -> bool:
        if self.layers != _LAYERS_OF_70B or self.architecture not in _OF_70B:
            return False
        heads, key_value_heads = head_counts(self.header)
        return heads != key_value_heads

    def _next(self, kind: str) -> int:
        number = self.seen.get(kind, 0)
        self.seen[kind] = number + 1
        return number


def _may_change(tensor: TensorInfo) -> bool:
    # A last dimension of one does not count: ggml calls such a tensor one of fewer dimensions.
    dimensions = len(tensor.shape)
    while dimensions > 1 and tensor.shape[dimensions - 1] == 1:
        dimensions -= 1
    named = tensor.name.endswith("weight") and not any(part in tensor.name for part in _KEPT)
    return dimensions > 1 and named


def _kind(name: str) -> str:
    for part, kind in (
        ("attn_qkv.weight", "value"),
        ("attn_kv_b.weight", "value"),
        ("attn_v.weight", "value"),
        ("attn_k.weight", "key"),
        ("attn_q.weight", "query"),
        ("attn_output.weight", "attention"),
        ("ffn_up", "up"),
        ("ffn_gate", "gate"),
        ("ffn_down", "down"),
    ):
        if part in name:
            return kind
    return "other"


def _more_bits(number: int, total: int) -> bool:
    """Return whether a layer is among the first and the last eighth, or a third of the others."""
    return number < total // 8 or number >= 7 * total // 8 or (number - total // 8) % 3 == 2


def _fitting(kind: TensorType, width: int) -> TensorType:
    """Return `kind`, or what takes its place where a row is no whole number of its blocks."""
    if width % BLOCK_SIZES[kind][0] == 0:
        return kind
    smaller = _FALLBACKS.get(kind, kind)
    return smaller if width % BLOCK_SIZES[smaller][0] == 0 else TensorType.F16
