"""Small screens that carry out a verb and tell how it goes: publishing and exporting a result."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llamaforge.catalog.names import parse_name
from llamaforge.errors import LlamaForgeError
from llamaforge.safe_text import safe_line
from llamaforge.tui.program import Outcome, Verb
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging

_SHOWN_LINES: Final = 6


class TaskScreen(ModalScreen[str]):
    """Asks something, carries out one verb, and answers with what came of it or nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="task.close"),
        Binding("ctrl+x", "stop", "Stop", priority=True, id="task.stop"),
    ]
    TITLE_WORDS: ClassVar[str] = ""

    @dataclass
    class Line(Message):
        """The verb said something on its way."""

        text: str

    @dataclass
    class Ended(Message):
        """The verb has ended."""

        outcome: Outcome

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_name = run
        self.verb: Verb | None = None
        self.result = ""
        self._lines: list[str] = []
        self._told: tuple[str, str, str] = ("", "", "")
        """Mark, sentence and hint of what is, or what came of it."""

    def compose(self) -> ComposeResult:
        """Lay out what is asked, and below it how it goes."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = Content(self.TITLE_WORDS)
            dialog.border_subtitle = Content("Enter begins · Esc closes")
            yield Lines(id="words")
            yield from self.ask()
            yield Lines(id="told")

    def ask(self) -> ComposeResult:
        """Lay out what a person answers."""
        raise NotImplementedError

    def carry_out(self, words: Sequence[str]) -> None:
        """Begin the verb, unless one is at work."""
        if self.verb is not None:
            return
        self.verb = verb = Verb(words)
        self._lines = []
        self.tell("·", "It begins …", "Ctrl+X stops it. It goes on where you close this with Esc.")

        def work() -> None:
            try:
                outcome = verb.run(lambda line: self._post(self.Line(line)))
            except OSError as error:
                body = {"message": f"It cannot be started: {error.strerror}."}
                outcome = Outcome(1, body)
            self._post(self.Ended(outcome))

        # The program's own worker: the verb is looked after where this screen is closed.
        self.app.run_worker(work, thread=True, group="task", exit_on_error=False)

    def _post(self, message: Message) -> None:
        if self.is_attached:
            self.post_message(message)

    def on_task_screen_line(self, message: Line) -> None:
        """Show what it says."""
        self._lines = [*self._lines, message.text][-_SHOWN_LINES:]
        self._show()

    def on_task_screen_ended(self, message: Ended) -> None:
        """Show what came of it."""
        self.verb = None
        self._lines = []
        self.ended(message.outcome)

    def ended(self, outcome: Outcome) -> None:
        """Say what came of it."""
        raise NotImplementedError

    def tell(self, mark: str, text: str, hint: str = "") -> None:
        """Show a sentence and what to do; both are safe text."""
        self._told = (mark, text, hint)
        self._show()

    def tell_error(self, outcome: Outcome) -> None:
        """Show what went wrong."""
        _, message, hint = outcome.error
        self.tell("✗", message, hint)

    def _show(self) -> None:
        lines = tuple(self._lines)
        self.query_one("#told", Lines).show(partial(_told_lines, *self._told, lines))

    def action_stop(self) -> None:
        """Let the verb end early."""
        if self.verb is not None:
            self.verb.stop()
            self.tell("!", "It is being stopped …")

    def action_close(self) -> None:
        """Go back; a verb at work goes on."""
        self.dismiss(self.result)


def _told_lines(
    mark: str, text: str, hint: str, lines: tuple[str, ...], width: int
) -> list[Content]:
    styles = {"✓": "bold $text-success", "✗": "bold $text-error", "!": "bold $text-warning"}
    shown: list[Content] = []
    if text:
        style = styles.get(mark, "")
        sentence = Content.styled(text, style)
        shown += [Content("")]
        shown += hanging(Content.styled(mark, style), sentence, indent=2, width=width)
    if hint:
        shown += hanging(Content(""), Content.styled(hint, MUTED), indent=2, width=width)
    for line in lines:
        shown += hanging(Content(""), Content.styled(line, MUTED), indent=2, width=width)
    return shown


class PublishScreen(TaskScreen):
    """Asks for a name, and brings the result into Ollama; answers with that name."""

    TITLE_WORDS = "Publish to Ollama"

    def __init__(self, run: str, name: str = "") -> None:
        super().__init__(run)
        self._wished = name
        self._taken = ""

    def ask(self) -> ComposeResult:
        """Ask for the name."""
        yield Input(self._wished, placeholder="my-model or my-model:v1", id="name")

    def on_mount(self) -> None:
        """Say what it is for."""
        words = (
            "The verified result becomes a model of its own in Ollama. The model that was trained "
            "stays as it is. Under which name?"
        )
        self.query_one("#words", Lines).show(Content(words).wrap)
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def on_named(self, event: Input.Submitted) -> None:
        """Publish; where the name is taken, the same name once more replaces what has it."""
        name = event.value.strip()
        if self.verb is not None:
            return
        try:
            parse_name(name)
        except LlamaForgeError as error:
            self.tell("✗", safe_line(error.message), safe_line(error.hint))
            return
        words = ["publish", self.run_name, f"--name={name}", "--yes"]
        if self._taken and name == self._taken:
            words.append("--overwrite")
        self._wished, self._taken = name, ""
        self.carry_out(words)

    def ended(self, outcome: Outcome) -> None:
        """Say what is on the server now, or how to do it by hand."""
        body = outcome.body
        if outcome.is_done and body.get("published") is True:
            self.result = safe_line(str(body.get("name")), limit=200)
            answer = safe_line(str(body.get("answer") or ""), limit=120) or "nothing"
            self.tell(
                "✓",
                f"{self.result} is in Ollama. It answers a greeting with: {answer}",
                f"Esc, then t to talk to it here. Anywhere: ollama run {self.result}",
            )
            return
        if outcome.error[0] == "name_taken":
            self._taken = self._wished
            self.query_one(Input).clear()
            self.tell(
                "!",
                f"Ollama has a model named {safe_line(self._wished)} already.",
                "Type another name; or type the same once more to replace that model.",
            )
            return
        self.tell_error(outcome)


_FORMS: Final = (
    ("adapter", "", "Adapter", "small; over the model's own file"),
    ("gguf", "", "One GGUF file", "merged, packed as the model is"),
    ("gguf", "Q8_0", "One GGUF file, Q8_0", "merged; larger and finer"),
    ("gguf", "Q4_K_M", "One GGUF file, Q4_K_M", "merged; small"),
    ("hf", "", "Directory for transformers", "merged, in bfloat16; vLLM too"),
    ("peft", "", "Adapter for PEFT", "to go on with in Python"),
)
"""Form and quantisation as `llamaforge export` takes them, and both in words."""


class ExportScreen(TaskScreen):
    """Asks for a form, and writes the result in it; answers with where that is."""

    TITLE_WORDS = "Export"

    def ask(self) -> ComposeResult:
        """Ask for the form."""
        room = max(len(title) for _, _, title, _ in _FORMS) + 2
        yield OptionList(
            *(
                Option(Content.assemble((f"{title:<{room}}", "bold"), (words, MUTED)))
                for _, _, title, words in _FORMS
            ),
            id="forms",
            classes="menu",
            markup=False,
        )

    def on_mount(self) -> None:
        """Say what it is for."""
        words = "A file to take along. It goes into the run's folder; nothing is replaced."
        self.query_one("#words", Lines).show(Content(words).wrap)
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def on_chosen(self, event: OptionList.OptionSelected) -> None:
        """Write it."""
        form, quantization, _, _ = _FORMS[event.option_index]
        words = ["export", self.run_name, "--as", form]
        if quantization:
            words += ["--quant", quantization]
        self.carry_out(words)

    def ended(self, outcome: Outcome) -> None:
        """Say where it is."""
        path = outcome.body.get("path")
        if outcome.is_done and isinstance(path, str):
            self.result = path
            self.app.copy_to_clipboard(path)
            self.tell("✓", f"Written: {safe_line(path, limit=1000)}", "Its path is copied.")
        else:
            self.tell_error(outcome)
