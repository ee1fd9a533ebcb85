"""Saying what columns are, with the first rows read so below."""

from collections.abc import Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option as Row

from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.answers import Answered, Pending
from llamaforge.tui.widgets.helpful import Helpful
from llamaforge.tui.widgets.lines import MUTED, Lines, facts
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.wizard.columns import file_words, shown_rows
from llamaforge.wizard.question import Option
from llamaforge.wizard.row_files import RowFiles


class ColumnMapper(Vertical, Helpful, Pending):
    """Ways to read the columns, a line to write another, and what becomes of the first rows."""

    @dataclass
    class Shown(Message):
        """The first rows were read as a mapping says."""

        text: str
        words: Sequence[tuple[str, str]]
        problem: str = ""

    def __init__(self, files: RowFiles, options: Sequence[Option], now: str) -> None:
        """Begin with a mapping of the rows in `files`."""
        super().__init__()
        self._files = files
        self._options = options
        self._now = now

    def help_text(self) -> str:
        """Return what can be written."""
        return (
            "Choose from the list, or write it: prompt=question,completion=answer names two "
            'columns, prompt="{title}: {body}" puts columns together, messages=turns names a list '
            "of turns, and text=body takes a text to go on reading."
        )

    @property
    def pending(self) -> str:
        """A mapping that was written by hand; empty where it is one of the list."""
        text = self.query_one(Input).value.strip()
        return "" if text in {option.value for option in self._options} else text

    def compose(self) -> ComposeResult:
        """Lay out the list, the line and the rows."""
        if self._options:
            yield Menu(
                *(
                    Row(Content.assemble((safe_line(option.title), "bold"),
                                         (f"  {safe_line(option.explanation)}", MUTED)))
                    for option in self._options
                ),
                id="ways",
            )  # fmt: skip
        yield SafeInput(self._now, id="input")
        yield Lines(id="rows")

    def on_mount(self) -> None:
        """Stand on the way that is taken now."""
        values = [option.value for option in self._options]
        if self._options:
            menu = self.query_one(OptionList)
            menu.highlighted = values.index(self._now) if self._now in values else 0
            menu.focus()
        else:
            self.query_one(Input).focus()
        self._look(self._now)

    @on(OptionList.OptionHighlighted)
    def on_other_way(self, event: OptionList.OptionHighlighted) -> None:
        """Write the way under the cursor into the line, which shows the rows."""
        event.stop()
        if self.query_one(OptionList).has_focus:
            self.query_one(Input).value = self._options[event.option_index].value

    @on(Input.Changed)
    def on_written(self, event: Input.Changed) -> None:
        """Show the rows as they would be read."""
        event.stop()
        self._look(event.value.strip())

    @on(OptionList.OptionSelected)
    def on_way(self, event: OptionList.OptionSelected) -> None:
        """Take a way from the list."""
        event.stop()
        self.post_message(Answered(self._options[event.option_index].value))

    @on(Input.Submitted)
    def on_entered(self, event: Input.Submitted) -> None:
        """Take what is written."""
        event.stop()
        self.post_message(Answered(event.value.strip()))

    def _look(self, text: str) -> None:
        files = self._files

        def work() -> None:
            try:
                found = shown_rows(files, text)
            except (LlamaForgeError, OSError) as error:
                self.post_message(self.Shown(text, (), safe_line(str(error), limit=300)))
            else:
                words = [pair for shown in found for pair in file_words(shown)]
                self.post_message(self.Shown(text, words))

        self.run_worker(work, thread=True, exclusive=True, group="rows", exit_on_error=False)

    def on_column_mapper_shown(self, message: Shown) -> None:
        """Show the rows, unless something else was written meanwhile."""
        if message.text != self.query_one(Input).value.strip():
            return

        def build(width: int) -> list[Content]:
            if message.problem:
                return list(Content.styled(message.problem, "$text-warning").wrap(width))
            head = [Content.styled("Your first rows, read so", "bold")] if message.words else []
            return head + facts(message.words, width)

        self.query_one("#rows", Lines).show(build)
