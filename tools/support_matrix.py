"""`python -m tools.support_matrix [--write]`: the tables of `docs/models.md`, from the code's own.

Which architectures there are, what computes them and whether they have experts is read from the
engine's table; a person adds only whose models they are. A test compares the printed form with the
document, and tests of `tests/contract/engine` hold a model of every entry against llama.cpp.
"""

import argparse
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamaforge.gguf.architectures import ARCHITECTURES, Architecture
from llamaforge.gguf.pre_tokenizers import PRE_TOKENIZERS

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "models.md"
_WIDTH: Final = 118


@dataclass(frozen=True)
class Words:
    """What the engine's table cannot know of an architecture."""

    models: str
    """Whose models are of the kind, by the names that people know."""
    remarks: str = ""


WORDS: Final[Mapping[str, Words]] = {
    "llama": Words(
        "Llama 2 and 3, Mistral 7B, Mistral Small, Yi, TinyLlama, SmolLM 1 and 2, DeepSeek Coder "
        "and LLM, Falcon 3",
        "Llama 3.1's frequency factors; linear and YaRN scaling",
    ),
    "mistral3": Words("Mistral Small 3.1 and 3.2, Ministral 3, Devstral", "text"),
    "qwen2": Words("Qwen 2 and 2.5, QwQ, DeepSeek R1 distilled"),
    "qwen2vl": Words("Qwen 2 VL and 2.5 VL (Ollama's `qwen25vl`)", "text"),
    "qwen2moe": Words("Qwen 1.5 and 2 with experts"),
    "qwen3": Words("Qwen 3"),
    "qwen3moe": Words("Qwen 3 30B-A3B, 235B-A22B"),
    "qwen3vl": Words("Qwen 3 VL", "text"),
    "qwen3vlmoe": Words("Qwen 3 VL with experts", "text"),
    "qwen35": Words(
        "Qwen 3.5",
        "three layers of four have linear attention; layers that guess tokens ahead are passed "
        "over",
    ),
    "qwen35moe": Words("Qwen 3.5 with experts", "as `qwen35`"),
    "gemma": Words("Gemma 1, CodeGemma"),
    "gemma2": Words("Gemma 2", "attention is not fused, since scores are capped"),
    "gemma3": Words("Gemma 3", "text"),
    "gemma4": Words(
        "Gemma 4: E2B, E4B, 31B, and 26B-A4B with experts",
        "text; the per-layer table stays frozen",
    ),
    "phi3": Words(
        "Phi 3, 3.5, 4, 4 mini",
        "fused projections take one adapter; of the long models the factors for short texts count",
    ),
    "starcoder2": Words("StarCoder 2", "no sliding window, as in llama.cpp"),
    "stablelm": Words("StableLM 3B and 2 1.6B", "not those with norms on queries and keys (12B)"),
    "falcon": Words("Falcon 7B, 40B, 11B"),
    "olmo2": Words("OLMo 2, and OLMo 3 (Ollama's `olmo3`)"),
    "olmoe": Words("OLMoE"),
    "granite": Words("Granite 3, dense"),
    "granitemoe": Words("Granite 3 with experts"),
    "command-r": Words("Command R"),
    "cohere2": Words("Command R7B, Command A"),
    "glm4": Words("GLM-4"),
    "exaone4": Words("EXAONE 4 1.2B", "not those with sliding windows"),
    "smollm3": Words("SmolLM 3"),
    "gpt-oss": Words("gpt-oss 20b and 120b (Ollama's `gptoss`)", "MXFP4 included"),
    "nemotron": Words("Nemotron 3 and 4, Minitron"),
}
_SECOND: Final = {
    "ministral3": "where scores grow with the distance",
    "olmo3": "with sliding windows",
}
"""When an architecture's second entry computes a file; experts go without saying."""


def support_matrix() -> str:
    """Return the table of architectures in Markdown."""
    head = ("`general.architecture`", "models of the kind", "computed by transformers'", "remarks")
    lines = [head, ("---",) * len(head)]
    for name, entries in ARCHITECTURES.items():
        words = WORDS[name]
        frozen = "experts stay frozen" if any(entry.experts for entry in entries) else ""
        remarks = "; ".join(filter(None, (words.remarks, frozen)))
        lines.append((name, words.models, _computed_by(entries), remarks))
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _computed_by(entries: tuple[Architecture, ...]) -> str:
    found: dict[str, str] = {}
    for number, entry in enumerate(entries):
        when = _SECOND.get(entry.model_type, "with experts" if entry.experts else "")
        told = f"`{entry.model_type}` {when}" if number and when else f"`{entry.model_type}`"
        found.setdefault(entry.model_type, told)
    return "; ".join(found.values())


def pre_tokenizer_list() -> str:
    """Return the names of all pre-tokenizers that are known, in lines."""
    names = ", ".join(f"`{name}`" for name in sorted(PRE_TOKENIZERS))
    return textwrap.fill(f"{names}.", _WIDTH, break_on_hyphens=False, break_long_words=False)


def documented(text: str) -> str:
    """Return the document `text` with its tables as they are now."""
    for name, made in (
        ("architectures", support_matrix()),
        ("pre-tokenizers", pre_tokenizer_list()),
    ):
        marked = re.compile(f"(<!-- {name}[^>]*-->\n\n?).*?(\n\n?<!-- end -->)", re.DOTALL)
        found = marked.search(text)
        if found is None:
            raise SystemExit(f"{DOCUMENT.name} has no place for {name}.")
        text = f"{text[: found.end(1)]}{made}{text[found.start(2) :]}"
    return text


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into docs/models.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(documented(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(f"{support_matrix()}\n\n{pre_tokenizer_list()}")


if __name__ == "__main__":
    main()
