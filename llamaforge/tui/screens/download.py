"""Fetching a base from the Hub: what it takes, then how far it is, until it is there or stopped."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer
from textual.worker import Worker, WorkerState

from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import redact, safe_line
from llamaforge.tui.pace import Pace
from llamaforge.tui.widgets.lines import MUTED, Lines, facts
from llamaforge.words import percent_words, range_words, size_words

if TYPE_CHECKING:
    from llamaforge.catalog.hub_download import DownloadPlan, Progress

_NARROWEST = 10


class DownloadScreen(ModalScreen[bool]):
    """Asks the Hub, then the person, then fetches; its answer is whether everything is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "begin", "Download", id="download.begin"),
        Binding("escape,n", "close", "Close", key_display="esc", id="download.close"),
    ]

    class Planned(Message):
        """It is known what would be fetched."""

        def __init__(self, plan: "DownloadPlan") -> None:
            super().__init__()
            self.plan = plan

    class Progressed(Message):
        """More is there."""

        def __init__(self, progress: "Progress", seconds: float) -> None:
            super().__init__()
            self.progress = progress
            self.seconds = seconds
            """When, on a clock that only goes on."""

        def can_replace(self, message: Message) -> bool:
            """Only the newest counts."""
            return isinstance(message, DownloadScreen.Progressed)

    class Ended(Message):
        """Everything is there, or something went wrong."""

        def __init__(self, error: LlamaForgeError | None = None) -> None:
            super().__init__()
            self.error = error

    def __init__(self, repo: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._repo = repo
        self._clock = clock
        self._stopped = threading.Event()
        self._plan: DownloadPlan | None = None
        self._progress: Progress | None = None
        self._pace = Pace()
        self._at_work = False

    def compose(self) -> ComposeResult:
        """Lay out what is fetched, and how far it is."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = Content("Download")
            yield Lines(id="plan")
            yield Lines(id="state")
        yield Footer()

    def on_mount(self) -> None:
        """Ask the Hub."""
        self._say("Asking the Hub …")
        self._work(self._ask)

    def on_unmount(self) -> None:
        """Let a download end: it belongs to this screen."""
        self._stopped.set()

    def _work(self, work: Callable[[], None]) -> None:
        self.run_worker(work, thread=True, exclusive=True, group="fetch", exit_on_error=False)

    def _ask(self) -> None:
        from llamaforge.catalog.hub_plan import plan_download  # noqa: PLC0415 - seldom

        try:
            self.post_message(self.Planned(plan_download(self._repo)))
        except LlamaForgeError as error:
            self.post_message(self.Ended(error))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Say that it failed for a reason nobody foresaw."""
        if event.state is WorkerState.ERROR:
            self.log.error(event.worker.error)
            words = f"It failed: {redact(repr(event.worker.error))}."
            self.post_message(self.Ended(LlamaForgeError(words, "Close this and try again.")))

    def on_download_screen_planned(self, message: Planned) -> None:
        """Show what would be fetched, and wait for the key."""
        self._plan = message.plan
        self.query_one("#plan", Lines).show(partial(_plan_lines, message.plan))
        self._say("Press y to download it, or Esc to leave it.")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim what cannot be done now."""
        del parameters
        return True if action != "begin" or (self._plan and not self._at_work) else None

    def action_begin(self) -> None:
        """Fetch it; what an earlier attempt has fetched is gone on with."""
        if self._plan is None or self._at_work:
            return
        self._at_work, self._pace, self._progress = True, Pace(), None
        self.refresh_bindings()
        self._say("Connecting …")
        self._work(partial(self._fetch, self._plan))

    def _fetch(self, plan: "DownloadPlan") -> None:
        from llamaforge.catalog.hub_download import download  # noqa: PLC0415 - seldom

        def tell(progress: "Progress") -> None:
            self.post_message(self.Progressed(progress, self._clock()))

        try:
            download(plan, tell, self._stopped.is_set)
        except LlamaForgeError as error:
            self.post_message(self.Ended(error))
        else:
            self.post_message(self.Ended())

    def on_download_screen_progressed(self, message: Progressed) -> None:
        """Show how far it is."""
        marks = self._pace.marks
        if not marks or message.progress.done_bytes > marks[-1][0]:
            self._pace = self._pace.extended([(message.progress.done_bytes, message.seconds)])
        self._progress = message.progress
        lines = partial(_progress_lines, message.progress, self._pace)
        self.query_one("#state", Lines).show(lines)

    def on_download_screen_ended(self, message: Ended) -> None:
        """Answer, or say what went wrong; the key tries again."""
        self._at_work = False
        if message.error is None:
            self.dismiss(True)
            return
        again = "y tries again, and goes on with what is there." if self._plan else ""
        error = message.error
        self._say(f"{error.message} {error.hint}", again, bad=True)
        self.refresh_bindings()

    def action_close(self) -> None:
        """Stop a download, and close: what has been fetched stays."""
        self._stopped.set()
        self.dismiss(False)

    def _say(self, text: str, hint: str = "", *, bad: bool = False) -> None:
        words = Content.styled(safe_line(text, limit=400), "$text-error" if bad else MUTED)
        more = Content.styled(hint, MUTED)
        self.query_one("#state", Lines).show(
            lambda width: [*words.wrap(width), *(more.wrap(width) if hint else ())]
        )


def _plan_lines(plan: "DownloadPlan", width: int) -> list[Content]:
    there = plan.total_bytes - plan.fetch_bytes
    rest = f" of {size_words(plan.total_bytes)}; the rest is here" if there else ""
    gated = "its makers ask you to accept their terms on its page first" if plan.gated else ""
    pairs = [
        ("base", safe_line(plan.repo, limit=80)),
        ("to fetch", f"{size_words(plan.fetch_bytes)}{rest}"),
        ("free", f"{size_words(plan.free_bytes)} on the disk of the Hub's cache"),
        ("licence", safe_line(plan.license or "", limit=40) or "not stated"),
        ("gated", gated),
        ("page", safe_line(plan.page, limit=120)),
    ]
    return [*facts(pairs, width), Content("")]


def _progress_lines(progress: "Progress", pace: Pace, width: int) -> list[Content]:
    done, total = progress.done_bytes, max(progress.total_bytes, 1)
    percent = percent_words(int(100 * done / total) / 100)
    words = f"{size_words(done)} of {size_words(total)}"
    marks, left = pace.marks, pace.seconds_left(total)
    if len(marks) > 1 and marks[-1][1] > marks[0][1]:
        speed = (marks[-1][0] - marks[0][0]) / (marks[-1][1] - marks[0][1])
        words += f", {size_words(speed)} a second"
    if left is not None:
        words += f", {range_words(*left)} left"
    room = max(width - len(percent) - 1, _NARROWEST)
    full = min(round(room * done / total), room)
    return [
        Content.assemble(("━" * full, "$primary"), ("─" * (room - full), MUTED), f" {percent}"),
        *Content(words).wrap(width),
        *Content.styled(safe_line(progress.name, limit=120), MUTED).wrap(width),
        Content.styled("Esc stops it. What was fetched stays.", MUTED),
    ]
