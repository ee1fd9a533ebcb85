"""The monitor shows what a run's directory says, and changes nothing unless asked to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from textual.pilot import Pilot

from llamaforge.errors import LlamaForgeError, NotFoundError
from llamaforge.runs import events
from llamaforge.runs.control import Request, is_asked, take, take_samples
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.tui.app import LlamaForgeApp
from llamaforge.tui.screens import run_keys
from llamaforge.tui.screens.ask import AskScreen
from llamaforge.tui.screens.dialogs import Question
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.welcome import WelcomeScreen
from llamaforge.tui.widgets.lines import Lines
from tests.tui.run_builder import RunBuilder, step
from tests.tui.waiting import screen_text, text_of, until, until_shown

SIZES = [(80, 24), (120, 40)]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def monitor(pilot: Pilot[Any]) -> MonitorScreen:
    screen = pilot.app.screen
    assert isinstance(screen, MonitorScreen)
    return screen


def is_watched(pilot: Pilot[Any], name: str) -> bool:
    screen = pilot.app.screen
    return isinstance(screen, MonitorScreen) and screen.run_directory.id == name


async def attached(pilot: Pilot[Any]) -> None:
    def is_shown() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, MonitorScreen) and screen.view is not None

    await until(pilot, is_shown)


@pytest.mark.parametrize("size", SIZES)
async def test_a_run_at_work_shows_stages_figures_curve_and_log(
    running: RunBuilder, size: tuple[int, int]
) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=size) as pilot:
        await attached(pilot)
        for part in (
            "✓ prepare ─ ▸ train ─ ○ export ─ ○ verify ─ ○ evaluate",
            "120 of 200 steps",
            "60 %",
            "held-out  0.9",
            "2.3 GB",
            "1.8 of 3",
            "Loss, nats per token",
            "◆",
            "! 3 rows were shortened.",
            "▸ running",
        ):
            await until_shown(pilot, part)
        shown = screen_text(pilot)
        assert any("⠁" <= char <= "⣿" for char in shown)


async def test_what_the_worker_writes_appears_by_itself(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        running.write(step(121))
        await until_shown(pilot, "121 of 200 steps")


@pytest.mark.parametrize("size", SIZES)
async def test_a_finished_run_shows_its_results_first(
    finished: RunBuilder, size: tuple[int, int]
) -> None:
    app = LlamaForgeApp(None, finished.run.id, Clock())
    async with app.run_test(size=size) as pilot:
        await attached(pilot)
        await until(pilot, lambda: "What to do next" in screen_text(pilot))
        results = text_of(pilot, "#results")
        flat = " ".join(results.split())
        for part in (
            "llamaforge publish tickets --name MY-MODEL",
            "held-out rows (50) 4 % 96 % +92 pts",
            "0 % 82.5 % +82.5 pts",
            "✓ Yes. On 32 rows, llama.cpp with the adapter differs from the trained model by "
            "0.00031 nats per token",
            "asked Which team takes a lost card?",
            "right cards",
            "✓ cards",
        ):
            assert part in flat, part
        await pilot.press("end")
        await until(pilot, lambda: "The run finished." in screen_text(pilot))


async def test_a_proof_that_did_not_pass_says_no_and_offers_no_publishing() -> None:
    builder = RunBuilder("bad")
    builder.begin()
    reason = "the served model differs from the trained one by 0.4 nats a token"
    builder.write(
        events.Report(kind="fidelity", figures={"passed": False, "reason": reason}),
        events.Failed(code="not_faithful", message=f"It is not faithful: {reason}.", hint="Stop."),
        events.Finished(run="bad", state="failed"),
    )
    builder.state(RunState.FAILED)
    async with LlamaForgeApp(None, "bad", Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await until(pilot, lambda: "✗ failed" in screen_text(pilot))
        assert "It is not faithful" in text_of(pilot, "#headline")
        results = " ".join(text_of(pilot, "#results").split())
        assert f"✗ No: {reason}. Do not use the adapter." in results
        assert "publish" not in results


async def test_a_worker_that_is_gone_is_told_with_the_way_on(running: RunBuilder) -> None:
    running.state(RunState.RUNNING, alive=False)
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        told = " ".join(text_of(pilot, "#headline").split())
        assert "The worker is gone" in told
        assert "the last checkpoint is of step 100" in told
        assert "llamaforge runs resume tickets" in told
        assert "worker.log" in told
        assert "x Stop" not in screen_text(pilot)


async def test_a_worker_without_news_is_told_after_a_while(running: RunBuilder) -> None:
    clock = Clock()
    async with LlamaForgeApp(None, running.run.id, clock).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        assert "Nothing new" not in text_of(pilot, "#headline")
        clock.now += 180.0
        await until(pilot, lambda: "Nothing new for 3 min 00 s" in text_of(pilot, "#headline"))
        running.write(step(121))
        await until(pilot, lambda: "Nothing new" not in text_of(pilot, "#headline"))


async def test_elapsed_time_goes_on_between_events(running: RunBuilder) -> None:
    clock = Clock()
    async with LlamaForgeApp(None, running.run.id, clock).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        assert "elapsed 0:01:05" in text_of(pilot, "#figures")
        clock.now += 10.0
        await until(pilot, lambda: "elapsed 0:01:15" in text_of(pilot, "#figures"))


@pytest.mark.parametrize(("keys", "asked"), [(["y"], True), (["n"], False), (["enter"], False)])
async def test_stopping_needs_a_yes(running: RunBuilder, keys: list[str], asked: bool) -> None:
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press(*keys)
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
        if asked:
            await until(pilot, lambda: "Stopping" in text_of(pilot, "#headline"))
            assert "x Stop" not in screen_text(pilot)
        assert is_asked(running.run, Request.STOP) is asked


async def test_leaving_says_that_the_run_goes_on_and_asks_nothing_of_it(
    running: RunBuilder,
) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await attached(pilot)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "Press q to leave" in screen_text(pilot))
        await pilot.press("q")
        await until(pilot, lambda: bool(app._exit_renderables))
        farewell = str(app._exit_renderables[0])
    assert "goes on in the background" in farewell
    assert "llamaforge runs attach tickets" in farewell
    assert list(running.run.control.iterdir()) == []


async def test_hostile_text_is_shown_as_it_is() -> None:
    builder = RunBuilder("odd", model="[red]m\x1b[31m")
    builder.begin()
    builder.write(events.Warn(code="w", message='[/foo] {"b": [true]} \x1b[2J'))
    sample = "[bold]x\x1b]0;t\x07"
    builder.write(events.Sample(prompt=sample, expected=sample, base="[", tuned="]"))
    builder.write(events.Finished(run="odd", state="stopped"))
    builder.state(RunState.STOPPED)
    async with LlamaForgeApp(None, "odd", Clock()).run_test(size=(120, 40)) as pilot:
        await attached(pilot)
        await until(pilot, lambda: "[bold]x\\x1b]0;t\\x07" in text_of(pilot, "#results"))
        await until_shown(pilot, "[red]m\\x1b[31m")
        assert "\x1b" not in screen_text(pilot)
        assert '[/foo] {"b": [true]} \\x1b[2J' in text_of(pilot, "#lines")


async def test_a_directory_that_cannot_be_read_is_told(running: RunBuilder) -> None:
    running.run.events_file.unlink()
    running.run.events_file.mkdir()
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "cannot be read" in screen_text(pilot))


async def test_resizing_to_any_size_breaks_nothing(running: RunBuilder) -> None:
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        for size in ((20, 5), (200, 60), (1, 1), (37, 11), (80, 24)):
            await pilot.resize_terminal(*size)
        await until_shown(pilot, "120 of 200 steps")


async def test_the_list_of_runs_is_newest_first_and_enter_watches_one(
    running: RunBuilder,
) -> None:
    done = RunBuilder("later", model="[red]x")
    done.state(RunState.STOPPED, step=5, total=10)
    async with LlamaForgeApp(None, None, Clock()).run_test(size=(80, 24)) as pilot:
        await pilot.press("h")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        await until(pilot, lambda: "tickets" in screen_text(pilot))
        shown = screen_text(pilot)
        assert shown.index("later") < shown.index("tickets")
        for part in ("[red]x", "■ stopped", "5 of 10 steps", "▸ running", "120 of 200 steps"):
            assert part in shown, part
        done.state(RunState.STOPPED, step=7, total=10)
        await until(pilot, lambda: "7 of 10 steps" in screen_text(pilot))
        await pilot.press("down", "enter")
        await attached(pilot)
        assert monitor(pilot).run_directory.id == "tickets"
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, RunsScreen)


def test_a_run_that_is_not_there_is_refused_before_the_screen_is_taken() -> None:
    with pytest.raises(NotFoundError):
        LlamaForgeApp(None, "absent")


@pytest.mark.parametrize(
    ("key", "request_", "said"),
    [
        ("p", Request.PAUSE, "Pausing: the worker finishes its step"),
        ("s", Request.SAVE, "A checkpoint is saved after this step."),
    ],
)
async def test_a_key_leaves_a_wish_and_says_what_will_happen(
    running: RunBuilder, key: str, request_: Request, said: str
) -> None:
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await pilot.press(key)
        await until(pilot, lambda: is_asked(running.run, request_))
        await until(pilot, lambda: said in text_of(pilot, "#headline"))
        await pilot.press(key)  # the same once more changes nothing
        assert [path.name for path in running.run.control.iterdir()] == [request_.value]


async def test_what_came_of_a_wish_is_told(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await attached(pilot)
        await pilot.press("s")
        await until(pilot, lambda: is_asked(running.run, Request.SAVE))
        assert take(running.run, Request.SAVE)
        running.write(events.Checkpoint(step=121, path="/x"))
        await until_shown(pilot, "Saved at step 121.")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("enter")
        await until(pilot, lambda: is_asked(running.run, Request.SAMPLE))
        assert take_samples(running.run) == []
        running.write(
            events.Sample(prompt="Who?", expected="", base="Old.", tuned="New.", step=122),
            events.Sampled(step=122, answers=1),
        )
        await until_shown(pilot, "The answers after step 122 are here")


QUESTIONS = ["Which team takes a lost card?", "[/foo] \x1b[31mwho?"]


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ((*"Who?", "enter"), ["Who?"]),
        (("enter",), []),
        (("down", "enter"), []),
        (("down", "down", "down", "enter"), QUESTIONS[1:]),
    ],
)
async def test_a_question_is_typed_or_taken_and_its_answers_are_turned_to(
    keys: tuple[str, ...], asked: list[str]
) -> None:
    running = RunBuilder("asking", questions=QUESTIONS)
    running.begin()
    running.train(120)
    running.state(RunState.RUNNING, stage="train", step=120, total=200)
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await pilot.press("a")
        await until_shown(pilot, "2 questions of this run")
        assert "\x1b" not in screen_text(pilot)
        await pilot.press("escape", "a")
        await until_shown(pilot, "2 questions of this run")
        assert not is_asked(running.run, Request.SAMPLE)
        await pilot.press(*keys)
        await until(pilot, lambda: is_asked(running.run, Request.SAMPLE))
        await until_shown(pilot, "the model answers some prompts")
        assert take_samples(running.run) == asked
        running.write(
            events.Sample(prompt="Who?", expected="", base="Old.", tuned="New.", step=121),
            events.Sampled(step=121, answers=1),
        )
        await until_shown(pilot, "before training")
        await until_shown(pilot, "after step 121")
        row = next(line for line in screen_text(pilot).splitlines() if "Old." in line)
        assert "New." in row  # side by side


async def test_who_asks_too_late_is_told(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await attached(pilot)
        await pilot.press("a")
        await until_shown(pilot, "Some of the held-out rows")
        screen = pilot.app.screen_stack[-2]
        assert isinstance(screen, MonitorScreen)
        running.write(events.Stage(name="train", state="finished"))
        await until(pilot, lambda: screen.view is not None and not screen.view.is_training)
        await pilot.press(*"Who?", "enter")
        await until_shown(pilot, "the run does not train any more")
        assert not is_asked(running.run, Request.SAMPLE)


async def test_a_run_pauses_and_goes_on(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await pilot.press("p")
        await until(pilot, lambda: is_asked(running.run, Request.PAUSE))
        running.write(events.Paused(reason="asked", message="Paused as asked.", step=120))
        await until_shown(pilot, "■ paused")
        assert "Paused after step 120" in text_of(pilot, "#headline")
        assert monitor(pilot).live_run == "tickets"
        await until_shown(pilot, "p Go on")
        await pilot.press("p")
        await until(pilot, lambda: not is_asked(running.run, Request.PAUSE))
        running.write(events.Resumed(step=120, seconds=4.0), step(121))
        await until_shown(pilot, "▸ running")
        assert "after a pause of 4 s" in text_of(pilot, "#lines")


async def test_a_full_disk_is_waited_for_and_no_key_pretends_to_help(running: RunBuilder) -> None:
    why = "The disk is full: 3 GB must be free. The run waits, and goes on by itself."
    running.write(events.Paused(reason="disk_full", message=why, step=120, needed_bytes=3))
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        assert why in " ".join(text_of(pilot, "#headline").split())
        assert "Go on" not in screen_text(pilot)
        await pilot.press("p", "s", "a")
        assert list(running.run.control.iterdir()) == []


async def test_a_wish_that_came_too_late_is_told(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await attached(pilot)
        await pilot.press("s")
        await until(pilot, lambda: is_asked(running.run, Request.SAVE))
        assert take(running.run, Request.SAVE)
        running.write(
            events.Stage(name="train", state="finished"),
            events.Stage(name="export", state="started"),
        )
        await until_shown(pilot, "That did not happen")


async def test_v_turns_through_loss_answers_and_the_other_figures(running: RunBuilder) -> None:
    running.write(
        events.Sample(prompt="Who?", expected="me", base="[b]Old", tuned="me", step=100, cut=True)
    )
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await until_shown(pilot, "Loss, nats per token")
        await pilot.press("v")
        for part in ("asked  Who?", "after step 100", "✗ [b]Old", "✓ me", "An answer was cut"):
            await until_shown(pilot, part)
        for title in ("Learning rate", "Gradient norm", "Tokens a second", "Loss, nats per token"):
            await pilot.press("v")
            await until_shown(pilot, title)
        await pilot.press("V")
        await until_shown(pilot, "Tokens a second")


async def test_a_wide_terminal_has_machine_and_answers_beside_the_curve(
    running: RunBuilder,
) -> None:
    running.write(events.Sample(prompt="Who?", expected="", base="Old.", tuned="New.", step=100))
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(120, 40)) as pilot:
        await attached(pilot)
        for part in ("This machine", "this run: 2.3 GB", "before  Old.", "now     New."):
            await until_shown(pilot, part)


async def test_n_watches_the_next_run_at_work(running: RunBuilder) -> None:
    other = RunBuilder("letters")
    other.begin()
    other.train(3)
    other.state(RunState.RUNNING, stage="train")
    RunBuilder("waiting")  # has no worker: n does not lead there
    async with LlamaForgeApp(None, running.run.id, Clock()).run_test(size=(120, 40)) as pilot:
        await attached(pilot)
        await until_shown(pilot, "n Next run")
        depth = len(pilot.app.screen_stack)
        for name in ("letters", "tickets", "letters"):
            await pilot.press("n")
            await until(pilot, partial(is_watched, pilot, name))
            await attached(pilot)
            await until_shown(pilot, "of 2 at work")
        assert len(pilot.app.screen_stack) == depth


async def test_d_leaves_the_program_and_the_run_goes_on(running: RunBuilder) -> None:
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        await pilot.press("d")
        await until(pilot, lambda: bool(app._exit_renderables))
        assert "goes on in the background" in str(app._exit_renderables[0])
    assert list(running.run.control.iterdir()) == []


async def test_p_starts_a_worker_for_a_run_that_was_left(
    running: RunBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.state(RunState.RUNNING, alive=False)
    started: list[str] = []

    def launch(run: RunDirectory) -> int:
        started.append(run.id)
        raise LlamaForgeError("The worker process did not start.", "Its log says why.")

    monkeypatch.setattr(run_keys, "launch", launch)
    app = LlamaForgeApp(None, running.run.id, Clock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await attached(pilot)
        await until_shown(pilot, "p Go on")
        await pilot.press("p")
        await until(pilot, lambda: started == ["tickets"])
        await until_shown(pilot, "The worker process did not start.")


async def test_what_is_hidden_costs_nothing_until_it_is_shown(
    running: RunBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MonitorScreen, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(WelcomeScreen, "PERIOD_SECONDS", 0.01)
    app = LlamaForgeApp(None, running.run.id)
    async with app.run_test(size=(80, 24)) as pilot:
        await attached(pilot)
        screen = monitor(pilot)
        below = app.screen_stack[1]
        assert isinstance(below, WelcomeScreen)
        read: list[str] = []
        watched: list[str] = []
        monkeypatch.setattr(below, "read", partial(_noting, read, below.read))
        monkeypatch.setattr(screen, "read", partial(_noting, watched, screen.read))
        machine = screen.query_one("#machine", Lines)
        layouts: list[bool] = []
        refresh = machine.refresh

        def noted(*regions: Any, layout: bool = False, **more: Any) -> Any:
            layouts.append(layout)
            return refresh(*regions, layout=layout, **more)

        monkeypatch.setattr(machine, "refresh", noted)
        await until(pilot, lambda: len(watched) >= 5)
        assert len(read) <= 1  # one may have been under way
        assert not any(layouts)
        await pilot.resize_terminal(120, 40)
        await until_shown(pilot, "This machine")
        await until(pilot, lambda: "memory" in text_of(pilot, "#machine"))
        await pilot.press("escape")
        await until(pilot, lambda: len(read) >= 3)


def _noting(calls: list[str], read: Callable[[], Any]) -> Any:
    calls.append("read")
    return read()
