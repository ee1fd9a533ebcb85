"""The rows as the model will see them, one at a time: their tokens and what is learned of them."""

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer

from llamaforge.errors import LlamaForgeError
from llamaforge.runs.previews import PreviewAnswer
from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.token_view import row_lines
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.row_files import RowFiles, file_word, files_for
from llamaforge.wizard.row_preview import NO_ROW, token_row


class RowsScreen(ForgeScreen[None]):
    """Shows one row; the keys go to the next and the one before."""

    CSS = """
    RowsScreen #page { padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,n", "go(1)", "Next row", key_display="→", id="rows.next"),
        Binding("left,p", "go(-1)", "Row before", key_display="←", id="rows.before"),
        Binding("f", "other_file", "Next file", id="rows.file"),
        Binding("escape", "app.pop_screen", "Back", id="rows.back"),
    ]
    HELP_TITLE = "A row as tokens"
    HELP_LINES = (
        "This is one of your rows, written as the model will read it, with its own chat template. "
        "The signs under the text say what is learned: the answers, and the token that ends them. "
        "The questions are read and not learned.",
        "Behind the last row of a file come those of the next one; f goes there at once.",
    )

    class Rendered(Message):
        """A row was rendered, or could not be."""

        def __init__(
            self,
            place: tuple[int, int],
            files: RowFiles,
            answer: PreviewAnswer | None,
            problem: LlamaForgeError | None = None,
        ) -> None:
            super().__init__()
            self.place = place
            """Of the file, from 0, and of the row in it, from 1."""
            self.files = files
            self.answer = answer
            self.problem = problem

    def __init__(self, draft: Draft, known: Facts) -> None:
        super().__init__()
        self._draft = draft
        self._files = known.files
        self.file = 0
        self.row = 1
        self._shown: tuple[int, int] | None = None
        """The file and the row on the screen; None before there is one."""

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        yield TitleBar()
        with VerticalScroll(id="page"):
            yield Lines(id="row")
        yield Footer()

    def on_mount(self) -> None:
        """Render the first row."""
        self.query_one("#page").focus()
        self._render_row()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the way to another file where there is none."""
        del parameters
        return action != "other_file" or (self._files is not None and len(self._files.paths) > 1)

    def _show_title(self) -> None:
        paths = self._files.paths if self._files is not None else ()
        where = f"{file_word(paths[self.file])}, " if len(paths) > 1 else ""
        self.query_one(TitleBar).tell(f"Your rows as tokens  {where}row {self.row:,}")

    def _render_row(self) -> None:
        self._show_title()
        self.query_one("#row", Lines).show(lambda width: [Content.styled("rendering …", MUTED)])
        place, draft, known = (self.file, self.row), self._draft, self._files

        def work() -> None:
            files = files_for(draft, known)
            try:
                answer = token_row(draft, files, *place)
            except LlamaForgeError as error:
                self.post_message(self.Rendered(place, files, None, error))
            else:
                self.post_message(self.Rendered(place, files, answer))

        self.work_in_thread(work, group="rows")

    def on_rows_screen_rendered(self, message: Rendered) -> None:
        """Show the row, unless another one is wanted by now."""
        self._files = message.files
        self.refresh_bindings()
        if message.place != (self.file, self.row):
            return
        error = message.problem
        if error is not None and error.code == NO_ROW and self._shown is not None:
            self._behind_the_last()
            return
        self._shown = message.place
        self._show_title()
        lines = self.query_one("#row", Lines)
        if message.answer is not None:
            lines.show(partial(row_lines, message.answer))
        elif error is not None:
            words = safe_line(f"{error.message} {error.hint}", limit=400)
            lines.show(Content.styled(words, "$text-warning").wrap)

    def _behind_the_last(self) -> None:
        """Go to the next file, or stay with the last row."""
        assert self._files is not None  # noqa: S101 - a row was shown
        if self.row > 1 and self.file + 1 < len(self._files.paths):
            self.file, self.row = self.file + 1, 1
        elif self._shown is not None:
            self.file, self.row = self._shown
            self.tell("That was the last row.")
        self._render_row()

    def action_go(self, by: int) -> None:
        """Go to another row."""
        if self.row + by >= 1:
            self.row += by
        elif self.file > 0:
            self.file, self.row = self.file - 1, 1
        else:
            return
        self._render_row()

    def action_other_file(self) -> None:
        """Go to the first row of the next file; behind the last comes the first."""
        if self._files is not None:
            self.file, self.row = (self.file + 1) % len(self._files.paths), 1
            self._render_row()
