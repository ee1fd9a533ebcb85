"""What the screens look like; a change of these pictures is looked at, then accepted."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from llamaforge.catalog.model import ModelStatus, Problem, StoredModel
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import models
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.store_view import StoreChoice, StoreContent
from tests.tui.run_builder import RunBuilder
from tests.tui.waiting import until

SnapCompare = Callable[..., bool]
SMALL, LARGE = (80, 24), (120, 40)


def still() -> float:
    return 100.0


async def monitor_is_shown(pilot: Pilot[Any]) -> None:
    def shown() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, MonitorScreen) and screen.view is not None

    await until(pilot, shown)
    await pilot.pause(0.1)


async def models_are_shown(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count > 0)
    await pilot.pause(0.1)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Path:
    blob = Path(
        "/models/blobs/sha256-5ee4f07cdb9beadbbb293e85803c569b01bd37ed059d2715faa7bb405f31caa6"
    )
    ready = StoredModel(
        name="qwen2.5:3b",
        full_name="registry.ollama.ai/library/qwen2.5:3b",
        manifest=Path("/models/manifests/x"),
        modified=datetime(2026, 1, 2, tzinfo=UTC),
        size_bytes=1_929_912_432,
        blob=blob,
        blob_digest=blob.name.removeprefix("sha256-"),
        architecture="qwen2",
        parameter_count=3_085_938_688,
        quantization="Q4_K_M",
        context_length=32_768,
        capabilities=("completion", "tools"),
    )
    broken = StoredModel(
        name="[red]odd[/red]\x1b[31m:latest",
        full_name="x",
        manifest=Path("/models/manifests/y"),
        problem=Problem(ModelStatus.BROKEN, "bad_name", "its name is none", "Remove the file."),
    )
    embedder = StoredModel(
        name="nomic-embed-text:latest",
        full_name="z",
        manifest=Path("/models/manifests/z"),
        size_bytes=274_302_450,
        architecture="nomic-bert",
        parameter_count=136_727_040,
        quantization="F16",
        context_length=2_048,
        capabilities=("embedding",),
        problem=Problem(
            ModelStatus.UNSUPPORTED, "embedding_model", "it makes embeddings", "Choose another."
        ),
    )

    def read(choice: StoreChoice) -> Iterator[StoreContent]:
        yield StoreContent(choice, (broken, embedder, ready), 3, places=(Path("/models"),))

    monkeypatch.setattr(models, "read_store", read)
    return Path("/models")


def test_models_in_a_small_terminal(snap_compare: SnapCompare, store: Path) -> None:
    async def on_ready_model(pilot: Pilot[Any]) -> None:
        await models_are_shown(pilot)
        await pilot.press("down", "down")
        await pilot.pause(0.1)

    app = LlamaForgeApp(store, clock=still)
    assert snap_compare(app, terminal_size=SMALL, run_before=on_ready_model)


def test_models_in_a_large_terminal(snap_compare: SnapCompare, store: Path) -> None:
    app = LlamaForgeApp(store, clock=still)
    assert snap_compare(app, terminal_size=LARGE, run_before=models_are_shown)


def test_a_run_at_work_in_a_small_terminal(snap_compare: SnapCompare, running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, still)
    assert snap_compare(app, terminal_size=SMALL, run_before=monitor_is_shown)


def test_a_run_at_work_in_a_large_terminal(snap_compare: SnapCompare, running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, still)
    assert snap_compare(app, terminal_size=LARGE, run_before=monitor_is_shown)


def test_a_finished_run_in_a_large_terminal(
    snap_compare: SnapCompare, finished: RunBuilder
) -> None:
    app = LlamaForgeApp(None, finished.run.id, still)
    assert snap_compare(app, terminal_size=LARGE, run_before=monitor_is_shown)
