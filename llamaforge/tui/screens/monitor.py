"""Watching one run: nothing but its directory is read, and leaving does not touch its worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer

from llamaforge.runs.directory import RunDirectory, RunState, list_runs
from llamaforge.tui.gauges import GaugeReader, Gauges
from llamaforge.tui.run_feed import RunFeed
from llamaforge.tui.run_view import RunView
from llamaforge.tui.run_words import Headline, Tone, headline
from llamaforge.tui.screens.run_keys import RunKeys
from llamaforge.tui.widgets.gauges import gauge_column, gauge_line
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging
from llamaforge.tui.widgets.loss_curve import (
    LOSS_CHART,
    NORM_CHART,
    RATE_CHART,
    SPEED_CHART,
    LossCurve,
)
from llamaforge.tui.widgets.probes import probe_lines
from llamaforge.tui.widgets.results import result_lines
from llamaforge.tui.widgets.run_parts import (
    figure_lines,
    log_lines,
    progress_lines,
    stage_lines,
    state_content,
)
from llamaforge.tui.widgets.title_bar import TitleBar

_TICK_SECONDS: Final = 1.0
_TONE_MARKS: Final = {Tone.CALM: "·", Tone.GOOD: "✓", Tone.CARE: "!", Tone.BAD: "✗"}
_TONE_STYLES: Final = {
    Tone.CALM: "$foreground",
    Tone.GOOD: "bold $text-success",
    Tone.CARE: "bold $text-warning",
    Tone.BAD: "bold $text-error",
}
_PICTURES: Final = ("loss", "answers", "rate", "norm", "speed")
"""What v turns through."""


class MonitorScreen(RunKeys):
    """Stages, progress, figures, curves, answers and the log; at the end, the results."""

    CSS_PATH = "monitor.tcss"
    PERIOD_SECONDS = 0.25
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn(1)", "View", id="monitor.view"),
        Binding("V", "turn(-1)", "View before", show=False, id="monitor.view_before"),
        Binding("t", "talk", "Talk to it", id="monitor.talk"),
        Binding("u", "publish", "Publish…", id="monitor.publish"),
        Binding("e", "export", "Export…", id="monitor.export"),
        Binding("n", "other(1)", "Next run", id="monitor.next"),
        Binding("N", "other(-1)", "Run before", show=False, id="monitor.before"),
        Binding("d", "detach", "Detach", id="monitor.detach"),
        Binding("escape", "app.pop_screen", "Back", id="monitor.back"),
    ]
    HELP_TITLE = "Watching a run"
    HELP_LINES = (
        "The worker is a process of its own. Leaving this screen, the program or the terminal "
        "does not touch it: d leaves the program, and llamaforge offers the run again. Only x ends "
        "it: it saves a checkpoint first, and can go on later.",
        "Loss says how surprised the model is by the right answers, in nats per token: lower is "
        "better. The held-out loss (◆) is of rows it is not trained on. Where it rises while the "
        "training loss still falls, the model learns its rows by heart.",
        "A finished run shows what came of it: t talks to the model before and after training, u "
        "publishes it to Ollama under a name, e writes it as a file.",
        "a asks the model something now: what you type, or the run's own questions. v turns "
        "through the loss, the answers of the model as it was and as it is now, the learning rate, "
        "the gradient norm and the speed. Time left is a range: what the newest steps took, at "
        "best and at worst.",
    )

    @dataclass
    class Read(Message):
        """The run was read."""

        view: RunView | None
        error: str = ""
        gauges: Gauges | None = None
        others: tuple[str, ...] = ()
        """All runs that a worker has, this one among them, oldest first."""

        def can_replace(self, message: Message) -> bool:
            """Let a newer view take the place of one that is not shown yet."""
            return isinstance(message, MonitorScreen.Read)

    def __init__(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(run)
        self._feed = RunFeed(run)
        self._gauge_reader = GaugeReader(run)
        self._gauges: Gauges | None = None
        self._gauges_read = 0.0
        self._others: tuple[str, ...] = ()
        self._clock = clock
        self._heard = clock()
        self._headline: Headline | None = None
        self._picture = _PICTURES[0]

    @property
    def live_run(self) -> str:
        """The run, as long as its worker is at work."""
        return self.run_directory.id if self.view is not None and self.view.is_live else ""

    def compose(self) -> ComposeResult:
        """Lay out what is always seen, and below it the curve with the log."""
        yield TitleBar()
        with Vertical(id="top"):
            yield Lines(id="stages")
            yield Lines(id="headline")
            yield Lines(id="progress")
            yield Lines(id="figures")
            yield Lines(id="gauges")
        with Horizontal(id="middle"):
            with VerticalScroll(id="body"):
                yield Lines(id="results")
                yield LossCurve(id="curve")
                with VerticalScroll(id="answers"):
                    yield Lines(id="probes")
                with VerticalScroll(id="log"):
                    yield Lines(id="lines")
            with VerticalScroll(id="side", can_focus=False):
                yield Lines(id="machine")
                yield Lines(id="newest")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to tick: time passes though nothing happens."""
        self.query_one(TitleBar).tell(f"Run {self.run_directory.id}")
        self.query_one("#log").anchor()
        self.query_one("#answers").display = False
        self.set_interval(_TICK_SECONDS, self._show_time)

    def read(self) -> Message:
        """Return the run as it is now, and about once a second what the machine does."""
        try:
            view = self._feed.read()
        except OSError as error:
            return self.Read(None, error.strerror or "it cannot be opened")
        now = time.monotonic()
        if self._gauges is None or now - self._gauges_read >= _TICK_SECONDS:
            self._gauges, self._gauges_read = self._gauge_reader.read(), now
            self._others = _live_runs()
        return self.Read(view, "", self._gauges, self._others)

    def on_monitor_screen_read(self, message: Read) -> None:
        """Show what was read, if it is anything new."""
        view, old = message.view, self.view
        if view is None:
            text = f"The run's directory cannot be read: {message.error}."
            self._show_headline(Headline(Tone.BAD, text, str(self.run_directory.path)))
            return
        self._show_machine(message.gauges, view)
        if view == old:
            return
        if old is None or view.seq != old.seq:
            self._heard = self._clock()
        self.view = view
        with self.app.batch_update():
            self._show(view, old)
        self.tell_answers(view)

    def _show(self, view: RunView, old: RunView | None) -> None:
        model = f" · {view.model}" if view.model else ""
        count = len(self._others)
        place = ""
        if count > 1 and view.run in self._others:
            place = f"   {self._others.index(view.run) + 1} of {count} at work"
        state = state_content(view.state)
        self.query_one(TitleBar).tell(f"Run {view.run}{model}{place}", state)
        self.query_one("#stages", Lines).show(partial(stage_lines, view))
        self.query_one("#progress", Lines).show(partial(progress_lines, view))
        self._draw(view)
        if old is None or view.log != old.log:
            self.query_one("#lines", Lines).show(partial(log_lines, view.log))
        if old is None or view.probes != old.probes:
            self.query_one("#probes", Lines).show(partial(probe_lines, view.probes))
            self.query_one("#newest", Lines).show(partial(_newest_lines, view))
        self._show_time()
        if view.is_over:
            self.query_one("#results", Lines).show(partial(result_lines, view))
            self._picture = _PICTURES[0]
            self.query_one(LossCurve).display = True
        if old is None or view.is_over != old.is_over:
            self._turn_over(view.is_over)
        self.refresh_keys()

    def _draw(self, view: RunView) -> None:
        curve = self.query_one(LossCurve)
        match self._picture:
            case "rate":
                curve.show(view.rates, (), RATE_CHART)
            case "norm":
                curve.show(view.norms, (), NORM_CHART)
            case "speed":
                curve.show(view.speeds, (), SPEED_CHART)
            case _:
                curve.show(view.losses, view.evals, LOSS_CHART)

    def _turn_over(self, over: bool) -> None:
        """Become a page to read once the run is over, and a live picture where it goes on."""
        self.set_class(over, "-over")
        self.query_one("#log").can_focus = not over
        body = self.query_one("#body")
        body.can_focus = over
        (body if over else self.query_one("#log")).focus()
        if over:
            body.scroll_home(animate=False)

    def _show_machine(self, gauges: Gauges | None, view: RunView) -> None:
        if gauges is not None and view.memory_bytes is not None and view.is_live:
            # What the worker says of itself: on a GPU that is not its memory on the host.
            gauges = replace(gauges, run_memory=int(view.memory_bytes))
        self.query_one("#gauges", Lines).show(partial(gauge_line, gauges))
        self.query_one("#machine", Lines).show(partial(_machine_lines, gauges))

    def _show_time(self) -> None:
        """Bring up to date what changes with time alone."""
        view = self.view
        if view is None:
            return
        quiet = max(self._clock() - self._heard, 0.0)
        log_file = self.run_directory.log_file
        self._show_headline(headline(view, log_file=log_file, quiet_seconds=quiet))
        elapsed = view.t + quiet if view.is_live else view.t
        self.query_one("#figures", Lines).show(partial(figure_lines, view, elapsed))

    def _show_headline(self, told: Headline) -> None:
        if told != self._headline:
            self._headline = told
            self.query_one("#headline", Lines).show(partial(_headline_lines, told))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what does something now."""
        del parameters
        view = self.view
        match action:
            case "stop" | "pause" | "go_on" | "save" | "sample":
                return self.allows(action)
            case "other":
                return len(self._others) > (1 if self.run_directory.id in self._others else 0)
            case "talk" | "publish" | "export":
                return view is not None and view.state is RunState.FINISHED
            case "turn":
                return view is not None and not view.is_over
            case "detach":
                return view is not None and view.is_live
            case _:
                return True

    def action_turn(self, by: int) -> None:
        """Show another picture of the run."""
        place = (_PICTURES.index(self._picture) + by) % len(_PICTURES)
        self._turn_to(_PICTURES[place])

    def show_answers(self) -> None:
        """Turn to the answers, the newest first."""
        self._turn_to("answers")
        self.query_one("#answers").scroll_home(animate=False)

    def _turn_to(self, picture: str) -> None:
        self._picture = picture
        is_answers = self._picture == "answers"
        self.query_one(LossCurve).display = not is_answers
        self.query_one("#answers").display = is_answers
        self.query_one("#newest").display = not is_answers  # they need not stand there twice
        if self.view is not None:
            self._draw(self.view)

    def action_talk(self) -> None:
        """Talk to the model as it was and as it is now."""
        from llamaforge.tui.screens.chat import ChatScreen  # noqa: PLC0415

        published = self.view.published if self.view is not None else ""
        self.app.push_screen(ChatScreen(self.run_directory, published))

    def action_publish(self) -> None:
        """Bring the result into Ollama."""
        from llamaforge.tui.screens.tasks import PublishScreen  # noqa: PLC0415

        wished = self.view.publish if self.view is not None else ""
        self.app.push_screen(PublishScreen(self.run_directory.id, wished))

    def action_export(self) -> None:
        """Write the result as a file to take along."""
        from llamaforge.tui.screens.tasks import ExportScreen  # noqa: PLC0415

        self.app.push_screen(ExportScreen(self.run_directory.id))

    def action_other(self, by: int) -> None:
        """Watch the next run that is at work, in place of this one."""
        from llamaforge.tui import navigation  # noqa: PLC0415 - it leads to every screen

        others = self._others
        here = self.run_directory.id
        place = (others.index(here) + by) % len(others) if here in others else 0
        navigation.watch_instead(self.app, others[place])

    def action_detach(self) -> None:
        """Leave the program; the run goes on, and the last line says how to come back."""
        from llamaforge.tui.app import LlamaForgeApp  # noqa: PLC0415 - it opens this screen

        app = self.app
        assert isinstance(app, LlamaForgeApp)  # noqa: S101 - there is no other program
        app.leave()


def _live_runs() -> tuple[str, ...]:
    """Return the names of the runs that a worker has, oldest first."""
    live = {RunState.RUNNING, RunState.PAUSED}
    try:
        return tuple(run.id for run in reversed(list_runs()) if run.read_status().state in live)
    except OSError:
        return ()


def _machine_lines(gauges: Gauges | None, width: int) -> list[Content]:
    title = Content.styled("This machine", "bold $primary")
    return [title, *gauge_column(gauges, width), Content("")]


def _newest_lines(view: RunView, width: int) -> list[Content]:
    title = Content.styled("Answers on the way", "bold $primary")
    return [title, *probe_lines(view.probes, width)]


def _headline_lines(told: Headline, width: int) -> list[Content]:
    mark = Content.styled(_TONE_MARKS[told.tone], _TONE_STYLES[told.tone])
    text = Content.styled(told.text, _TONE_STYLES[told.tone])
    lines = hanging(mark, text, indent=2, width=width)
    if told.hint:
        hint = Content.styled(told.hint, MUTED)
        lines += hanging(Content(""), hint, indent=2, width=width)
    return lines
