from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaforge.publishing.request import PublishRequest
from tests.contract.publishing.fake_ollama import FakeOllama
from tests.contract.publishing.publishing_desk import BASE, Desk, write_adapter


@pytest.fixture
def ollama_server() -> Iterator[FakeOllama]:
    with FakeOllama() as server:
        yield server


@pytest.fixture
def desk(ollama_server: FakeOllama, tmp_path: Path) -> Desk:
    adapter = tmp_path / "adapter.gguf"
    digest = write_adapter(adapter)
    ollama_server.add("qwen2.5:3b", BASE)
    request = PublishRequest(
        name="mine",
        base="qwen2.5:3b",
        base_blob_digest=f"sha256:{BASE}",
        file=adapter,
        file_sha256=digest,
        host=ollama_server.url,
    )
    return Desk(ollama_server, request, tmp_path / "journal.jsonl", [])
