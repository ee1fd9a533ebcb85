"""The way to a run, one question at a time; the questions are those of the plain wizard."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Footer, Input, OptionList
from textual.widgets.option_list import Option as Row

from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.screens.check import CheckScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.widgets.answers import Answered
from llamaforge.tui.widgets.column_mapper import ColumnMapper
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging
from llamaforge.tui.widgets.lines_editor import LinesEditor
from llamaforge.tui.widgets.settings_editor import SettingsEditor
from llamaforge.tui.widgets.source_picker import SourcePicker
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.tui.wizard_view import known_lines, trail_lines, words_of
from llamaforge.wizard.checks import Check
from llamaforge.wizard.draft import NO_TRAINING, Draft, keep_draft
from llamaforge.wizard.facts import Facts, Machine, gathered
from llamaforge.wizard.looking import LOOKS, Look, due
from llamaforge.wizard.question import Kind, Option, Question
from llamaforge.wizard.questions import MODEL, STEPS, open_questions, questions_of, taken
from llamaforge.wizard.recent import recent_sources

_TYPED: Final = frozenset({Kind.TEXT, Kind.SOURCES})
"""Kinds whose answer is typed and taken with Enter."""


class WizardScreen(ForgeScreen[None]):
    """Asks what is still open, and goes on to the review."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take it", id="wizard.take"),
        Binding("ctrl+t", "rows", "Rows as tokens", id="wizard.rows"),
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
        """Something was looked at."""

        def __init__(self, number: int, facts: Facts) -> None:
            super().__init__()
            self.number = number
            """Of the look."""
            self.facts = facts

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
        self._typed: dict[str, str] = {}
        """What was typed for a question and not yet taken, by its key."""
        self._is_kept = True
        self._looking = False
        self._looks = 0
        """How often something was looked at: what came too late is told by it."""
        self._then: Callable[[], Awaitable[None]] = self._resume

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
        for name in LOOKS:
            look = due(name, self.draft, self.facts)
            if look is not None:
                self._look(look, self._resume)
                return
        questions = self._questions()
        self._path = [question.key for question in questions]
        bad = next((item for item in questions if item.judged(self.draft, self.facts)), None)
        if bad is None:
            self._show_trail()
            await self._ask(None)
        else:
            self._path = self._path[: self._path.index(bad.key) + 1]
            await self._ask(bad)
            self._tell_problem(bad.judged(self.draft, self.facts))

    @property
    def would_lose(self) -> str:
        """What would be lost if the program ended now: answers are kept, unless that failed."""
        if not self._is_kept:
            return "Your answers could not be kept, so they would be lost."
        self._remember_typed()
        question = self.question
        if question is not None and question.key in self._typed:
            return "What you typed here was not taken yet, and would be lost."
        return ""

    def _remember_typed(self) -> None:
        """Remember a text that was typed and not taken."""
        question = self.question
        field = next(iter(self.query("#answer Input").results(Input)), None)
        if question is None or field is None or question.kind not in _TYPED:
            return
        taken_before = words_of(question, getattr(self.draft, question.key))
        self._typed.pop(question.key, None)
        if field.value.strip() and field.value.strip() != taken_before:
            self._typed[question.key] = field.value

    @property
    def question(self) -> Question | None:
        """What is asked now."""
        questions = {question.key: question for question in self._questions()}
        return questions.get(self._path[-1]) if self._path else None

    def _questions(self) -> list[Question]:
        """Return the questions that apply; the model was chosen before this screen."""
        return questions_of(self.draft, self.facts, without=frozenset({"model"}))

    def _next_after(self, key: str | None) -> Question | None:
        keys = [question.key for question in self._questions()]
        place = keys.index(key) + 1 if key in keys else 0
        return self._questions()[place] if place < len(keys) else None

    async def _ask(self, question: Question | None) -> None:
        """Show a question, or the review where there is none left."""
        if question is None:
            self._to_the_end()
            return
        look = due(question.needs, self.draft, self.facts)
        if look is not None:
            self._look(look, partial(self._ask, question))
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
        if place.children[0].can_focus:
            place.children[0].focus()

    def _to_the_end(self) -> None:
        """Show the checks, and then the review; without training there is nothing to check."""
        if self.draft.goal == NO_TRAINING:
            review = ReviewScreen(self.draft, self.facts, self._clock)
            self.app.push_screen(review, self._after_review)
        else:
            self.app.push_screen(CheckScreen(self.draft, self.facts), self._after_checks)

    def _after_checks(self, passed: tuple[Draft, Facts, list[Check]] | None) -> None:
        if passed is None:
            self._ask_again()
            return
        self.draft, self.facts, found = passed
        review = ReviewScreen(self.draft, self.facts, self._clock, found)
        self.app.push_screen(review, self._after_review)

    def _after_review(self, begun: bool | None) -> None:
        if begun:
            self.dismiss()
        elif self.draft.goal == NO_TRAINING:
            self._ask_again()
        else:
            self._to_the_end()

    def _ask_again(self) -> None:
        """Ask the last question again: an answer may have been changed on the pages after it."""
        self.call_later(self._ask, self.question or self._questions()[-1])

    def _widget(self, question: Question) -> Widget:
        now = getattr(self.draft, question.key) or question.default(self.draft, self.facts)
        options = question.options(self.draft, self.facts)
        match question.kind:
            case Kind.CHOICE:
                widget: Widget = _menu(options, str(now))
            case Kind.YES_NO:
                choices = [Option("no", "No"), Option("yes", "Yes")]
                widget = _menu(choices, "yes" if now else "no")
            case Kind.SOURCES:
                typed = self._typed.get(question.key, "")
                widget = SourcePicker(tuple(now or ()), recent_sources(), typed)
            case Kind.COLUMNS:
                widget = ColumnMapper(self.draft, options, str(now))
            case Kind.SETTINGS:
                widget = SettingsEditor(self.draft, self.facts)
            case Kind.LINES:
                widget = LinesEditor(tuple(now or ()), options)
            case Kind.TEXT:
                text = self._typed.get(question.key) or words_of(question, now)
                widget = Input(text, id="input")
        return widget

    def _show_trail(self) -> None:
        key = self._path[-1] if self._path else ""
        place = next(
            (number for number, step in enumerate(STEPS, start=1)
             if any(question.key == key for question in step.questions)), 1
        )  # fmt: skip
        where = Content.styled(f"{STEPS[place - 1].title}, step {place} of {len(STEPS)}", MUTED)
        self.query_one(TitleBar).tell(f"New run  {safe_line(self.draft.model, limit=50)}", where)
        lines = partial(trail_lines, self.draft, self.facts, self._path[-1] if self._path else "")
        self.query_one("#steps", Lines).show(lines)

    def _show_known(self) -> None:
        question = self.question
        if question is not None:
            lines = partial(known_lines, question, self.draft, self.facts)
            self.query_one("#known", Lines).show(lines)

    def _tell_problem(self, text: str) -> None:
        words = Content.styled(safe_line(text, limit=400), "$text-error") if text else Content("")
        self.query_one("#problem", Lines).show(lambda width: words.wrap(width) if text else [])

    @on(Input.Submitted)
    async def on_text(self, event: Input.Submitted) -> None:
        """Take a text."""
        question = self.question
        if question is not None:
            await self._take(question, event.value.strip())

    @on(OptionList.OptionSelected)
    async def on_choice(self, event: OptionList.OptionSelected) -> None:
        """Take a choice."""
        question = self.question
        if question is not None and event.option.id is not None:
            chosen = event.option.id.removeprefix("o-")
            await self._take(question, chosen == "yes" if question.kind is Kind.YES_NO else chosen)

    async def on_answered(self, message: Answered) -> None:
        """Take the answer of a widget of its own."""
        if self.question is not None:
            await self._take(self.question, message.answer)

    def on_settings_editor_changed(self, message: SettingsEditor.Changed) -> None:
        """Keep a changed setting at once: going back loses none."""
        self.draft = self.draft.with_answers(settings=message.settings)
        self._is_kept = keep_draft(self.draft)
        self._show_trail()

    def action_take(self) -> None:
        """Enter reaches the answer's own widget; this names the key."""

    async def _take(self, question: Question, answer: Any) -> None:
        problem = question.problem(answer, self.draft, self.facts)
        if not problem and not answer and not question.is_optional and answer is not False:
            problem = "This one is needed."
        if problem:
            self._tell_problem(problem)
            return
        before = self.draft
        self.draft = before.with_answers(**taken(question, answer, self.facts))
        if self._looking and self.draft == before:
            return
        self._is_kept = keep_draft(self.draft)
        self._typed.pop(question.key, None)
        look = due(question.looks, self.draft, self.facts)
        if look is not None:
            self._look(look, partial(self._go_on, question))
        else:
            await self._go_on(question)

    async def _go_on(self, question: Question) -> None:
        """Ask the next question, unless what was seen speaks against the answer to this one."""
        problem = question.judged(self.draft, self.facts)
        if not problem:
            await self._ask(self._next_after(question.key))
            return
        if not self.query("#answer > *"):
            await self._ask(question)
        self._show_known()
        self._tell_problem(problem)

    def _look(self, look: Look, then: Callable[[], Awaitable[None]]) -> None:
        """Look at something in a thread, and go on with `then` once it was seen."""
        self._looking, self._then = True, then
        self._looks += 1
        self._tell(f"{look.words} …")
        number, draft, facts = self._looks, self.draft, self.facts

        def work() -> None:
            seen = look.at(draft, facts, lambda what, rows: self._count(rows))
            self.post_message(self.Looked(number, seen))

        self.run_worker(work, thread=True, exclusive=True, group="look", exit_on_error=False)

    def _count(self, rows: int) -> None:
        self.post_message(self.Counted(rows))

    def on_wizard_screen_counted(self, message: Counted) -> None:
        """Say how many rows were read."""
        if self._looking and message.rows:
            self._tell(f"Looking through the rows … {message.rows:,}")

    async def on_wizard_screen_looked(self, message: Looked) -> None:
        """Go on with what was seen, unless somebody went back meanwhile."""
        if message.number != self._looks or not self._looking:
            return
        self._looking = False
        self.facts = message.facts
        self.refresh_bindings()
        await self._then()

    def _tell(self, text: str) -> None:
        self.query_one("#known", Lines).show(lambda width: Content.styled(text, MUTED).wrap(width))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide what there is nothing for yet."""
        del parameters
        return action != "rows" or "rows" in self.facts.report

    def action_rows(self) -> None:
        """Show the rows as the model will see them."""
        from llamaforge.tui.screens.rows import RowsScreen  # noqa: PLC0415 - seldom opened

        self.app.push_screen(RowsScreen(self.draft))

    async def action_back(self) -> None:
        """Go to the question before, or leave; the answers are kept."""
        self._looking = False
        self._remember_typed()
        self._path = self._path[:-1]
        question = self.question
        if question is None:
            self.dismiss()
        else:
            await self._ask(question)


def _begun(text: str) -> str:
    """Return a clause as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _menu(options: list[Option], chosen: str) -> OptionList:
    rows = [
        Row(
            Content.assemble(
                (safe_line(option.title), "bold"),
                (f"\n{_begun(option.refusal) or option.explanation}", MUTED)
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
