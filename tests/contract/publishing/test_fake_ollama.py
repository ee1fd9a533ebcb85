"""The fake server keeps to what Ollama's own handlers do where publishing relies on it."""

import hashlib

import httpx
import pytest

from tests.contract.publishing.fake_ollama import FakeOllama

DATA = b"some adapter"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("digest", [f"sha256-{DIGEST}", f"sha256:{DIGEST.upper()}"])
def test_a_digest_in_another_spelling_is_stored_and_answered_with_400(
    ollama_server: FakeOllama, digest: str
) -> None:
    answer = httpx.post(f"{ollama_server.url}/api/blobs/{digest}", content=DATA)
    assert answer.status_code == 400
    assert ollama_server.blobs == {f"sha256:{DIGEST}": DATA}
    assert httpx.head(f"{ollama_server.url}/api/blobs/{digest}").status_code == 400


def test_a_blob_is_new_then_known(ollama_server: FakeOllama) -> None:
    url = f"{ollama_server.url}/api/blobs/sha256:{DIGEST}"
    assert httpx.head(url).status_code == 404
    assert httpx.post(url, content=DATA).status_code == 201
    assert httpx.post(url, content=DATA).status_code == 200
    assert httpx.head(url).status_code == 200


def test_a_wrong_digest_is_refused(ollama_server: FakeOllama) -> None:
    url = f"{ollama_server.url}/api/blobs/sha256:{'0' * 64}"
    assert httpx.post(url, content=DATA).status_code == 400
    assert ollama_server.blobs == {}


def test_a_missing_base_is_an_error_under_status_200(ollama_server: FakeOllama) -> None:
    body = {"model": "new", "from": "missing"}
    answer = httpx.post(f"{ollama_server.url}/api/create", json=body)
    assert answer.status_code == 200
    assert "error" in answer.json()
