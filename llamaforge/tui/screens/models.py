"""The models of a store: which can be trained, why the others cannot, and how to begin."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.message import Message
from textual.widgets import DataTable, Footer
from textual.worker import get_current_worker

from llamaforge.catalog.model import ModelStatus, StoredModel
from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.screens.dialogs import Commands, Question
from llamaforge.tui.screens.runs import RunsScreen
from llamaforge.tui.screens.wizard import WizardScreen
from llamaforge.tui.store_view import (
    StoreChoice,
    StoreContent,
    detail_lines,
    place_words,
    read_store,
    row_cells,
    train_commands,
)
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.notice import Notice
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.wizard.draft import Draft, kept_draft
from llamaforge.wizard.facts import Facts, measured

_COLUMNS: Final = (("PARAMS", 6), ("QUANT", 7), ("SIZE", 7), ("CONTEXT", 8), ("STATUS", 14))
_LEAST_NAME: Final = 12
_LEAST_STACK: Final = 2
"""Screens under which there is none to go back to: Textual's own and this one."""
_NUMBERS: Final = frozenset({1, 3, 4})
"""Columns with numbers, which end at the same place; the name is column 0."""


class ModelsScreen(ForgeScreen[None]):
    """A table of models with the one that is chosen in detail."""

    CSS_PATH = "models.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "train", "Train", priority=True, id="models.train"),
        Binding("c", "commands", "As a command", id="models.commands"),
        Binding("r", "runs", "Runs", id="models.runs"),
        Binding("s", "switch_store", "Other store", id="models.switch_store"),
        Binding("u", "look_again", "Look again", id="models.look_again"),
        Binding("escape", "back", "Back", id="models.back"),
    ]
    HELP_TITLE = "Models"
    HELP_LINES = (
        "These are the models in your Ollama store. A model that is ready can be trained on "
        "rows of your own: the weights that Ollama serves stay as they are, and a small adapter "
        "is trained on top of them.",
        "Where a model cannot be trained, choose it to read why, and what to do.",
    )

    @dataclass
    class Read(Message):
        """A store was read."""

        content: StoreContent

    def __init__(
        self, choices: tuple[StoreChoice, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._clock = clock
        self._choices = choices
        self._chosen = 0
        self._content = StoreContent(choices[0])

    @property
    def choice(self) -> StoreChoice:
        """The store that is shown."""
        return self._choices[self._chosen]

    def compose(self) -> ComposeResult:
        """Lay out the table, the detail and what stands in their place where there is nothing."""
        yield TitleBar()
        with Container(id="models"):
            table: DataTable[Text] = DataTable(id="table", cursor_type="row")
            yield table
            with VerticalScroll(id="detail"):
                yield Lines(id="facts")
        yield Notice()
        yield Footer()

    def on_mount(self) -> None:
        """Read the store."""
        self._look()

    def _look(self) -> None:
        self._show_title("reading …")
        self.run_worker(
            partial(self._read, self.choice),
            thread=True,
            exclusive=True,
            group="store",
            exit_on_error=False,
        )

    def _read(self, choice: StoreChoice) -> None:
        for content in read_store(choice):
            if get_current_worker().is_cancelled:
                return
            self.post_message(self.Read(content))

    def on_models_screen_read(self, message: Read) -> None:
        """Show what was read, unless another store was chosen meanwhile."""
        content = message.content
        if content.choice != self.choice:
            return
        kept = self._highlighted()
        before, self._content = self._content, content
        models = self.query_one("#models")
        was_hidden = not models.display or not before.models
        models.display = bool(content.models)
        if content.models:
            self.query_one(Notice).hide()
            self._show_counts()
            if content.models == before.models and not was_hidden:
                self._show_detail()  # the same models, and now with their bases
            else:
                self._fill(kept.full_name if kept else "")
            if was_hidden:
                # A table that was hidden until now learns its width only when it is laid out.
                self.call_after_refresh(self._fill_again)
                self.query_one(DataTable).focus()
            for note in content.notes if content.listed else ():
                self.tell(f"{note.message} {note.hint}", bad=True)
        else:
            self._show_nothing(content)
        self.refresh_bindings()

    def _show_counts(self) -> None:
        models = self._content.models
        ready = sum(model.status is ModelStatus.READY for model in models)
        words = f"{ready} of {len(models)} ready to train"
        if len(models) < self._content.total:
            words = f"reading {len(models):,} of {self._content.total:,} …"
        self._show_title(words)

    def _show_nothing(self, content: StoreContent) -> None:
        demo = "Press s to look at the built-in demo store." if len(self._choices) > 1 else ""
        notice = self.query_one(Notice)
        if content.error is not None:
            self._show_title("no store")
            mark = Content.styled("✗", "bold $text-error")
            notice.tell(mark, content.error.message, (content.error.hint, demo))
        else:
            self._show_title("no models")
            mark = Content.styled("○", "bold $text-warning")
            hints = ("Pull one with: ollama pull qwen2.5:3b", "Then press u to look again.", demo)
            notice.tell(mark, "This store has no models yet.", hints)

    def _show_title(self, words: str) -> None:
        place = f"{self.choice.title}  {place_words(self._content)}".rstrip()
        self.query_one(TitleBar).tell(place, Content.styled(words, MUTED))

    def _fill(self, name: str) -> None:
        """Fill the table, with the cursor on the model whose full name is `name`."""
        table: DataTable[Text] = self.query_one("#table", DataTable)
        table.clear(columns=True)
        fixed = sum(width + 2 * table.cell_padding for _, width in _COLUMNS)
        room = table.size.width - fixed - 2 * table.cell_padding - 1  # a column for the scrollbar
        longest = max((len(safe_line(model.name)) for model in self._content.models), default=0)
        name_width = max(min(room, max(longest, 24)), _LEAST_NAME)
        table.add_column("NAME", width=name_width)
        for number, (title, width) in enumerate(_COLUMNS, start=1):
            justify = "right" if number in _NUMBERS else "left"
            table.add_column(Text(title, justify=justify), width=width)  # type: ignore[arg-type]
        styles = self._status_styles()
        for model in self._content.models:
            cells = [Text(cell, no_wrap=True) for cell in row_cells(model, name_width)]
            for number in _NUMBERS:
                cells[number].justify = "right"
            cells[-1].stylize(styles[model.status])
            table.add_row(*cells)
        models = enumerate(self._content.models)
        rows = [row for row, model in models if model.full_name == name]
        table.move_cursor(row=rows[0] if rows else 0)
        self._show_detail()

    def _status_styles(self) -> dict[ModelStatus, str]:
        theme = self.app.current_theme
        bad, quiet = theme.error or "", "dim"
        return {
            ModelStatus.READY: theme.success or "",
            ModelStatus.PARTIAL: theme.warning or "",
            ModelStatus.MISSING_BLOB: bad,
            ModelStatus.REMOTE: quiet,
            ModelStatus.UNSUPPORTED: quiet,
            ModelStatus.BROKEN: bad,
        }

    def _highlighted(self) -> StoredModel | None:
        row = self.query_one(DataTable).cursor_row
        models = self._content.models
        return models[row] if 0 <= row < len(models) else None

    def _show_detail(self) -> None:
        model = self._highlighted()
        if model is not None:
            listed = next((item for item in self._content.listed if item.model is model), None)
            self.query_one("#facts", Lines).show(
                partial(detail_lines, model, listed, self._content)
            )
            self.query_one("#detail").scroll_home(animate=False)

    @on(DataTable.RowHighlighted)
    def on_other_model(self) -> None:
        """Show the model under the cursor."""
        self._show_detail()
        self.refresh_bindings()

    def on_resize(self, event: Resize) -> None:
        """Give the names the room that there is now."""
        del event
        self.call_after_refresh(self._fill_again)

    def _fill_again(self) -> None:
        kept = self._highlighted()
        if kept is not None:
            self._fill(kept.full_name)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim what cannot be done with the model under the cursor."""
        del parameters
        if action == "switch_store":
            return len(self._choices) > 1
        if action == "back":
            return len(self.app.screen_stack) > _LEAST_STACK
        if action in {"train", "commands"} and self.is_mounted:
            model = self._highlighted()
            return True if model and model.status is ModelStatus.READY else None
        return True

    def _trainable(self) -> StoredModel | None:
        """Return the model under the cursor, or say why it cannot be trained."""
        model = self._highlighted()
        if model is not None and model.problem is not None:
            name = safe_line(model.name, limit=50)
            self.tell(f"{name} cannot be trained: {model.problem.reason}.", bad=True)
            return None
        return model

    def action_train(self) -> None:
        """Begin to ask how the model under the cursor shall be trained."""
        model = self._trainable()
        if model is None:
            return
        store = "" if self.choice.root is None else str(self.choice.root)
        draft = Draft(model=model.name, store=store)
        kept = kept_draft(draft.model, draft.store)
        if kept is None:
            self._ask(draft)
            return
        question = Question(
            "Go on?",
            "You answered some questions about this model before and began no run.",
            "Go on with them",
            "Begin anew",
        )
        self.app.push_screen(question, lambda yes: self._ask(kept if yes else draft))

    def _ask(self, draft: Draft) -> None:
        facts = Facts(measured(), self._content.models)
        self.app.push_screen(WizardScreen(draft, facts, self._clock))

    def action_commands(self) -> None:
        """Show the command that trains the model under the cursor."""
        model = self._trainable()
        if model is not None:
            name = safe_line(model.name, limit=50)
            self.app.push_screen(Commands(f"Train {name}", train_commands(model, self.choice)))

    def action_switch_store(self) -> None:
        """Look at the next store."""
        self._chosen = (self._chosen + 1) % len(self._choices)
        self._look()

    def action_look_again(self) -> None:
        """Read the store again."""
        self._look()

    def action_back(self) -> None:
        """Go to the first screen."""
        self.dismiss()

    def action_runs(self) -> None:
        """Open the list of runs."""
        self.app.push_screen(RunsScreen(self._clock))
