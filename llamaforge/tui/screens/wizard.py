"""The way to a run, one question at a time; the questions are those of the plain wizard."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Input, OptionList

from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.check import CheckScreen, Passed
from llamaforge.tui.screens.looking import LookingScreen
from llamaforge.tui.screens.review import ReviewScreen
from llamaforge.tui.widgets.answers import Answered, Kept, Pending
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.question_widget import question_widget
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.tui.wizard_view import known_lines, question_lines, trail_lines
from llamaforge.wizard.answers import words_of
from llamaforge.wizard.draft import NO_TRAINING, Draft, keep_draft
from llamaforge.wizard.facts import Facts, Machine, gathered
from llamaforge.wizard.looking import due
from llamaforge.wizard.question import Kind, Question
from llamaforge.wizard.questions import MODEL, STEPS, open_questions, questions_of, taken


class WizardScreen(LookingScreen[None]):
    """Asks what is still open, and goes on to the review."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
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

    def __init__(self, draft: Draft, facts: Facts | None, clock: Callable[[], float]) -> None:
        """Begin with a draft that has its model; facts that are not given are gathered."""
        super().__init__(draft, facts or Facts(Machine(0, 0, 0)))
        self._gathers = facts is None
        self._clock = clock
        self._path: list[str] = []
        """The keys of the questions on the way to the one that is asked."""
        self._typed: dict[str, str] = {}
        """What was typed for a question and not yet taken, by its key."""
        self._is_kept = True

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
            self.tell_state("Looking at your models …")
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
        """Ask the first open question; where all are answered, go to the checks."""
        for name in ("base", "rows") if self.draft.sources else ("base",):
            look = due(name, self.draft, self.facts)
            if look is not None:
                self.look(look, self._resume)
                return
        questions = self._questions()
        given = [item for item in questions if getattr(self.draft, item.key)]
        bad = next((item for item in given if item.judged(self.draft, self.facts)), None)
        target = bad or next(iter(open_questions(self.draft, self.facts)), None)
        keys = [question.key for question in questions]
        self._path = keys if target is None else keys[: keys.index(target.key)]
        self._show_trail()
        await self._ask(target)
        if bad is not None:
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
        answer = next(iter(self.query("#answer > *")), None)
        if question is None or not isinstance(answer, Input | Pending):
            return
        text = answer.value if isinstance(answer, Input) else answer.pending
        before = "" if question.kind is Kind.LINES else getattr(self.draft, question.key)
        self._typed.pop(question.key, None)
        if text.strip() and text.strip() != words_of(question, before):
            self._typed[question.key] = text

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
            self.look(look, partial(self._ask, question))
            return
        if not self._path or self._path[-1] != question.key:
            self._path.append(question.key)
        place = self.query_one("#answer", Container)
        await place.remove_children()
        typed = self._typed.get(question.key, "")
        await place.mount(question_widget(question, self.draft, self.facts, typed))
        if place.children[0].can_focus:
            place.children[0].focus()
        # Words come last: who reads the question can type the answer.
        self.query_one("#question", Lines).show(partial(question_lines, question))
        self._tell_problem("")
        self._show_known()
        self._show_trail()

    def _to_the_end(self) -> None:
        """Show the checks, and then the review; without training there is nothing to check."""
        if self.draft.goal == NO_TRAINING:
            review = ReviewScreen(self.draft, self.facts, self._clock)
            self.app.push_screen(review, self._after_review)
        else:
            self.app.push_screen(CheckScreen(self.draft, self.facts), self._after_checks)

    def _after_checks(self, passed: Passed | None) -> None:
        found = None
        if passed is not None:
            self.draft, self.facts, found = passed
        if found is None:
            self._ask_again()
            return
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

    def on_kept(self, message: Kept) -> None:
        """Keep a part of the answer at once: going back loses none."""
        if self.question is not None:
            self.draft = self.draft.with_answers(**{self.question.key: message.answer})
            self._is_kept = keep_draft(self.draft)
            self._show_trail()

    async def _take(self, question: Question, answer: Any) -> None:
        problem = question.problem(answer, self.draft, self.facts)
        if not problem and not answer and not question.is_optional and answer is not False:
            problem = "This one is needed."
        if problem:
            self._tell_problem(problem)
            return
        before = self.draft
        self.draft = before.with_answers(**taken(question, answer, before, self.facts))
        if self.is_looking and self.draft == before:
            return
        self._is_kept = keep_draft(self.draft)
        self._typed.pop(question.key, None)
        look = due(question.looks, self.draft, self.facts)
        if look is not None:
            self.look(look, partial(self._go_on, question))
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

    def tell_state(self, text: str) -> None:
        """Say what is being done."""
        self.query_one("#known", Lines).show(lambda width: Content.styled(text, MUTED).wrap(width))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide what there is nothing for yet."""
        del parameters
        return action != "rows" or "rows" in self.facts.report

    def action_rows(self) -> None:
        """Show the rows as the model will see them."""
        from llamaforge.tui.screens.rows import RowsScreen  # noqa: PLC0415 - seldom opened

        self.app.push_screen(RowsScreen(self.draft, self.facts))

    async def action_back(self) -> None:
        """Go to the question before, or leave; the answers are kept."""
        self.look_no_more()
        self._remember_typed()
        self._path = self._path[:-1]
        question = self.question
        if question is None:
            self.dismiss()
        else:
            await self._ask(question)
