"""What a model's GGUF header says, and whether this program can train it.

Sources: `docs/gguf.md` of ggml for the keys; `src/llama-quant.cpp` of llama.cpp for the block
type that each file type gives most of its matrices.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from llamaforge.catalog.bounded import whole_text
from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.gguf.architectures import ARCHITECTURES, configuration
from llamaforge.gguf.ends import check_ends
from llamaforge.gguf.header import Header, TensorInfo, read_header
from llamaforge.gguf.model_file import read_whole, split_count
from llamaforge.gguf.served import as_served
from llamaforge.gguf.types import FILE_TYPE_NAMES, TensorType
from llamaforge.gguf.vocabulary import check_chat, check_vocabulary

_NOT_UNPACKED: Final = frozenset(
    {
        TensorType.Q8_1,
        TensorType.Q8_K,
        TensorType.I8,
        TensorType.I16,
        TensorType.I32,
        TensorType.I64,
        TensorType.F64,
    }
)
"""Types without a `to_float` function in ggml: intermediate results, integers, doubles."""

TRAINABLE_TENSOR_TYPES: Final = frozenset(TensorType) - _NOT_UNPACKED
"""Block types that ggml can unpack, and so an adapter can be trained on."""

# File types whose name does not begin with the name of the block type they mostly use.
_MAIN_TYPES: Final = {
    "IQ2_S": TensorType.IQ2_XS,
    "IQ2_M": TensorType.IQ2_S,
    "IQ3_XS": TensorType.IQ3_S,
    "IQ3_M": TensorType.IQ3_S,
}
_DETAIL_KEYS: Final = (
    "general.name",
    "general.type",
    "general.basename",
    "general.finetune",
    "general.size_label",
    "general.license",
    "general.source.url",
    "general.source.huggingface.repository",
    "general.base_model.0.name",
    "general.base_model.0.repo_url",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "adapter.type",
    "adapter.lora.alpha",
    "general.generated_by",
    "llamaforge.base.digest",
)
_OWN_DETAIL_KEYS: Final = (
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "expert_count",
    "rope.freq_base",
    "vocab_size",
)
_MAX_DETAIL_CHARACTERS: Final = 500


@dataclass(frozen=True)
class BlobFacts:
    """What the header of a GGUF file says about its model. Nothing known is 0 or empty."""

    architecture: str
    parameter_count: int
    quantization: str
    """Counted from the tensors; the file's own name for it (Q4_K_M) where the count agrees."""
    context_length: int
    """Tokens the model was made for."""
    vocab_size: int
    """Tokens of the vocabulary."""
    tensor_types: dict[str, int]
    """How many tensors have each block type, the most frequent first."""
    details: dict[str, str | int | float | bool]
    """Further keys of the header, as they stand there."""
    abilities: tuple[str, ...]
    """In Ollama's words: `embedding` or `completion`, and `vision` and `audio`."""
    template_abilities: tuple[str, ...]
    """What its Jinja template can do besides: `tools`, `thinking`."""
    untrainable: RefusedError | None
    """Why no adapter can be trained on it; None where one can."""


def read_facts(path: Path, parts: Sequence[Path] = ()) -> BlobFacts:
    """Read what the GGUF file at `path` says about itself.

    Args:
        path: the file, or the first of several.
        parts: all files of a model that is split, in their order.

    Raises:
        NotFoundError: it cannot be read.
        InvalidFileError: it is not a GGUF file, is cut short, or contradicts itself; or the parts
            are not of one model.
    """
    header = read_whole(path, parts) if parts else read_header(path)
    pools = _whole(header.own("pooling_type")) > 0
    return BlobFacts(
        architecture=whole_text(header.architecture),
        parameter_count=header.parameters,
        quantization=quantization_of(header),
        context_length=_whole(header.own("context_length")),
        vocab_size=header.length("tokenizer.ggml.tokens") or _whole(header.own("vocab_size")),
        tensor_types=_type_counts(header.tensors.values()),
        details=_details(header),
        abilities=_abilities(header, pools=pools),
        template_abilities=_template_abilities(header.get("tokenizer.chat_template", "")),
        untrainable=_why_not_trainable(header, pools=pools),
    )


def _abilities(header: Header, *, pools: bool) -> tuple[str, ...]:
    """Source: `ggufCapabilities` in `server/images.go` of Ollama."""
    found = ["embedding" if pools else "completion"]
    found += ["vision"] if header.own("vision.block_count") is not None else []
    found += ["audio"] if header.own("audio.block_count") is not None else []
    return tuple(found)


def _template_abilities(template: Any) -> tuple[str, ...]:
    """Source: `chatTemplateCapabilities` in `server/images.go` of Ollama."""
    if not isinstance(template, str):
        return ()
    found = ["tools"] if "tools" in template or "tool_call" in template else []
    found += ["thinking"] if "<think>" in template or "enable_thinking" in template else []
    return tuple(found)


def quantization_of(header: Header) -> str:
    """Return the name of the quantisation that most weights of the large matrices have.

    Embeddings and the output matrix are left out where there are others: quantisers give them
    types of their own. The name in `general.file_type` is used only where the count agrees.
    """
    matrices = [tensor for tensor in header.tensors.values() if len(tensor.shape) > 1]
    inner = [tensor for tensor in matrices if tensor.name.startswith("blk.")]
    weights: Counter[TensorType] = Counter()
    for tensor in inner or matrices:
        weights[tensor.type] += tensor.elements
    if not weights:
        return ""
    main = max(weights, key=lambda kind: (weights[kind], kind))
    named = FILE_TYPE_NAMES.get(_whole(header.get("general.file_type"), absent=-1), "")
    return named if named and _agrees(named, main) else main.name


def _agrees(file_type: str, main: TensorType) -> bool:
    """Return whether a file of the llama.cpp type `file_type` mostly holds `main` blocks."""
    expected = _MAIN_TYPES.get(file_type)
    if expected is not None:
        return main is expected
    # Q4_K_M is made of Q4_K, Q8_0 of Q8_0; but Q4_0 is no kind of Q4.
    return file_type == main.name or file_type.rpartition("_")[0] == main.name


def _type_counts(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    return dict(Counter(tensor.type.name for tensor in tensors).most_common())


def _details(header: Header) -> dict[str, str | int | float | bool]:
    keys = [*_DETAIL_KEYS, *(f"{header.architecture}.{key}" for key in _OWN_DETAIL_KEYS)]
    found: dict[str, str | int | float | bool] = {}
    for key in keys:
        value = header.get(key)
        if isinstance(value, str):
            value = value[:_MAX_DETAIL_CHARACTERS]
        if value is None or value == "" or (isinstance(value, float) and not isfinite(value)):
            continue
        found[whole_text(key)] = whole_text(value) if isinstance(value, str) else value
    return found


def _whole(value: Any, *, absent: int = 0) -> int:
    """Return a header's value if it is a whole number that is not negative, else `absent`."""
    sound = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if sound else absent


def _why_not_trainable(header: Header, *, pools: bool) -> RefusedError | None:
    try:
        _check_trainable(as_served(header), pools=pools)
    except RefusedError as error:
        return error
    return None


def _check_trainable(header: Header, *, pools: bool) -> None:
    if not header.tensors:
        raise InvalidFileError(
            "its GGUF file holds no weights, only a vocabulary.",
            "Choose a model with weights.",
            code="no_weights",
        )
    if split_count(header) > 1:
        raise RefusedError(
            f"its weights are split over several GGUF files, and it has one of "
            f"{split_count(header)}.",
            "Join them with llama-gguf-split --merge and create the model again.",
            code="split_gguf",
        )
    if header.architecture not in ARCHITECTURES:
        raise RefusedError(
            f"models of the architecture {whole_text(header.architecture)[:40]!r} cannot be "
            "trained yet.",
            f"Choose a model of one of: {', '.join(ARCHITECTURES)}.",
            code="unsupported_architecture",
        )
    if pools:
        raise RefusedError(
            "it is an embedding model, which gives no text to train on.",
            "Choose a model that answers with text.",
            code="embedding_model",
        )
    for tensor in header.tensors.values():
        if tensor.type not in TRAINABLE_TENSOR_TYPES:
            raise RefusedError(
                f"its tensor {whole_text(tensor.name)[:60]} has the type {tensor.type.name}, "
                "which cannot be trained on.",
                "Choose another quantisation of the model, such as one tagged q4_K_M or q8_0.",
                code="unsupported_type",
            )
    configuration(header)
    if header.get("tokenizer.ggml.model") is not None:
        check_vocabulary(header)
        check_chat(header)
        check_ends(header)
