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
from llamaforge.wizard.row_preview import token_row


class RowsScreen(ForgeScreen[None]):
    """Shows one row; the keys go to the next and the one before."""

    CSS = """
    RowsScreen #page { padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,n", "go(1)", "Next row", key_display="→", id="rows.next"),
        Binding("left,p", "go(-1)", "Row before", key_display="←", id="rows.before"),
        Binding("escape", "app.pop_screen", "Back", id="rows.back"),
    ]
    HELP_TITLE = "A row as tokens"
    HELP_LINES = (
        "This is one of your rows, written as the model will read it, with its own chat template. "
        "The signs under the text say what is learned: the answers, and the token that ends them. "
        "The questions are read and not learned.",
    )

    class Rendered(Message):
        """A row was rendered, or could not be."""

        def __init__(self, row: int, answer: PreviewAnswer | None, problem: str = "") -> None:
            super().__init__()
            self.row = row
            self.answer = answer
            self.problem = problem

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self.row = 1
        self.shown = 0
        """The row that is on the screen; 0 before there is one."""

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

    def _render_row(self) -> None:
        self.query_one(TitleBar).tell(f"Your rows as tokens  row {self.row:,}")
        self.query_one("#row", Lines).show(lambda width: [Content.styled("rendering …", MUTED)])
        number, draft = self.row, self._draft

        def work() -> None:
            try:
                self.post_message(self.Rendered(number, token_row(draft, number)))
            except LlamaForgeError as error:
                words = safe_line(f"{error.message} {error.hint}", limit=400)
                self.post_message(self.Rendered(number, None, words))

        self.run_worker(work, thread=True, exclusive=True, group="rows", exit_on_error=False)

    def on_rows_screen_rendered(self, message: Rendered) -> None:
        """Show the row, unless another one is wanted by now."""
        if message.row != self.row:
            return
        self.shown = message.row
        lines = self.query_one("#row", Lines)
        if message.answer is not None:
            lines.show(partial(row_lines, message.answer))
        else:
            lines.show(Content.styled(message.problem, "$text-warning").wrap)

    def action_go(self, by: int) -> None:
        """Go to another row."""
        if self.row + by >= 1:
            self.row += by
            self._render_row()
