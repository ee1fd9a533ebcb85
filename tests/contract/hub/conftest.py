from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from llamaforge.export.hugging_face import write_hugging_face
from llamaforge.gguf.header import read_header
from llamaforge.worker.layout import model_layout
from tests.contract.hub.fake_hub import FakeHub
from tools.random_models import CHATML, Shape, Vocabulary, write_random_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with nothing in it, and an empty cache, for this program and for the real client.

    The client reads its settings when it is imported, so they are set where it keeps them;
    `test_hub_mirror.py` sets them in the environment of a process of its own.
    """
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with FakeHub() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HOME": str(tmp_path),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        close_session()
        yield server
        close_session()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    """Return a quantised model, and the files of the base that it was made from."""
    folder = tmp_path_factory.mktemp("made")
    shape, vocabulary = Shape(feed_forward=256), Vocabulary.byte_level()
    whole = write_random_model(folder / "whole.gguf", shape, vocabulary, "F16", seed=1)
    header = read_header(whole)
    write_hugging_face(
        folder / "base", header, None, model_layout(header), dtype="float16", chat_template=CHATML
    )
    packed = write_random_model(folder / "packed.gguf", shape, vocabulary, "Q8_0", seed=1)
    files = {path.name: path.read_bytes() for path in (folder / "base").iterdir()}
    files["model.safetensors"] = files.pop("model-00001-of-00001.safetensors")
    del files["model.safetensors.index.json"]
    return packed.read_bytes(), files
