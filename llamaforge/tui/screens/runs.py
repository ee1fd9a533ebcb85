"""The list of all runs, newest first, kept up to date."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Footer

from llamaforge import paths
from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory, RunState, open_run
from llamaforge.runs.removing import remove_run, require_no_worker, run_bytes
from llamaforge.tui.run_list import RunList, RunRow
from llamaforge.tui.screens.base import FollowingScreen
from llamaforge.tui.screens.dialogs import Question
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.store_view import short_path
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.notice import Notice
from llamaforge.tui.widgets.run_parts import STATE_MARKS
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.words import plural, size_words

_COLUMNS: Final = (
    (" ", 1),
    ("RUN", 0),
    ("MODEL", 0),
    ("STATE", 10),
    ("PROGRESS", 17),
    ("LOSS", 6),
)
_WIDE_COLUMNS: Final = (
    (" ", 1),
    ("RUN", 0),
    ("MODEL", 0),
    ("STATE", 10),
    ("PROGRESS", 17),
    ("LOSS", 7),
    ("HELD-OUT", 8),
    ("RIGHT", 11),
    ("CREATED", 10),
)
_AROUND: Final = 4
"""Cells beside the columns: a margin on either side, and a scrollbar."""
_PADDING: Final = 2
_LEAST_NAME: Final = 10
_OF_A_RUN: Final = frozenset({"watch", "mark", "reuse", "delete"})
_MARK: Final = "●"


class RunsScreen(FollowingScreen[None]):
    """A table of runs; Enter watches one."""

    CSS_PATH = "runs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "watch", "Open", priority=True, id="history.watch"),
        Binding("space", "mark", "Mark", id="history.mark"),
        Binding("c", "compare", "Compare", id="history.compare"),
        Binding("r", "reuse", "Reuse", id="history.reuse"),
        Binding("delete,backspace", "delete", "Delete…", key_display="del", id="history.delete"),
        Binding("escape", "app.pop_screen", "Back", id="history.back"),
    ]
    HELP_TITLE = "Runs"
    HELP_LINES = (
        "A run is one training from its rows to the finished adapter. Its worker is a process of "
        "its own: it goes on when you leave this program, and you can come back to it here.",
        "Mark two or more with Space and press c: their curves are drawn over each other, and what "
        "differs in their recipes is listed. r opens the wizard with a run's recipe. RIGHT is how "
        "many held-out rows were answered exactly, before and after training.",
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

    @dataclass
    class Measured(Message):
        """What would be deleted was counted."""

        runs: tuple[RunDirectory, ...]
        size: int

    @dataclass
    class Told(Message):
        """Something was done, or could not be."""

        text: str
        is_bad: bool = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._list = RunList()
        self._rows: tuple[RunRow, ...] = ()
        self._was_read = False
        self._marked: set[str] = set()

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
        self._marked &= {row.id for row in rows}
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
        """Return the columns with their widths; the names share what the figures leave."""
        width = self.size.width
        columns = _WIDE_COLUMNS if width >= 118 else _COLUMNS
        fixed = sum(cells for _, cells in columns) + _PADDING * len(columns)
        names = max(width - _AROUND - fixed, 2 * _LEAST_NAME)
        run = max((len(row.id) for row in self._rows), default=0)
        model = max((len(row.model) for row in self._rows), default=0)
        run = min(max(names - model, min(run, names * 3 // 5)), names - _LEAST_NAME)
        own = {"RUN": run, "MODEL": names - run}
        return tuple((title, own.get(title, cells)) for title, cells in columns)

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
            " ": _MARK if row.id in self._marked else "",
            "RUN": row.id,
            "MODEL": row.model,
            "STATE": f"{mark} {row.state.value}",
            "PROGRESS": row.progress,
            "LOSS": row.loss,
            "HELD-OUT": row.held_out,
            "RIGHT": row.right,
            "CREATED": row.created[:10],
        }
        cells = {
            title: Text(texts[title], no_wrap=True, overflow="ellipsis")
            for title, _ in self._columns()
        }
        cells[" "].stylize(self.app.current_theme.primary)
        cells["STATE"].stylize(self._state_style(row.state))
        return cells

    def _state_style(self, state: RunState) -> str:
        theme = self.app.current_theme
        styles = {
            RunState.RUNNING: theme.primary,
            RunState.PAUSED: theme.warning or theme.primary,
            RunState.FINISHED: theme.success,
            RunState.STOPPED: theme.warning,
            RunState.FAILED: theme.error,
            RunState.LOST: theme.error,
        }
        return styles.get(state) or ""

    def _show_title(self) -> None:
        running = sum(row.state is RunState.RUNNING for row in self._rows)
        count = len(self._rows)
        words = f"{plural(count, 'run')}, {running:,} at work" if count else ""
        place = f"History  {short_path(paths.runs_folder())}"
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
        """Dim what needs a run where there is none, and comparing where there are not two."""
        del parameters
        if action == "compare":
            return len(self._compared()) > 1 or None
        return None if action in _OF_A_RUN and not self._rows else True

    def action_watch(self) -> None:
        """Watch the run under the cursor."""
        run = self._opened(self._highlighted())
        if run is None:
            return
        self.app.push_screen(MonitorScreen(run, self._clock))

    def _compared(self) -> list[str]:
        """Return the runs that are compared: those marked and the one under the cursor."""
        if not self._rows:
            return []
        chosen = self._marked | ({self._highlighted()} if len(self._marked) < 2 else set())
        return [row.id for row in self._rows if row.id in chosen]

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take its mark away, and go on to the next."""
        name = self._highlighted()
        row = next((row for row in self._rows if row.id == name), None)
        if row is None:
            return
        self._marked ^= {name}
        table: DataTable[Text] = self.query_one("#table", DataTable)
        self._change_row(table, row)
        table.action_cursor_down()
        self.refresh_bindings()

    def on_data_table_row_highlighted(self) -> None:
        """What can be done depends on where the cursor is."""
        self.refresh_bindings()

    def action_compare(self) -> None:
        """Draw the curves of several runs over each other."""
        from llamaforge.tui.screens.comparison import ComparisonScreen  # noqa: PLC0415

        runs = [run for name in self._compared() if (run := self._opened(name)) is not None]
        if len(runs) > 1:
            self.app.push_screen(ComparisonScreen(runs))

    def action_reuse(self) -> None:
        """Open the wizard with the recipe of the run under the cursor."""
        from llamaforge.tui import navigation  # noqa: PLC0415
        from llamaforge.wizard.reusing import reused  # noqa: PLC0415

        run = self._opened(self._highlighted())
        if run is None:
            return
        try:
            found = reused(RunSpec.load(run.spec_file))
        except LlamaForgeError as error:
            self.tell(f"{error.message} {error.hint}", bad=True)
            return
        navigation.open_wizard(self.app, found.draft)
        for part in found.left_out:
            self.tell(f"Of the run {run.id}, {part} is left out.")

    def action_delete(self) -> None:
        """Ask whether to delete the marked runs, or the one under the cursor."""
        names = self._marked or {self._highlighted()}
        runs = [run for name in sorted(names) if (run := self._opened(name)) is not None]
        if runs:
            self.run_worker(partial(self._measure, runs), thread=True, group="delete")

    def _measure(self, runs: list[RunDirectory]) -> None:
        """Count what would be freed; runs in a thread."""
        try:
            for run in runs:
                require_no_worker(run)
        except LlamaForgeError as error:
            self.post_message(self.Told(f"{error.message} {error.hint}", is_bad=True))
            return
        self.post_message(self.Measured(tuple(runs), sum(map(run_bytes, runs))))

    def on_runs_screen_measured(self, message: Measured) -> None:
        """Ask, with what it frees."""
        names = ", ".join(run.id for run in message.runs)
        many = len(message.runs) > 1
        question = Question(
            f"Delete {len(message.runs)} runs?" if many else f"Delete the run {names}?",
            f"{names}: rows, checkpoints, results and log are gone for good; this frees "
            f"{size_words(message.size)}. What was published or exported elsewhere stays.",
            yes="Delete",
            no="Keep",
        )
        self.app.push_screen(
            question, lambda yes: self._delete(message.runs, message.size) if yes else None
        )

    def _delete(self, runs: tuple[RunDirectory, ...], size: int) -> None:
        def work() -> None:
            try:
                for run in runs:
                    remove_run(run)
            except LlamaForgeError as error:
                self.post_message(self.Told(f"{error.message} {error.hint}", is_bad=True))
            else:
                self.post_message(self.Told(f"Deleted; {size_words(size)} are free again."))

        self.run_worker(work, thread=True, group="delete", exit_on_error=False)

    def on_runs_screen_told(self, message: Told) -> None:
        """Say what came of it."""
        self.tell(message.text, bad=message.is_bad)

    def _opened(self, name: str) -> RunDirectory | None:
        try:
            return open_run(name) if name else None
        except LlamaForgeError as error:  # it was deleted a moment ago
            self.tell(f"{error.message} {error.hint}", bad=True)
            return None
