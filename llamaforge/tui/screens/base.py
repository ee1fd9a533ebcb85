"""What every screen can do: say what it is for, and follow files from a thread."""

import threading
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from textual.message import Message
from textual.screen import Screen
from textual.worker import Worker, WorkerState, get_current_worker

from llamaforge.safe_text import safe_line

_Answer = TypeVar("_Answer")


class ForgeScreen(Screen[_Answer], Generic[_Answer]):
    """A whole screen of the program; it may answer the screen that opened it."""

    HELP_TITLE: ClassVar[str] = ""
    HELP_LINES: ClassVar[tuple[str, ...]] = ()
    """Sentences for somebody who sees the screen for the first time."""
    _allowed: tuple[bool | None, ...] = ()

    @property
    def would_lose(self) -> str:
        """What would be lost if the program ended now, in a sentence; empty where nothing is."""
        return ""

    @property
    def live_run(self) -> str:
        """The run that is watched and goes on without the program; empty where none is."""
        return ""

    def tell(self, text: str, *, bad: bool = False) -> None:
        """Show a passing message; text from outside is made safe here."""
        self.notify(safe_line(text), severity="error" if bad else "information", markup=False)

    def work_in_thread(self, work: Callable[[], None], *, group: str) -> None:
        """Do something long in a thread; what it asks of processes ends with the screen.

        Of each group the newest alone is done.
        """

        def stoppable_work() -> None:
            from llamaforge.runs.asking import stoppable  # noqa: PLC0415 - after first paint

            worker = get_current_worker()
            with stoppable(lambda: worker.is_cancelled):
                work()

        self.run_worker(
            stoppable_work, thread=True, exclusive=True, group=group, exit_on_error=False
        )

    def refresh_keys(self) -> None:
        """Show which keys do something now, if that is not what is shown.

        The line of keys is laid out anew each time, which takes longer than anything else here.
        """
        actions = {binding.action.partition("(")[0]: binding for _, binding in self._bindings}
        allowed = tuple(self.check_action(action, ()) for action in actions)
        if allowed != self._allowed:
            self._allowed = allowed
            self.refresh_bindings()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Say that reading failed for a reason nobody foresaw; the screen goes on."""
        if event.state is WorkerState.ERROR:
            self.log.error(event.worker.error)
            self.tell(f"Reading failed: {event.worker.error!r}", bad=True)


class FollowingScreen(ForgeScreen[_Answer], Generic[_Answer]):
    """A screen that reads files again and again, in a thread, as long as it is open."""

    PERIOD_SECONDS: ClassVar[float] = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._left = threading.Event()
        self._is_seen = threading.Event()
        self._is_seen.set()

    def on_mount(self) -> None:
        """Begin to follow once the screen has been painted."""
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self.run_worker(self._follow, thread=True, group="follow", exit_on_error=False)

    def on_screen_suspend(self) -> None:
        """Rest while another screen hides it; behind a small one it is still seen."""
        if not self.app.screen.is_modal:
            self._is_seen.clear()

    def on_screen_resume(self) -> None:
        """Go on where it is seen again."""
        self._is_seen.set()

    def on_unmount(self) -> None:
        """Cease to follow, at once."""
        self._left.set()
        self._is_seen.set()

    def read(self) -> Message:
        """Return what the files say now; runs in the thread and must not touch widgets."""
        raise NotImplementedError

    def _follow(self) -> None:
        while not self._left.is_set():
            self.post_message(self.read())
            self._left.wait(self.PERIOD_SECONDS)
            self._is_seen.wait()
