"""What the tests of the Hub ask for again and again."""

from dataclasses import replace
from pathlib import Path

from llamaforge.catalog.hub_download import DownloadPlan, Progress, download, plan_download
from llamaforge.catalog.hub_http import Patience
from tests.contract.hub.fake_hub import FakeHub, FakeRepo, Fault
from tests.unit.hub.cache_builder import SMALL, sharded, weights

NAME = "maker/tiny"
QUICK = Patience(
    silence_seconds=30, attempts=3, pause_seconds=0.01, longest_pause_seconds=0.05, slow_bytes=100
)
"""Waits as long as a busy machine may need, and hardly between attempts."""

HASTE = replace(QUICK, silence_seconds=1, answer_seconds=1.5, slow_seconds=0.5)
"""For a server that is silent or drips: ends every wait in about a second."""


def patience_for(fault: Fault) -> Patience:
    return HASTE if fault.hang or fault.drip else QUICK


def single(tensor_bytes: int = 300_000) -> dict[str, bytes]:
    return SMALL | {"model.safetensors": weights(tensor_bytes)}


def in_shards() -> dict[str, bytes]:
    return SMALL | sharded(200_000, 100_000, 50_000)


def serve(hub: FakeHub, files: dict[str, bytes], **about: object) -> FakeRepo:
    """Put a repository of these files on the Hub."""
    repo = FakeRepo(files, about=dict(about))
    hub.repos[NAME] = repo
    return repo


def plan(patience: Patience = QUICK) -> DownloadPlan:
    return plan_download(NAME, patience=patience)


def fetch(seen: list[Progress] | None = None, *, patience: Patience = QUICK) -> Path:
    """Download without being stopped."""
    told = [] if seen is None else seen
    return download(plan(), told.append, lambda: False, patience=patience)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts(cache: Path) -> list[Path]:
    """Return the unfinished files in a cache."""
    return list(cache.rglob("*.incomplete"))
