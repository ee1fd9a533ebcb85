"""All answers on one page, with what stands for and against them; from here a run begins."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer

from llamaforge.errors import LlamaForgeError
from llamaforge.runs.directory import RunDirectory
from llamaforge.runs.launcher import launch
from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.monitor import MonitorScreen
from llamaforge.tui.widgets.lines import Lines
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.tui.wizard_view import review_lines
from llamaforge.wizard.beginning import automatic_name, create, prepare
from llamaforge.wizard.checks import Check, checks
from llamaforge.wizard.draft import NO_TRAINING, Draft, forget_draft, write_recipe
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.no_training import write_modelfile
from llamaforge.wizard.questions import advice_for
from llamaforge.wizard.row_files import files_for


class ReviewScreen(Screen[bool]):
    """Shows the recipe and the checks; True is its answer when a run was begun."""

    CSS_PATH = "review.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "begin", "Begin", id="review.begin"),
        Binding("w", "write", "Write it", id="review.write"),
        Binding("c", "copy", "Copy", id="review.copy"),
        Binding("escape", "back", "Back", id="review.back"),
    ]

    class Checked(Message):
        """The checks were made."""

        def __init__(self, found: list[Check]) -> None:
            super().__init__()
            self.found = found

    class Begun(Message):
        """The run was begun, or could not be."""

        def __init__(self, run: RunDirectory | None, problem: str = "") -> None:
            super().__init__()
            self.run = run
            self.problem = problem

    def __init__(
        self,
        draft: Draft,
        facts: Facts,
        clock: Callable[[], float],
        found: list[Check] | None = None,
    ) -> None:
        """Show a draft; checks that are not given are made."""
        super().__init__()
        self._draft = draft.with_whole_paths().with_answers(
            name=draft.name or automatic_name(draft.model)
        )
        self._facts = facts
        self._clock = clock
        self._found = found
        self._beginning = False

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self._draft.goal != NO_TRAINING

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        yield TitleBar()
        with VerticalScroll(id="page"):
            yield Lines(id="review")
        yield Footer()

    def on_mount(self) -> None:
        """Show the recipe, and make the checks in a thread: a server may be asked."""
        self.query_one(TitleBar).tell(f"New run  {safe_line(self._draft.name, limit=60)}")
        self._show()
        self.query_one("#page").focus()
        if self.trains and self._found is None:
            self.run_worker(self._check, thread=True, group="check", exit_on_error=False)

    def _check(self) -> None:
        self.post_message(self.Checked(checks(self._draft, self._facts)))

    def on_review_screen_checked(self, message: Checked) -> None:
        """Show the verdicts."""
        self._found = message.found
        self._show()
        self.refresh_bindings()

    def _show(self) -> None:
        if not self.trains:
            self.query_one("#review", Lines).show(self._no_training_lines)
            return
        advice = advice_for(self._draft, self._facts)
        self.query_one("#review", Lines).show(
            partial(
                review_lines,
                self._draft,
                self._found,
                self._draft.yaml(advice),
                self._draft.command(advice),
            )
        )

    def _no_training_lines(self, width: int) -> list[Content]:
        name = safe_line(self._draft.publish or "the model")
        return [
            *Content.styled("Nothing is trained", "bold $primary").wrap(width),
            *Content(
                "Press w: a Modelfile with your system text and some of your rows as examples is "
                f"written to {self._modelfile()}; the commands that make {name} of it follow."
            ).wrap(width),
        ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim what cannot be done now."""
        del parameters
        if action == "begin":
            if not self.trains:
                return False
            ready = self._found is not None and not any(c.verdict == "fail" for c in self._found)
            return True if ready and not self._beginning else None
        return not (action == "copy" and not self.trains)

    def action_back(self) -> None:
        """Go back to the questions."""
        self.dismiss(False)

    def action_copy(self) -> None:
        """Put the command on the clipboard, as far as the terminal lets a program do so."""
        self.app.copy_to_clipboard(self._draft.command(advice_for(self._draft, self._facts)))
        self._tell("Copied, if your terminal allows it.")

    def action_write(self) -> None:
        """Write the recipe, or the Modelfile, into the current folder."""
        try:
            if not self.trains:
                self._write_modelfile()
                return
            path = Path.cwd() / f"{self._draft.name}.yaml"
            write_recipe(path, self._draft.yaml(advice_for(self._draft, self._facts)))
            self._tell(f"The recipe is {path}")
        except (LlamaForgeError, OSError) as error:
            self._tell(str(error), bad=True)

    def _modelfile(self) -> Path:
        return Path.cwd() / "Modelfile"

    def _write_modelfile(self) -> None:
        draft, path = self._draft, self._modelfile()
        if path.exists():
            self._tell(f"{path} is there already; move it first.", bad=True)
            return
        name = draft.publish or "mine"
        commands = write_modelfile(path, draft, files_for(draft, self._facts.files), name)
        forget_draft(self._draft)
        lines = [f"The Modelfile is {path}. Make the model and talk to it with:", *commands]
        self.query_one("#review", Lines).show(
            lambda width: [part for line in lines for part in Content(safe_line(line)).wrap(width)]
        )

    def action_begin(self) -> None:
        """Begin the run, in a thread: the rows are read once more before anything is written."""
        self._beginning = True
        self.refresh_bindings()
        self._tell("Beginning …")
        self.run_worker(self._begin, thread=True, group="begin", exit_on_error=False)

    def _begin(self) -> None:
        draft = self._draft
        try:
            prepared = prepare(
                draft.recipe(advice_for(draft, self._facts)),
                store=Path(draft.store) if draft.store else None,
                numbered=True,
            )
            run = create(prepared)
            launch(run)
        except LlamaForgeError as error:
            self.post_message(self.Begun(None, f"{error.message} {error.hint}"))
        else:
            forget_draft(self._draft)
            self.post_message(self.Begun(run))

    def on_review_screen_begun(self, message: Begun) -> None:
        """Watch the run, or say why there is none."""
        self._beginning = False
        if message.run is None:
            self._tell(message.problem, bad=True)
            self.refresh_bindings()
            return
        app, clock, run = self.app, self._clock, message.run
        self.dismiss(True)
        app.call_later(app.push_screen, MonitorScreen(run, clock))

    def _tell(self, text: str, *, bad: bool = False) -> None:
        self.notify(safe_line(text), severity="error" if bad else "information", markup=False)
