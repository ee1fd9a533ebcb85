"""What the benchmarks share: models to measure on, the machine's description, tables."""

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import llama_cpp

from llamaforge.hardware import peak_memory_bytes
from tools.random_models import CHATML, Shape, Vocabulary, write_random_model

_ROOT: Final = Path(__file__).resolve().parents[1]
_VOCABULARY_FILE: Final = "ggml-vocab-qwen2.gguf"
_GENERATED_TOKENS: Final = 151_936
"""Tokens of the stand-in vocabulary where Qwen2's is not at hand."""
_GENERATED_MERGES: Final = 151_387


@dataclass(frozen=True)
class BenchmarkModel:
    """A random Qwen2-like model that a benchmark makes once and keeps."""

    name: str
    shape: Shape
    quantization: str = "Q4_K_M"


def qwen2(hidden: int, layers: int, heads: int, key_value_heads: int, feed_forward: int) -> Shape:
    """Return a Qwen2 shape with tied embeddings and heads of 64."""
    return Shape(
        architecture="qwen2",
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=key_value_heads,
        head_dim=64,
        feed_forward=feed_forward,
        context=2048,
        tied=True,
        rope_theta=1_000_000.0,
    )


MODEL_100M: Final = BenchmarkModel("qwen2-100m", qwen2(512, 8, 8, 2, 1536))
"""102 M weights, 78 M of them in the embedding, which is the output head too."""
MODEL_500M: Final = BenchmarkModel("qwen2-500m", qwen2(1024, 24, 16, 2, 3840))
"""Qwen2.5-0.5B with sizes that are multiples of 256, so that all matrices get K-quants."""
MODEL_500M_896: Final = BenchmarkModel("qwen2-500m-896", qwen2(896, 24, 14, 2, 4864))
"""Qwen2.5-0.5B itself: 896 is no multiple of 256, so llama.cpp falls back to other types."""


def vocabulary() -> Vocabulary:
    """Return Qwen2's vocabulary, or one of the same size where its file is not at hand.

    It is looked for in the folder that `LLAMAFORGE_VOCABS` names.
    """
    folder = Path(os.environ.get("LLAMAFORGE_VOCABS", _ROOT.parent / "shared" / "vocab"))
    if (folder / _VOCABULARY_FILE).exists():
        found = Vocabulary.from_file(folder / _VOCABULARY_FILE)
        found.values.setdefault("tokenizer.chat_template", CHATML)
        return found
    return _generated_vocabulary()


def _generated_vocabulary() -> Vocabulary:
    """Grow the byte-level vocabulary to Qwen2's size by merging what is there already."""
    small = Vocabulary.byte_level()
    letters = list(small.values["tokenizer.ggml.tokens"][:256])
    tokens, merges = list(letters), []
    known = set(tokens)
    for left in tokens:  # the list grows while it is walked
        for right in letters:
            if left + right not in known:
                known.add(left + right)
                tokens.append(left + right)
                merges.append(f"{left} {right}")
        if len(merges) >= _GENERATED_MERGES:
            break
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    unused = _GENERATED_TOKENS - len(special) - 256 - _GENERATED_MERGES
    tokens = tokens[: 256 + _GENERATED_MERGES] + special + [f"<|{n}|>" for n in range(unused)]
    values = small.values | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges[:_GENERATED_MERGES],
        "tokenizer.ggml.token_type": [1] * (256 + _GENERATED_MERGES) + [3] * (unused + 3),
        "tokenizer.ggml.padding_token_id": 256 + _GENERATED_MERGES,
        "tokenizer.ggml.eos_token_id": 256 + _GENERATED_MERGES + 2,
    }
    return Vocabulary(values, len(tokens))


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(level: int, text: bytes, data: object) -> None:
    """Take the place of llama.cpp's log, which says hundreds of lines on every model it packs."""


def cache_folder() -> Path:
    """Return where what takes long to make is kept.

    That is the folder that `LLAMAFORGE_BENCHMARKS` names, by default one in the temporary folder.
    """
    default = Path(tempfile.gettempdir()) / "llamaforge-benchmarks"
    return Path(os.environ.get("LLAMAFORGE_BENCHMARKS", default))


def model_file(model: BenchmarkModel) -> Path:
    """Return the file of `model`, made on first use and kept in `cache_folder`."""
    path = cache_folder() / model.name / "model.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path} …", file=sys.stderr)
        draft = path.with_name("draft.gguf")
        llama_cpp.llama_log_set(_silence, None)
        write_random_model(draft, model.shape, vocabulary(), model.quantization)
        draft.replace(path)
    return path


def peak_bytes() -> int:
    """Return the largest resident memory that this process ever had, in bytes."""
    return peak_memory_bytes()


def describe(packages: Sequence[str]) -> str:
    """Return one line on the machine, and one on the versions of `packages`."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{cpu}, {os.cpu_count()} cores ({', '.join(fast) or 'no vector units known'}), "
        f"{platform.system()}\nPython {platform.python_version()}, {versions}"
    )


def spread(seconds: Sequence[float]) -> float:
    """Return how far repeated times lie apart: (largest - smallest) / median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def load_now() -> float:
    """Return the machine's load average of the last minute."""
    return os.getloadavg()[0]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    ruler = [
        "-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    ]
    return "\n".join([line(head), line(ruler), *(line(row) for row in rows)])


def verdict(ratio: float, aim: float) -> str:
    """Return an aim of at least `aim`, and whether `ratio` meets it."""
    return f"≥ {aim:g} {'met' if ratio >= aim else 'MISSED'}"


def mebibytes(size: int) -> str:
    """Return a size in MiB."""
    return f"{size / 2**20:,.0f}"
