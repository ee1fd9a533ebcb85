"""The list of all runs, newest first, kept up to date."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Footer

from llamaforge import paths
from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import RunState, open_run
from llamaforge.tui.run_list import RunList, RunRow
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.store_view import short_path
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.notice import Notice
from llamaforge.tui.widgets.run_parts import STATE_MARKS
from llamaforge.tui.widgets.title_bar import TitleBar

_COLUMNS: Final = (
    ("RUN", 18),
    ("MODEL", 18),
    ("STATE", 10),
    ("PROGRESS", 20),
)
_WIDE_COLUMNS: Final = (
    ("RUN", 26),
    ("MODEL", 24),
    ("STATE", 10),
    ("PROGRESS", 20),
    ("LOSS", 8),
    ("CREATED", 16),
)


class RunsScreen(FollowingScreen[None]):
    """A table of runs; Enter watches one."""

    CSS_PATH = "runs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "watch", "Watch", priority=True, id="history.watch"),
        Binding("escape", "app.pop_screen", "Back", id="history.back"),
    ]
    HELP_TITLE = "Runs"
    HELP_LINES = (
        "A run is one training from its rows to the finished adapter. Its worker is a process of "
        "its own: it goes on when you leave this program, and you can come back to it here.",
        "lost means that a run's process ended without a last word, as when the machine is "
        "restarted. Such a run goes on from its last checkpoint with: llamaforge runs resume",
    )

    @dataclass
    class Read(Message):
        """The runs were read."""

        rows: tuple[RunRow, ...]
        error: str = ""

        def can_replace(self, message: Message) -> bool:
            """Let a newer list take the place of one that is not shown yet."""
            return isinstance(message, RunsScreen.Read)

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._list = RunList()
        self._rows: tuple[RunRow, ...] = ()
        self._was_read = False

    def compose(self) -> ComposeResult:
        """Lay out the table, and what stands in its place where there is no run."""
        yield TitleBar()
        table: DataTable[Text] = DataTable(id="table", cursor_type="row")
        yield table
        yield Notice()
        yield Footer()

    def read(self) -> Message:
        """Return the runs as they are now."""
        try:
            return self.Read(self._list.read())
        except OSError as error:
            return self.Read((), error.strerror or "it cannot be listed")

    def on_runs_screen_read(self, message: Read) -> None:
        """Show what was read; cells are changed only where their run did."""
        rows, old = message.rows, self._rows
        if self._was_read and rows == old and not message.error:
            return
        self._was_read, self._rows = True, rows
        table: DataTable[Text] = self.query_one("#table", DataTable)
        if [row.id for row in rows] == [row.id for row in old] and rows:
            for before, after in zip(old, rows, strict=True):
                if before != after:
                    self._change_row(table, after)
        else:
            self._fill(table)
        self._show_title()
        table.display = bool(rows)
        if rows:
            self.query_one(Notice).hide()
            if self.focused is None:
                table.focus()
        else:
            self._show_nothing(message.error)
        self.refresh_bindings()

    def _columns(self) -> tuple[tuple[str, int], ...]:
        return _WIDE_COLUMNS if self.size.width >= 118 else _COLUMNS

    def _fill(self, table: "DataTable[Text]") -> None:
        kept = self._highlighted()
        table.clear(columns=True)
        for title, width in self._columns():
            table.add_column(title, width=width, key=title)
        for row in self._rows:
            table.add_row(*self._cells(row).values(), key=row.id)
        ids = [row.id for row in self._rows]
        table.move_cursor(row=ids.index(kept) if kept in ids else 0)

    def _change_row(self, table: "DataTable[Text]", row: RunRow) -> None:
        for title, cell in self._cells(row).items():
            table.update_cell(row.id, title, cell)

    def _cells(self, row: RunRow) -> dict[str, Text]:
        mark, _ = STATE_MARKS[row.state]
        texts = {
            "RUN": row.id,
            "MODEL": row.model,
            "STATE": f"{mark} {row.state.value}",
            "PROGRESS": row.progress,
            "LOSS": row.loss,
            "CREATED": row.created,
        }
        cells = {
            title: Text(texts[title], no_wrap=True, overflow="ellipsis")
            for title, _ in self._columns()
        }
        cells["STATE"].stylize(self._state_style(row.state))
        return cells

    def _state_style(self, state: RunState) -> str:
        theme = self.app.current_theme
        styles = {
            RunState.RUNNING: theme.primary,
            RunState.FINISHED: theme.success,
            RunState.STOPPED: theme.warning,
            RunState.FAILED: theme.error,
            RunState.LOST: theme.error,
        }
        return styles.get(state) or ""

    def _show_title(self) -> None:
        running = sum(row.state is RunState.RUNNING for row in self._rows)
        count = len(self._rows)
        words = f"{count} {'run' if count == 1 else 'runs'}, {running} at work" if count else ""
        place = f"Runs  {short_path(paths.runs_folder())}"
        self.query_one(TitleBar).tell(place, Content.styled(words, MUTED))

    def _show_nothing(self, error: str) -> None:
        notice = self.query_one(Notice)
        if error:
            text = f"The folder {paths.runs_folder()} cannot be read: {error}."
            mark = Content.styled("✗", "bold $text-error")
            notice.tell(mark, text, ("Check its permissions, or set LLAMAFORGE_HOME.",))
        else:
            mark = Content.styled("○", "bold $text-warning")
            hints = (
                "The quickest first run trains the built-in model: llamaforge demo",
                "Or choose a model of yours: press Escape, then Enter on a model.",
            )
            notice.tell(mark, "There are no runs yet.", hints)

    def _highlighted(self) -> str:
        table = self.query_one("#table", DataTable)
        if not table.is_valid_row_index(table.cursor_row):
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def on_resize(self) -> None:
        """Show as many columns as there is room for."""
        if self._rows:
            self._fill(self.query_one("#table", DataTable))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim what needs a run where there is none."""
        del parameters
        return None if action == "watch" and not self._rows else True

    def action_watch(self) -> None:
        """Watch the run under the cursor."""
        name = self._highlighted()
        if not name:
            return
        try:
            run = open_run(name)
        except LlamaForgeError as error:  # it was deleted a moment ago
            self.tell(f"{error.message} {error.hint}", bad=True)
            return
        self.app.push_screen(MonitorScreen(run, self._clock))
