"""The page before the last: what stands for and against the run, each with a way out by a key."""

from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, OptionList
from textual.widgets.option_list import Option

from llamaforge.safe_text import safe_line
from llamaforge.tui.screens.base import ForgeScreen
from llamaforge.tui.widgets.lines import MUTED, Lines
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.title_bar import TitleBar
from llamaforge.tui.wizard_view import MARKS
from llamaforge.wizard.checks import Check, Fix, checks
from llamaforge.wizard.draft import Draft, keep_draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.looking import LOOKS, due
from llamaforge.wizard.measured import measured_checks

_ORDER = {"fail": 0, "warn": 1, "pass": 2}


Passed = tuple[Draft, Facts, list[Check] | None]
"""What was mended stays in the draft; None in place of the checks is the way back."""


class CheckScreen(ForgeScreen[Passed]):
    """Shows the checks; its answer is the draft with what was mended, and whether to go on."""

    CSS = """
    CheckScreen #page { padding: 1 2; }
    CheckScreen OptionList { height: auto; background: $background; border: none; padding: 0; }
    CheckScreen OptionList > .option-list--option-disabled { color: $foreground; }
    CheckScreen #doing { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "fix_first", "Mend the first", id="check.fix"),
        Binding("u", "look_again", "Look again", id="check.look_again"),
        Binding("escape", "back", "Back", id="check.back"),
    ]
    HELP_TITLE = "Before it begins"
    HELP_LINES = (
        "Each line was looked at just now: ✓ is as it should be, ! you should know of, ✗ keeps the "
        "run from beginning. Where a line says what Enter does, it mends that and looks again.",
    )

    class Checked(Message):
        """The checks were made."""

        def __init__(self, facts: Facts, found: list[Check]) -> None:
            super().__init__()
            self.facts = facts
            self.found = found

    class Measured(Message):
        """Some passes of the model were tried, or are being tried."""

        def __init__(self, of: Draft, words: str, found: list[Check] | None = None) -> None:
            super().__init__()
            self.of = of
            self.words = words
            self.found = found

    def __init__(self, draft: Draft, facts: Facts) -> None:
        super().__init__()
        self.draft = draft
        self.facts = facts
        self.found: list[Check] | None = None

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        yield TitleBar()
        with VerticalScroll(id="page", can_focus=False):
            yield Menu(id="checks", markup=False)
            yield Lines(id="doing")
        yield Footer()

    def on_mount(self) -> None:
        """Look."""
        self.query_one(TitleBar).tell("New run  Before it begins")
        self.query_one(OptionList).focus()
        self._look()

    def _look(self) -> None:
        self.found = None
        self._tell("looking …")
        self.refresh_bindings()
        draft, facts = self.draft, self.facts

        def work() -> None:
            known = facts
            for name in LOOKS:
                look = due(name, draft, known) if name != "columns" else None
                known = look.at(draft, known, lambda what, rows: None) if look else known
            self.post_message(self.Checked(known, checks(draft, known)))

        self.work_in_thread(work, group="check")

    def on_check_screen_checked(self, message: Checked) -> None:
        """Show the verdicts; what has to be measured follows."""
        self.facts = message.facts
        self._tell("")
        self._show(message.found)
        if not any(item.verdict == "fail" for item in message.found):
            self._measure()

    def _show(self, found: list[Check]) -> None:
        self.found = sorted(found, key=lambda item: _ORDER[item.verdict])
        menu = self.query_one(OptionList)
        before = menu.highlighted
        menu.clear_options()
        bad = sum(item.verdict == "fail" for item in self.found)
        if bad:
            words = f"✗ {bad} of these {'keeps' if bad == 1 else 'keep'} the run from beginning"
        else:
            words = "→ Go on to the last page"
        style = "bold $text-error" if bad else "bold"
        menu.add_option(Option(Content.styled(words, style), id="go", disabled=bool(bad)))
        menu.add_options(
            Option(_line(item), id=f"c-{number}", disabled=item.fix is None)
            for number, item in enumerate(self.found)
        )
        can = [place for place, row in enumerate(menu.options) if not row.disabled]
        menu.highlighted = before if before in can else next(iter(can), None)
        self.refresh_bindings()

    def _measure(self) -> None:
        """Try some passes of the model, in a process: one may go on meanwhile."""
        draft, facts = self.draft, self.facts
        self._tell("Measuring how long it takes …")

        def work() -> None:
            found = measured_checks(draft, facts, lambda words: self._say(draft, words))
            self.post_message(self.Measured(draft, "", found))

        self.work_in_thread(work, group="measure")

    def _say(self, draft: Draft, words: str) -> None:
        self.post_message(self.Measured(draft, words))

    def on_check_screen_measured(self, message: Measured) -> None:
        """Show what was measured, unless the answers have changed meanwhile."""
        if message.of != self.draft or self.found is None:
            return
        if message.found is None:
            self._tell(f"Measuring how long it takes: {message.words} …")
        else:
            self._tell("")
            measured = {item.title for item in message.found}
            self._show([*(item for item in self.found if item.title not in measured),
                        *message.found])  # fmt: skip

    def _tell(self, text: str, *, bad: bool = False) -> None:
        words = Content.styled(safe_line(text, limit=400), "$text-error" if bad else MUTED)
        self.query_one("#doing", Lines).show(words.wrap if text else lambda width: [])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim what cannot be done now."""
        del parameters
        if action == "fix_first":
            return True if self._first_fix() is not None else None
        return True

    def _first_fix(self) -> Fix | None:
        return next((item.fix for item in self.found or () if item.fix is not None), None)

    @on(OptionList.OptionSelected)
    def on_row(self, event: OptionList.OptionSelected) -> None:
        """Go on, or mend the line."""
        if self.found is None or event.option_id is None:
            return
        if event.option_id == "go":
            self.dismiss((self.draft, self.facts, self.found))
            return
        fix = self.found[int(event.option_id.removeprefix("c-"))].fix
        if fix is not None:
            self._mend(fix)

    def action_fix_first(self) -> None:
        """Mend the first line that can be."""
        fix = self._first_fix()
        if fix is not None:
            self._mend(fix)

    def _mend(self, fix: Fix) -> None:
        if fix.fetches:
            self._fetch(fix.fetches)
            return
        self.draft = self.draft.with_answers(**fix.answers)
        keep_draft(self.draft)
        self._look()

    def _fetch(self, repo: str) -> None:
        from llamaforge.tui.screens.download import DownloadScreen  # noqa: PLC0415 - seldom

        self.app.push_screen(
            DownloadScreen(repo), lambda is_there: self.action_look_again() if is_there else None
        )

    def action_look_again(self) -> None:
        """Make the checks anew."""
        self.facts = replace(self.facts, base=None)
        self._look()

    def action_back(self) -> None:
        """Go back to the questions."""
        self.dismiss((self.draft, self.facts, None))


def _line(item: Check) -> Content:
    mark, style = MARKS[item.verdict]
    hint = safe_line(item.hint, limit=300) if item.verdict != "pass" else ""
    parts = [
        Content.styled(f"{mark} ", style),
        Content.styled(f"{safe_line(item.title, limit=80)}: ", "bold"),
        Content(safe_line(item.message, limit=300)),
    ]
    if hint:
        parts.append(Content.styled(f"  {hint}", MUTED))
    if item.fix is not None:
        words = safe_line(item.fix.title, limit=120)
        parts.append(Content.styled(f"\n  Enter: {words}", "bold $primary"))
    return Content("").join(parts)
