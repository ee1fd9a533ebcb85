"""Watching one run: nothing but its directory is read, and leaving does not touch its worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer

from llamaforge.runs.control import Request, ask
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.tui.run_feed import RunFeed
from llamaforge.tui.run_view import RunView
from llamaforge.tui.run_words import Headline, Tone, headline
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.screens.dialogs import Question
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging
from llamaforge.tui.widgets.loss_curve import LossCurve
from llamaforge.tui.widgets.results import result_lines
from llamaforge.tui.widgets.run_parts import (
    figure_lines,
    log_lines,
    progress_lines,
    stage_lines,
    state_content,
)
from llamaforge.tui.widgets.title_bar import TitleBar

_TICK_SECONDS = 1.0
_TONE_MARKS = {Tone.CALM: "·", Tone.GOOD: "✓", Tone.CARE: "!", Tone.BAD: "✗"}
_TONE_STYLES = {
    Tone.CALM: "$foreground",
    Tone.GOOD: "bold $text-success",
    Tone.CARE: "bold $text-warning",
    Tone.BAD: "bold $text-error",
}


class MonitorScreen(FollowingScreen[None]):
    """Stages, progress, figures, the loss curve and the log; at the end, the results."""

    CSS_PATH = "monitor.tcss"
    PERIOD_SECONDS = 0.25
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "stop", "Stop…", id="monitor.stop"),
        Binding("escape", "app.pop_screen", "Back", id="monitor.back"),
    ]
    HELP_TITLE = "Watching a run"
    HELP_LINES = (
        "The worker is a process of its own. Leaving this screen, the program or the terminal "
        "does not touch it. Only x stops it: it saves a checkpoint first, and can go on later.",
        "Loss says how surprised the model is by the right answers, in nats per token: lower is "
        "better. The held-out loss (◆) is of rows it is not trained on. Where it rises while the "
        "training loss still falls, the model learns its rows by heart.",
    )

    @dataclass
    class Read(Message):
        """The run was read."""

        view: RunView | None
        error: str = ""

        def can_replace(self, message: Message) -> bool:
            """Let a newer view take the place of one that is not shown yet."""
            return isinstance(message, MonitorScreen.Read)

    def __init__(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.run_directory = run
        self.view: RunView | None = None
        self._feed = RunFeed(run)
        self._clock = clock
        self._heard = clock()
        self._headline: Headline | None = None

    @property
    def live_run(self) -> str:
        """The run, as long as its worker is at work."""
        live = self.view is not None and self.view.state is RunState.RUNNING
        return self.run_directory.id if live else ""

    def compose(self) -> ComposeResult:
        """Lay out what is always seen, and below it the curve with the log."""
        yield TitleBar()
        with Vertical(id="top"):
            yield Lines(id="stages")
            yield Lines(id="headline")
            yield Lines(id="progress")
            yield Lines(id="figures")
        with VerticalScroll(id="body"):
            yield Lines(id="results")
            yield LossCurve(id="curve")
            with VerticalScroll(id="log"):
                yield Lines(id="lines")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to tick: time passes though nothing happens."""
        self.query_one(TitleBar).tell(f"Run {self.run_directory.id}")
        self.query_one("#log").anchor()
        self.set_interval(_TICK_SECONDS, self._show_time)

    def read(self) -> Message:
        """Return the run as it is now."""
        try:
            return self.Read(self._feed.read())
        except OSError as error:
            return self.Read(None, error.strerror or "it cannot be opened")

    def on_monitor_screen_read(self, message: Read) -> None:
        """Show what was read, if it is anything new."""
        view, old = message.view, self.view
        if view is None:
            text = f"The run's directory cannot be read: {message.error}."
            self._show_headline(Headline(Tone.BAD, text, str(self.run_directory.path)))
            return
        if view == old:
            return
        if old is None or view.seq != old.seq:
            self._heard = self._clock()
        self.view = view
        with self.app.batch_update():
            self._show(view, old)

    def _show(self, view: RunView, old: RunView | None) -> None:
        model = f" · {view.model}" if view.model else ""
        self.query_one(TitleBar).tell(f"Run {view.run}{model}", state_content(view.state))
        self.query_one("#stages", Lines).show(partial(stage_lines, view))
        self.query_one("#progress", Lines).show(partial(progress_lines, view))
        self.query_one(LossCurve).show(view.losses, view.evals)
        if old is None or view.log != old.log:
            self.query_one("#lines", Lines).show(partial(log_lines, view.log))
        self._show_time()
        if view.is_over:
            self.query_one("#results", Lines).show(partial(result_lines, view))
        if old is None or view.is_over != old.is_over:
            self._turn(view.is_over)
        self.refresh_bindings()

    def _turn(self, over: bool) -> None:
        """Become a page to read once the run is over, and a live picture where it goes on."""
        self.set_class(over, "-over")
        self.query_one("#log").can_focus = not over
        body = self.query_one("#body")
        body.can_focus = over
        (body if over else self.query_one("#log")).focus()
        if over:
            body.scroll_home(animate=False)

    def _show_time(self) -> None:
        """Bring up to date what changes with time alone."""
        view = self.view
        if view is None:
            return
        quiet = max(self._clock() - self._heard, 0.0)
        log_file = self.run_directory.log_file
        self._show_headline(headline(view, log_file=log_file, quiet_seconds=quiet))
        live = view.state is RunState.RUNNING
        elapsed = view.t + quiet if live else view.t
        self.query_one("#figures", Lines).show(partial(figure_lines, view, elapsed))

    def _show_headline(self, told: Headline) -> None:
        if told != self._headline:
            self._headline = told
            self.query_one("#headline", Lines).show(partial(_headline_lines, told))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop only a run that is at work and was not asked yet."""
        del parameters
        view = self.view
        if action == "stop":
            return view is not None and view.state is RunState.RUNNING and not view.stop_asked
        return True

    def action_stop(self) -> None:
        """Ask whether to stop, then ask the worker to."""
        question = Question(
            "Stop this run?",
            "The worker finishes its step, saves a checkpoint and ends. "
            f"Later it can go on from there: llamaforge runs resume {self.run_directory.id}",
            yes="Stop and save",
            no="Let it run",
        )
        self.app.push_screen(question, self._on_answer)

    def _on_answer(self, stop: bool | None) -> None:
        if stop:
            self.run_worker(self._ask_stop, thread=True, group="ask", exit_on_error=False)

    def _ask_stop(self) -> None:
        ask(self.run_directory, Request.STOP)


def _headline_lines(told: Headline, width: int) -> list[Content]:
    mark = Content.styled(_TONE_MARKS[told.tone], _TONE_STYLES[told.tone])
    text = Content.styled(told.text, _TONE_STYLES[told.tone])
    lines = hanging(mark, text, indent=2, width=width)
    if told.hint:
        hint = Content.styled(told.hint, MUTED)
        lines += hanging(Content(""), hint, indent=2, width=width)
    return lines
