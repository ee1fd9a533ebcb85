"""What the screens look like; a change of these pictures is looked at, then accepted."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import DataTable, Input

from llamaforge import paths
from llamaforge.catalog.hub_cache import Cache
from llamaforge.catalog.model import ModelStatus, Problem, StoredModel
from llamaforge.hardware import Gpu
from llamaforge.runs import events
from llamaforge.runs.directory import RunState
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.gauges import GaugeReader, Gauges
from llamaforge.tui.home import Home, ModelCount
from llamaforge.tui.run_list import RunRow
from llamaforge.tui.screens import chat, check, models, review
from llamaforge.tui.screens.chat import ChatScreen
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.welcome import WelcomeScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.tui.store_view import StoreChoice, StoreContent
from llamaforge.wizard.bases import BaseFacts, about
from llamaforge.wizard.checks import Check, Fix
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts, Machine
from llamaforge.wizard.looking import rows_about
from tests.tui.run_builder import SAMPLES, RunBuilder
from tests.tui.test_history_screen import second
from tests.tui.test_result_screens import Models, made
from tests.tui.waiting import screen_text, until

SnapCompare = Callable[..., bool]
SMALL, LARGE = (80, 24), (120, 40)


def still() -> float:
    return 100.0


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Gauges(
        cpu=0.93,
        memory_used=5_100_000_000,
        memory_total=16_400_000_000,
        run_cores=3.7,
        gpus=(Gpu("NVIDIA RTX 4070", 12_900_000_000, 3_900_000_000, 0.88),),
    )
    monkeypatch.setattr(GaugeReader, "read", lambda self: shown)


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


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    row = RunRow("tickets", "qwen2.5:3b", "", RunState.RUNNING, "120 of 200 steps", "")
    shown = Home(
        Machine(8, 17_300_000_000, 400_000_000_000, (), 33_600_000_000, True),
        ModelCount(12, 9, (Path("/models"),)),
        (row, replace(row, id="letters", state=RunState.FINISHED)),
        "0.13.1",
        Draft(model="gemma3:4b", sources=("/data/letters.jsonl",)),
    )
    monkeypatch.setattr(WelcomeScreen, "read", lambda self: WelcomeScreen.Read(shown))


async def home_is_shown(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: getattr(pilot.app.screen, "home", Home()).server is not None)
    await pilot.pause(0.1)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("theme", ["forge", "forge-light", "forge-grey"])
def test_the_first_screen_in_every_theme(
    snap_compare: SnapCompare, theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFORGE_THEME", theme)
    assert snap_compare(LlamaForgeApp(), terminal_size=SMALL, run_before=home_is_shown)


@pytest.mark.usefixtures("home")
def test_the_first_screen_in_a_large_terminal(snap_compare: SnapCompare) -> None:
    assert snap_compare(LlamaForgeApp(), terminal_size=LARGE, run_before=home_is_shown)


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


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_answers_on_the_way(
    snap_compare: SnapCompare, running: RunBuilder, size: tuple[int, int]
) -> None:
    for question, right, wrong in SAMPLES:
        running.write(
            events.Sample(prompt=question, expected=right, base=wrong, tuned=right, step=100)
        )

    async def turned(pilot: Pilot[Any]) -> None:
        await monitor_is_shown(pilot)
        await pilot.press("v")
        await pilot.pause(0.1)

    app = LlamaForgeApp(None, running.run.id, still)
    assert snap_compare(app, terminal_size=size, run_before=turned)


def test_a_finished_run_in_a_large_terminal(
    snap_compare: SnapCompare, finished: RunBuilder
) -> None:
    app = LlamaForgeApp(None, finished.run.id, still)
    assert snap_compare(app, terminal_size=LARGE, run_before=monitor_is_shown)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_before_and_after_in_two_columns(
    snap_compare: SnapCompare,
    finished: RunBuilder,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat, "ChatProcess", Models)

    async def asked(pilot: Pilot[Any]) -> None:
        await monitor_is_shown(pilot)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        process = made[-1]
        process.ready()
        await until(pilot, lambda: "llama.cpp" in screen_text(pilot))
        pilot.app.screen.query_one(Input).cursor_blink = False
        pilot.app.screen.query_one(Input).value = SAMPLES[0][0]
        await pilot.press("enter")
        await until(pilot, lambda: bool(process.asked))
        process.answer(SAMPLES[0][2], SAMPLES[0][1])
        await until(pilot, lambda: "5 tokens" in screen_text(pilot))
        await pilot.pause(0.1)

    app = LlamaForgeApp(None, finished.run.id, still)
    app.animation_level = "none"
    assert snap_compare(app, terminal_size=size, run_before=asked)


@pytest.mark.parametrize("key", ["u", "e"], ids=["publish", "export"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_done_with_a_result(
    snap_compare: SnapCompare, finished: RunBuilder, size: tuple[int, int], key: str
) -> None:
    async def opened(pilot: Pilot[Any]) -> None:
        await monitor_is_shown(pilot)
        await pilot.press(key)
        await pilot.pause(0.2)
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause(0.1)

    app = LlamaForgeApp(None, finished.run.id, still)
    assert snap_compare(app, terminal_size=size, run_before=opened)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_question_for_the_model_in_training(
    snap_compare: SnapCompare, size: tuple[int, int]
) -> None:
    asked = [question for question, _, _ in SAMPLES]
    builder = RunBuilder("tickets", questions=asked)
    builder.begin()
    builder.train(120)
    builder.state(RunState.RUNNING, stage="train", step=120, total=200)

    async def opened(pilot: Pilot[Any]) -> None:
        await monitor_is_shown(pilot)
        await pilot.press("a")
        await until(pilot, lambda: f"{len(asked)} questions" in screen_text(pilot))
        pilot.app.screen.query_one(Input).cursor_blink = False
        await pilot.pause(0.1)

    app = LlamaForgeApp(None, "tickets", still)
    assert snap_compare(app, terminal_size=size, run_before=opened)


async def history_is_shown(pilot: Pilot[Any]) -> None:
    await pilot.press("h")
    await until(pilot, lambda: "tickets" in screen_text(pilot))
    await pilot.press("space", "space")
    await pilot.pause(0.2)


@pytest.fixture
def runs(running: RunBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    running.state(RunState.RUNNING, stage="train", step=120, total=200, metrics={"loss": 0.9})
    second(learning_rate=0.005, lora_r=8)
    monkeypatch.setattr(RunsScreen, "_show_title", lambda self: None)  # it has a path of the test


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_the_history(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    app = LlamaForgeApp(clock=still)
    assert snap_compare(app, terminal_size=size, run_before=history_is_shown)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_runs_beside_each_other(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    async def compared(pilot: Pilot[Any]) -> None:
        await history_is_shown(pilot)
        await pilot.press("c")
        await until(pilot, lambda: "Loss, nats" in screen_text(pilot))
        await pilot.pause(0.2)

    app = LlamaForgeApp(clock=still)
    assert snap_compare(app, terminal_size=size, run_before=compared)


FACTS = Facts(
    Machine(8, 23_000_000_000, 400_000_000_000),
    report={
        "sources": [
            {"path": "/data/tickets.jsonl", "container": "jsonl", "format": "chat",
             "confidence": 1.0}
        ],
        "rows": {"read": 1240, "accepted": 1188, "repaired": 40, "rejected": 12, "left_out": 0},
        "analysis": {
            "lengths": {"tokens": {"p50": 212, "max": 1480}, "suggested_max_length": 1536}
        },
        "problems": [
            {"level": "warn", "code": "duplicates",
             "message": "31 rows repeat another. They count more than the others."}
        ],
    },
)  # fmt: skip
DRAFT = Draft(model="qwen2.5:3b", sources=("/data/tickets.jsonl",))
BASE = BaseFacts(
    about(DRAFT),
    "Qwen/Qwen2.5-3B-Instruct",
    "certain",
    ("Its header names Qwen/Qwen2.5-3B-Instruct as its source.",),
    Cache("absent", 0, 6_170_000_000, ("model.safetensors",), None, None),
    "qwen-research",
    must_fetch=True,
)
MODEL = StoredModel("qwen2.5:3b", "x", size_bytes=1_929_912_432, parameter_count=3_085_938_688)
FACTS = replace(FACTS, models=(MODEL,), base=BASE, report_of=rows_about(DRAFT))


def shows(screen: Screen[Any], asks: str = "") -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def show(pilot: Pilot[Any]) -> None:
        await models_are_shown(pilot)
        pilot.app.push_screen(screen)
        await until(pilot, lambda: pilot.app.screen is screen and bool(screen.query("Lines")))
        if isinstance(screen, WizardScreen):
            await until(pilot, lambda: bool(screen.query("#answer > *")))
            if asks:
                await screen._ask(next(q for q in screen._questions() if q.key == asks))
            await until(pilot, lambda: bool(screen.query("#answer > *")))
        await pilot.pause(0.2)

    return show


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("asks", ["", "sources", "goal"], ids=["base", "rows", "goal"])
def test_a_question_of_the_wizard(
    snap_compare: SnapCompare, store: Path, size: tuple[int, int], asks: str
) -> None:
    screen = WizardScreen(DRAFT, FACTS, still)
    assert snap_compare(LlamaForgeApp(store, clock=still), terminal_size=size,
                        run_before=shows(screen, asks))  # fmt: skip


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_the_checks_of_the_wizard(
    snap_compare: SnapCompare,
    store: Path,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        Check("Rows", "pass", "1,228 can be trained on."),
        Check("Disk", "fail", "The run needs up to 900 MB of disk space, and 12 MB are free.",
              "Free some space.", Fix("Take rank 8", {})),
        Check("Ollama", "warn", "No Ollama server answers.", "Start it with: ollama serve"),
    ]  # fmt: skip
    monkeypatch.setattr(check, "checks", lambda *_: found)
    screen = CheckScreen(DRAFT, FACTS)

    async def show(pilot: Pilot[Any]) -> None:
        await shows(screen)(pilot)
        await until(pilot, lambda: screen.found is not None)
        await pilot.pause(0.2)

    assert snap_compare(LlamaForgeApp(store, clock=still), terminal_size=size, run_before=show)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_the_review_of_the_wizard(
    snap_compare: SnapCompare,
    store: Path,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        Check("Rows", "pass", "1,228 can be trained on; 2 things to know."),
        Check("Memory", "pass", "at least 4.1 GB are needed, and are there."),
        Check("Disk", "fail", "The run needs up to 900 MB of disk space, and 12 MB are free.",
              "Free some space."),
        Check("Ollama", "warn", "No Ollama server answers.", "Start it with: ollama serve"),
    ]  # fmt: skip
    monkeypatch.setattr(review, "checks", lambda *_: found)
    monkeypatch.setattr(paths, "runs_folder", lambda: Path("/home/you/llamaforge/runs"))
    draft = DRAFT.with_answers(goal="style", preset="balanced", name="tickets", publish="helper")
    screen = ReviewScreen(draft, FACTS, still)
    assert snap_compare(LlamaForgeApp(store, clock=still), terminal_size=size,
                        run_before=shows(screen))  # fmt: skip
