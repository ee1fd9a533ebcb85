from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.unit.hub.cache_builder import RepoBuilder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def repo(hub_cache: Path) -> RepoBuilder:
    return RepoBuilder(hub_cache)
