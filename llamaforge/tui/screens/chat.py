"""Talking to the model as it was and as it is now, in two columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Input

from llamaforge.collecting.chat_log import ChatLog, KeptTurn, usual_place
from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.runs.chatting import ARMS, ChatProcess
from llamaforge.runs.directory import RunDirectory
from llamaforge.safe_text import redact, safe_line, safe_text
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.widgets.lines import MUTED, Lines, column_width, hanging, side_by_side
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.words import plural

_TITLES: Final = {"base": "before training", "tuned": "after training"}
_BACKENDS: Final = {"llama.cpp": "llama.cpp answers", "ollama": "Ollama answers"}
_MOST_TURNS: Final = 200


@dataclass
class Exchange:
    """A question with both answers, as far as they have come; texts are not yet safe to print."""

    question: str
    answers: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ARMS, ""))
    notes: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ARMS, ""))
    """How long an answer took, once it is whole."""
    whole: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(ARMS, False))
    """Whether the model ended an answer itself."""
    better: str = ""
    """The arm whose answer was said to be better."""

    def note(self, arm: str) -> str:
        """Return what stands below an answer."""
        better = "better, kept as a pair" if self.better == arm else ""
        return " · ".join(filter(None, (self.notes[arm], better)))

    def kept(self, arm: str) -> KeptTurn:
        """Return the question with one of the answers."""
        return KeptTurn(self.question, self.answers[arm].strip(), self.whole[arm])


class ChatScreen(ForgeScreen[None]):
    """One line to ask, two columns that answer."""

    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+x", "stop", "Stop answering", priority=True, id="chat.stop"),
        Binding("ctrl+n", "anew", "New talk", priority=True, id="chat.anew"),
        Binding("f4", "keep", "Keep", priority=True, id="chat.keep"),
        Binding("f7", "better('base')", "Before better", priority=True, id="chat.before"),
        Binding("f8", "better('tuned')", "After better", priority=True, id="chat.after"),
        Binding("pageup", "scroll(-1)", "Up", show=False, id="chat.up"),
        Binding("pagedown", "scroll(1)", "Down", show=False, id="chat.down"),
        Binding("escape", "app.pop_screen", "Back", id="chat.back"),
    ]
    HELP_TITLE = "Before and after, side by side"
    HELP_LINES = (
        "Type a question and press Enter: the model answers as it was before training on the left, "
        "and as it is now on the right. Each side remembers its own answers. Both always say what "
        "they hold for most likely, so that the same question gets the same answer.",
        "Nothing of it is kept unless you press F4. From then on, until you press it again or "
        "leave, each conversation is a row to train on, with the answers after training; a red dot "
        "on top says so. F7 and F8 say which answer was better: a pair for --method dpo.",
        "The models live in a process of their own, which ends when you leave this screen.",
    )

    @dataclass
    class Said(Message):
        """The process said something."""

        body: dict[str, Any]

    @dataclass
    class Gone(Message):
        """The process is gone."""

        text: str

    def __init__(self, run: RunDirectory, published: str = "") -> None:
        super().__init__()
        self.run_directory = run
        self._process = ChatProcess(run, published)
        self.exchanges: list[Exchange] = []
        self.names: Mapping[str, str] = {}
        self.is_ready = False
        self.is_answering = False
        self._problem = ""
        self._note = ""
        self._backend = ""
        self._log: ChatLog | None = None
        """Where conversations are kept; None as long as nobody has asked for it."""

    def compose(self) -> ComposeResult:
        """Lay out both columns with the line to type in below them."""
        yield TitleBar()
        yield Lines(id="titles")
        with VerticalScroll(id="page", can_focus=False):
            yield Lines(id="talk")
        yield Lines(id="state")
        yield Input(placeholder="Ask both the same, and press Enter", id="ask")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to load the models; typing is possible meanwhile."""
        self.query_one(TitleBar).tell(f"Talk to {self.run_directory.id}")
        self._show()
        self.query_one(Input).focus()
        self.run_worker(self._listen, thread=True, group="chat", exit_on_error=False)

    def on_unmount(self) -> None:
        """Let the process go with the screen."""
        self._process.close()
        if self._log is not None:
            self._log.close()

    def _listen(self) -> None:
        """Pass on what the process says; runs in a thread."""
        try:
            self._process.start()
            for body in self._process.lines():
                self.post_message(self.Said(body))
        except LlamaForgeError as error:
            self.post_message(self.Gone(f"{error.message} {error.hint}"))
        except (OSError, ValueError) as error:  # the screen was left meanwhile
            self.post_message(self.Gone(f"The models cannot be loaded: {error}."))

    def on_chat_screen_gone(self, message: Gone) -> None:
        """Say why nobody answers any more."""
        self.is_ready = self.is_answering = False
        self._problem = safe_line(redact(message.text), limit=600)
        self._show()

    def on_chat_screen_said(self, message: Said) -> None:
        """Take what the process says."""
        body = message.body
        arm = str(body.get("arm"))
        match body.get("type"):
            case "ready":
                self.is_ready = True
                self.names = {key: safe_line(str(body["names"][key]), limit=60) for key in ARMS}
                self._backend = _BACKENDS.get(str(body.get("backend")), "")
                self._show_title()
            case "part" if self.exchanges and arm in ARMS:
                self.exchanges[-1].answers[arm] += str(body["text"])
            case "answer" if self.exchanges and arm in ARMS:
                self.exchanges[-1].answers[arm] = str(body["text"])
                self.exchanges[-1].notes[arm] = _note(body)
                self.exchanges[-1].whole[arm] = body.get("cut") is False
            case "error":
                words = f"{body.get('message')} {body.get('hint')}"
                self._problem = safe_line(redact(words), limit=600)
            case "turn":
                self.is_answering = False
                self._keep()
            case _:
                return
        self._show()

    @on(Input.Submitted)
    def on_asked(self, event: Input.Submitted) -> None:
        """Ask both, if they can answer now; what was typed is kept where they cannot."""
        question = event.value.strip()
        if not question or not self.is_ready or self.is_answering:
            return
        event.input.clear()
        self._problem = self._note = ""
        self.is_answering = True
        if self._log is not None:
            self._log.next_question()
        self.exchanges = [*self.exchanges, Exchange(question)][-_MOST_TURNS:]
        self._show()
        conversations = {arm: self._turns(arm) for arm in ARMS}
        try:
            self._process.ask(conversations)
        except LlamaForgeError as error:
            self.post_message(self.Gone(f"{error.message} {error.hint}"))

    def _turns(self, arm: str) -> list[dict[str, str]]:
        turns = []
        for exchange in self.exchanges:
            turns.append({"role": "user", "content": exchange.question})
            if exchange is not self.exchanges[-1]:
                turns.append({"role": "assistant", "content": exchange.answers[arm]})
        return turns

    def _show_title(self) -> None:
        state = Content.styled(self._backend, MUTED)
        if self._log is not None:
            state = Content.assemble(("● kept", "bold $text-error"), "  ", state)
        self.query_one(TitleBar).tell(f"Talk to {self.run_directory.id}", state)

    def _show(self) -> None:
        names = tuple(self.names.get(arm, "") for arm in ARMS)
        self.query_one("#titles", Lines).show(partial(_title_lines, names))
        shown = tuple(
            (item.question, tuple(item.answers.values()), tuple(map(item.note, ARMS)))
            for item in self.exchanges
        )
        self.query_one("#talk", Lines).show(partial(_exchange_lines, shown, self.is_answering))
        if self.is_answering:  # what is read again stays where it is
            page = self.query_one("#page", VerticalScroll)
            self.call_after_refresh(page.scroll_end, animate=False)
        self.query_one("#state", Lines).show(partial(_state_lines, self._problem, self._doing()))
        self.refresh_keys()

    def _doing(self) -> str:
        if self.is_answering:
            return "Answering …"
        if self._note:
            return self._note
        if self.is_ready:
            return "" if self.exchanges else "Ask something that your rows teach."
        return "" if self._problem else "Loading the models … you can type already."

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop only what goes on."""
        del parameters
        if action == "stop":
            return self.is_answering
        if action == "anew":
            return bool(self.exchanges) and not self.is_answering
        if action == "better":
            return self._log is not None and bool(self.exchanges) and not self.is_answering
        return True

    def action_stop(self) -> None:
        """End the answers that are being given."""
        self._process.stop()

    def action_anew(self) -> None:
        """Forget the conversation."""
        self.exchanges = []
        self._problem = self._note = ""
        if self._log is not None:
            self._log.begin()
        self._show()

    def action_keep(self) -> None:
        """Begin to keep what is said as rows to train on, or end it."""
        self._problem = ""
        if self._log is not None:
            self._log.close()
            self._log = None
            self._note = "Nothing more is kept."
        else:
            self._open_log()
        self._show_title()
        self._show()

    def _open_log(self) -> None:
        path = usual_place(self.run_directory.id)
        log = ChatLog(path, self.run_directory.id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            log.open()
        except OSError as error:
            self._tell(f"{path.parent} cannot be made: {error.strerror}.")
        except LlamaForgeError as error:
            self._tell(f"{error.message} {error.hint}")
        else:
            self._log = log
            self._note = safe_line(f"Kept in {path}")
            self._keep()

    def _keep(self) -> None:
        """Write down the conversation as it is now, where that is wished."""
        if self._log is None or self.is_answering or not self.exchanges:
            return
        try:
            self._log.keep([item.kept("tuned") for item in self.exchanges])
        except LlamaForgeError as error:
            self._tell(f"{error.message} {error.hint} Nothing more is kept.")
            self._log.close()
            self._log = None
            self._show_title()

    def action_better(self, arm: str) -> None:
        """Keep the newest answers as a pair; said of the same answer again, take that back."""
        if self._log is None:
            return
        newest, earlier = self.exchanges[-1], self.exchanges[:-1]
        self._problem = self._note = ""
        worse = next(other for other in ARMS if other != arm)
        before, other = ([item.kept(side) for item in earlier] for side in (arm, worse))
        try:
            if newest.better == arm and not self._log.has_pair:
                self._note = "That pair was kept before you pressed F4 anew, and stays."
            elif newest.better == arm:
                self._log.take_back()
                newest.better = ""
            elif before != other:
                self._note = "No pair: they have said different things before. Ctrl+N begins anew."
            else:
                self._log.prefer(before, newest.kept(arm), newest.kept(worse))
                newest.better = arm
                self._note = safe_line(f"Kept in {self._log.pairs_path}")
        except RefusedError as error:
            self._note = f"No pair: {error.message}"
        except LlamaForgeError as error:
            self._tell(f"{error.message} {error.hint}")
        self._show()

    def _tell(self, problem: str) -> None:
        self._problem = safe_line(redact(problem), limit=600)

    def action_scroll(self, by: int) -> None:
        """Scroll the conversation."""
        page = self.query_one("#page", VerticalScroll)
        page.scroll_relative(y=by * max(page.size.height - 2, 1), animate=False)


def _note(body: Mapping[str, Any]) -> str:
    tokens, seconds = body.get("tokens"), body.get("seconds")
    if not isinstance(tokens, int) or not isinstance(seconds, int | float):
        return ""
    cut = ", cut" if body.get("cut") is True else ""
    return f"{plural(tokens, 'token')}, {seconds:.1f} s{cut}"


def _title_lines(names: tuple[str, ...], width: int) -> list[Content]:
    parts = [
        Content.assemble((_TITLES[arm], "bold $primary"), (f"  {name}", MUTED))
        for arm, name in zip(ARMS, names, strict=True)
    ]
    return side_by_side([[part] for part in parts], width)


def _exchange_lines(
    exchanges: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...],
    is_answering: bool,
    width: int,
) -> list[Content]:
    """Return each question across, and below it the answers side by side."""
    room = column_width(len(ARMS), width)
    lines: list[Content] = []
    for number, (question, answers, notes) in enumerate(exchanges):
        is_last = number == len(exchanges) - 1
        mark = Content.styled("›", "bold $secondary")
        asked = Content.styled(safe_text(question), "bold")
        lines += hanging(mark, asked, indent=2, width=width)
        columns = []
        for answer, note in zip(answers, notes, strict=True):
            waits = "…" if is_last and is_answering else "(nothing)"
            shown = Content(safe_text(answer.strip()) or waits).wrap(room)
            if note:
                shown.append(Content.styled(note, MUTED).truncate(room, ellipsis=True))
            columns.append(shown)
        lines += [*side_by_side(columns, width), Content("")]
    return lines


def _state_lines(problem: str, doing: str, width: int) -> list[Content]:
    if problem:
        style = "bold $text-error"
        return hanging(
            Content.styled("✗", style), Content.styled(problem, style), indent=2, width=width
        )
    return [Content.styled(doing, MUTED).truncate(width)]
