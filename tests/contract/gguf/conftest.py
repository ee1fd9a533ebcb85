"""The vocabularies that llama.cpp's own tests use, where they are at hand."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("LLAMAFORGE_VOCABS", ROOT.parent / "shared" / "vocab"))


@pytest.fixture(params=["llama-spm", "llama-bpe", "qwen2", "phi-3"])
def vocabulary_file(request: pytest.FixtureRequest) -> Path:
    path = FOLDER / f"ggml-vocab-{request.param}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here; LLAMAFORGE_VOCABS names the folder")
    return path
