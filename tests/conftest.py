"""Every test has homes of its own: nothing of the machine it runs on gets in, or is changed."""

import gc
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are noisy: how long an example takes says nothing.
settings.register_profile("noisy", deadline=None)
settings.load_profile("noisy")


# Started in the background or by nohup, a process ignores these, and so do all that it starts:
# tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Modules and tests are millions of objects that stay: looking through them again and again for
# garbage takes most of the time of tests that make many objects of their own.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def own_homes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    live_in(tmp_path_factory.mktemp("homes"), monkeypatch)


def live_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything that is kept for a person in `folder`."""
    monkeypatch.setenv("LLAMAFORGE_HOME", str(folder / "llamaforge"))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.setenv("HOME", str(folder / "user"))
    for name in ("OLLAMA_HOST", "OLLAMA_MODELS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE",
                 "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
