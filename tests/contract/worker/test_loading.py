"""Heavy libraries are loaded once, and quickly."""

import gc
import importlib.util
import sys

import pytest

import llamaforge.training.trainer
from llamaforge.worker.loading import load_libraries, undisturbed

_LOADED = llamaforge.training.trainer


def test_what_is_loaded_already_costs_nothing_and_leaves_the_collector_alone() -> None:
    """Frozen at the start of each phase, what the one before left would never be collected."""
    frozen = gc.get_freeze_count()
    load_libraries()
    assert gc.get_freeze_count() == frozen
    assert gc.isenabled()


def test_what_is_left_out_can_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    with undisturbed():
        assert importlib.util.find_spec("datasets") is None
        with pytest.raises(ImportError):
            importlib.import_module("datasets")
    assert "datasets" not in sys.modules
    assert importlib.util.find_spec("datasets") is not None
