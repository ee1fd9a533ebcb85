"""The way to a run, one question at a time; the questions are those of the plain wizard."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Footer, Input, OptionList
from textual.widgets.option_list import Option as Row

from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.tui.wizard_view import completed_path, report_lines, trail_lines, words_of
from llamaforge.wizard.draft import Draft, keep_draft
from llamaforge.wizard.facts import Facts, Machine, gathered
from llamaforge.wizard.looking import report_on
from llamaforge.wizard.questions import (
    MODEL,
    STEPS,
    Kind,
    Option,
    Question,
    open_questions,
    places,
    taken,
)

_OF_ROWS: Final = frozenset({"sources", "map", "preference", "allow_secrets"})
"""Answers after which the rows are looked through again."""


class WizardScreen(ForgeScreen[None]):
    """Asks what is still open, and goes on to the review."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take it", id="wizard.take"),
        Binding("escape", "back", "Back", id="wizard.back"),
    ]
    HELP_TITLE = "A new run"
    HELP_LINES = (
        "One question at a time, from the model to its new name in Ollama. Enter takes the answer "
        "and goes on, Esc goes back without losing any.",
        "Nothing is written until you begin the run on the last page. What you answered is kept "
        "and offered again if you leave.",
    )

    class Gathered(Message):
        """The machine and its models were looked at."""

        def __init__(self, facts: Facts) -> None:
            super().__init__()
            self.facts = facts

    class Looked(Message):
        """The rows were looked through."""

        def __init__(self, draft: Draft, report: dict[str, Any]) -> None:
            super().__init__()
            self.draft = draft
            self.report = report

    class Counted(Message):
        """More rows were read."""

        def __init__(self, rows: int) -> None:
            super().__init__()
            self.rows = rows

        def can_replace(self, message: Message) -> bool:
            """Only the newest number counts."""
            return isinstance(message, WizardScreen.Counted)

    def __init__(self, draft: Draft, facts: Facts | None, clock: Callable[[], float]) -> None:
        """Begin with a draft that has its model; facts that are not given are gathered."""
        super().__init__()
        self.draft = draft
        self.facts = facts or Facts(Machine(0, 0, 0))
        self._gathers = facts is None
        self._clock = clock
        self._path: list[str] = []
        """The keys of the questions on the way to the one that is asked."""
        self._looking = False

    def compose(self) -> ComposeResult:
        """Lay out the steps, the question with its answer, and what is known beside it."""
        yield TitleBar()
        with Horizontal(id="wizard"):
            with VerticalScroll(id="trail", can_focus=False):
                yield Lines(id="steps")
            with Vertical(id="ask"):
                yield Lines(id="question")
                yield Lines(id="problem")
                with VerticalScroll(id="rest", can_focus=False):
                    yield Container(id="answer")
                    yield Lines(id="known")
        yield Footer()

    async def on_mount(self) -> None:
        """Ask the first question that is open, once the machine and its models are known."""
        self.query_one(TitleBar).tell(f"New run  {safe_line(self.draft.model, limit=50)}")
        if self._gathers:
            self._tell("Looking at your models …")
            self.run_worker(self._gather, thread=True, group="gather", exit_on_error=False)
        else:
            await self._resume()

    def _gather(self) -> None:
        stores = [Path(self.draft.store)] if self.draft.store else []
        self.post_message(self.Gathered(gathered(stores)))

    async def on_wizard_screen_gathered(self, message: Gathered) -> None:
        """Ask, or leave where the model of the draft is none that can be trained any more."""
        self.facts = message.facts
        problem = MODEL.problem(self.draft.model, self.draft, self.facts)
        if problem:
            self.tell(f"{problem} Choose another model.", bad=True)
            self.dismiss()
            return
        await self._resume()

    async def _resume(self) -> None:
        """Ask the first open question; where all are answered, go to the review."""
        if open_questions(self.draft, self.facts):
            await self._ask(self._next_after(None))
            return
        self._path = [question.key for question in self._questions()]
        self._show_trail()
        self._look()

    @property
    def question(self) -> Question | None:
        """What is asked now."""
        questions = {question.key: question for question in self._questions()}
        return questions.get(self._path[-1]) if self._path else None

    def _questions(self) -> list[Question]:
        """Return the questions that apply; the model was chosen before this screen."""
        return [
            question
            for step in STEPS
            for question in step.questions
            if question.key != "model" and question.applies(self.draft, self.facts)
        ]

    def _next_after(self, key: str | None) -> Question | None:
        keys = [question.key for question in self._questions()]
        place = keys.index(key) + 1 if key in keys else 0
        return self._questions()[place] if place < len(keys) else None

    async def _ask(self, question: Question | None) -> None:
        """Show a question, or the review where there is none left."""
        if question is None:
            self.app.push_screen(
                ReviewScreen(self.draft, self.facts, self._clock), self._after_review
            )
            return
        if not self._path or self._path[-1] != question.key:
            self._path.append(question.key)
        self.query_one("#question", Lines).show(partial(_question_lines, question))
        self._tell_problem("")
        self._show_known()
        self._show_trail()
        place = self.query_one("#answer", Container)
        await place.remove_children()
        await place.mount(self._widget(question))
        place.children[0].focus()

    def _after_review(self, begun: bool | None) -> None:
        if begun:
            self.dismiss()
        elif not self.query("#answer > *"):  # all was answered before this screen was opened
            self.call_later(self._ask, self.question)

    def _widget(self, question: Question) -> Widget:
        now = getattr(self.draft, question.key) or question.default(self.draft, self.facts)
        if question.kind is Kind.CHOICE:
            return _menu(question.options(self.draft, self.facts), str(now))
        if question.kind is Kind.YES_NO:
            options = [Option("no", "No"), Option("yes", "Yes")]
            return _menu(options, "yes" if now else "no")
        suggester = _Paths() if question.kind is Kind.SOURCES else None
        return Input(words_of(question, now), suggester=suggester, id="input")

    def _show_trail(self) -> None:
        lines = partial(trail_lines, self.draft, self.facts, self._path[-1] if self._path else "")
        self.query_one("#steps", Lines).show(lines)

    def _show_known(self) -> None:
        self.query_one("#known", Lines).show(partial(report_lines, self.facts))

    def _tell_problem(self, text: str) -> None:
        words = Content.styled(safe_line(text, limit=400), "$text-error") if text else Content("")
        self.query_one("#problem", Lines).show(lambda width: words.wrap(width) if text else [])

    @on(Input.Submitted)
    async def on_text(self, event: Input.Submitted) -> None:
        """Take a text."""
        question = self.question
        if question is not None:
            text = event.value.strip()
            answer: Any = places(text) if question.kind is Kind.SOURCES else text
            await self._take(question, answer)

    @on(OptionList.OptionSelected)
    async def on_choice(self, event: OptionList.OptionSelected) -> None:
        """Take a choice."""
        question = self.question
        if question is not None and event.option.id is not None:
            chosen = event.option.id.removeprefix("o-")
            await self._take(question, chosen == "yes" if question.kind is Kind.YES_NO else chosen)

    def action_take(self) -> None:
        """Enter reaches the answer's own widget; this names the key."""

    async def _take(self, question: Question, answer: Any) -> None:
        if self._looking:
            return
        problem = question.problem(answer, self.draft, self.facts)
        if not problem and not answer and not question.is_optional and answer is not False:
            problem = "This one is needed."
        if problem:
            self._tell_problem(problem)
            return
        before = self.draft
        self.draft = before.with_answers(**taken(question, answer))
        keep_draft(self.draft)
        if question.key in _OF_ROWS and (self.draft != before or not self.facts.report):
            self._look()
        else:
            await self._ask(self._next_after(question.key))

    def _look(self) -> None:
        """Look through the rows, in a thread: it takes as long as there are rows."""
        self._looking = True
        self._tell("Looking through the rows …")
        draft = self.draft

        def work() -> None:
            told = report_on(draft, lambda what, rows: self._count(rows))
            self.post_message(self.Looked(draft, told))

        self.run_worker(work, thread=True, exclusive=True, group="look", exit_on_error=False)

    def _count(self, rows: int) -> None:
        self.post_message(self.Counted(rows))

    def on_wizard_screen_counted(self, message: Counted) -> None:
        """Say how many rows were read."""
        if self._looking and message.rows:
            self._tell(f"Looking through the rows … {message.rows:,}")

    async def on_wizard_screen_looked(self, message: Looked) -> None:
        """Go on with what the rows are, unless other rows were named meanwhile."""
        if message.draft != self.draft:
            return
        self._looking = False
        self.facts = replace(self.facts, report=message.report)
        asked = self.question
        keys = [question.key for question in self._questions()]
        answered = asked.key if asked is not None else ""
        if "rows" in message.report or any(key in keys and key not in self._path
                                           for key in ("map", "preference")):  # fmt: skip
            await self._ask(self._next_after(answered))
        else:
            self._show_known()
            self._tell_problem(f"{message.report['message']} {message.report['hint']}")

    def _tell(self, text: str) -> None:
        self.query_one("#known", Lines).show(lambda width: Content.styled(text, MUTED).wrap(width))

    async def action_back(self) -> None:
        """Go to the question before, or leave; the answers are kept."""
        self._looking = False
        self._path = self._path[:-1]
        question = self.question
        if question is None:
            self.dismiss()
        else:
            await self._ask(question)


class _Paths(Suggester):
    """Proposes the name of a file that begins as what was typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """Return the value with its last path completed, if there is one."""
        return completed_path(value)


def _menu(options: list[Option], chosen: str) -> OptionList:
    rows = [
        Row(
            Content.assemble(
                (safe_line(option.title), "bold"),
                (f"\n{option.refusal or option.explanation}", MUTED)
                if option.refusal or option.explanation
                else "",
            ),
            id=f"o-{option.value}",
            disabled=bool(option.refusal),
        )
        for option in options
    ]
    menu = OptionList(*rows, id="menu")
    values = [option.value for option in options]
    menu.highlighted = values.index(chosen) if chosen in values else 0
    return menu


def _question_lines(question: Question, width: int) -> list[Content]:
    return [
        *Content.styled(question.title, "bold $primary").wrap(width),
        *hanging(Content(""), Content.styled(question.help, MUTED), indent=0, width=width),
        Content(""),
    ]
