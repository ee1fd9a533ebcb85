"""Which Ollama servers take a LoRA adapter on which architecture.

Sources, all of Ollama: `llm/server.go` and `model/` before 0.30 (the Go engine answers "loras are
not yet implemented"); `server/create.go` from 0.34.1 on, which answers every request with
adapters "LoRA adapters are no longer supported".
"""

import re
from dataclasses import dataclass
from typing import Final

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.safe_text import safe_line

_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+].*)?")
_DEVELOPMENT: Final = (0, 0, 0)
"""What a server built from source without a tag says: it tells nothing about its age."""
_FIRST_WITH_LLAMA_SERVER: Final = (0, 30, 0)
_FIRST_WITHOUT_ADAPTERS: Final = (0, 34, 1)
_GO_ENGINE: Final = frozenset(
    {
        "bert", "deepseek2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "gptoss", "llama4",
        "mistral3", "mllama", "olmo3", "qwen25vl", "qwen2vl", "qwen3", "qwen3moe", "qwen35",
        "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "glm4moelite", "lfm2", "lfm2moe",
    }
)  # fmt: skip
_GO_ENGINE_PREFIX: Final = "nemotron_h"
ADAPTER_HINT: Final = (
    "Publish one file with both merged: llamaforge publish RUN --name NAME --as gguf; or use an "
    "Ollama from 0.30.0 to 0.34.0."
)
"""What to do with an adapter that a server refuses."""


@dataclass(frozen=True)
class ServerVersion:
    """A server's version: its text, and the three numbers that are compared."""

    text: str
    numbers: tuple[int, int, int]


def parse_version(text: str) -> ServerVersion:
    """Return the version that `text` says; a pre-release counts as its release.

    Raises:
        LlamaForgeError: it is not a version.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise LlamaForgeError(
            f"The server calls its version {safe_line(text, limit=60)!r}, which is none.",
            "Check that OLLAMA_HOST names an Ollama server.",
            code="bad_answer",
        )
    return ServerVersion(text.strip(), (int(found[1]), int(found[2]), int(found[3] or 0)))


def require_adapters(version: ServerVersion, architecture: str) -> None:
    """Return if a server of this version can run an adapter on a model of this architecture.

    Raises:
        RefusedError: it cannot, so the weights must be merged first (`adapters_unsupported`).
    """
    if version.numbers == _DEVELOPMENT:
        return
    shown = f"Ollama {safe_line(version.text, limit=40)}"
    if version.numbers >= _FIRST_WITHOUT_ADAPTERS:
        raise RefusedError(
            f"{shown} takes no adapters: since 0.34.1 it needs a merged GGUF.",
            ADAPTER_HINT,
            code="adapters_unsupported",
        )
    old = version.numbers < _FIRST_WITH_LLAMA_SERVER
    if old and (architecture in _GO_ENGINE or architecture.startswith(_GO_ENGINE_PREFIX)):
        raise RefusedError(
            f"{shown} takes no adapters on {safe_line(architecture, limit=40)} models: "
            "before 0.30.0 it needs a merged GGUF for them.",
            ADAPTER_HINT,
            code="adapters_unsupported",
        )
