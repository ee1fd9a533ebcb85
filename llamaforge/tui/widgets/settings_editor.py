"""All settings in a list: what each is, what it can be, and what changing it does."""

from collections.abc import Mapping
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.spec import Recipe
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.answers import Answered, Kept
from llamaforge.tui.widgets.helpful import Helpful
from llamaforge.tui.widgets.lines import MUTED, Lines, facts
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.effects import effect_words
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.questions import advice_for, settings_of
from llamaforge.wizard.settings import SETTINGS, Setting, setting_of, value_words


class SettingsEditor(Vertical, Helpful):
    """A list of settings over a line to change one, and what is known of it."""

    @dataclass
    class Known(Message):
        """What the run takes now, in words."""

        of: Mapping[str, str]
        words: str

    def __init__(self, draft: Draft, known: Facts) -> None:
        super().__init__()
        self.draft, self._left_out = draft.fitting(advice_for(draft, known))
        self._known = known
        self._recipe: Recipe = self._made(self.draft)
        self._words = ""

    def help_text(self) -> str:
        """Return how a setting is changed."""
        return (
            "Enter on a setting goes to the line, where you type its value; an empty value gives "
            "it back to the preset. KEY=VALUE changes any setting from anywhere. A dot marks what "
            "you changed. The first entry goes on."
        )

    def _made(self, draft: Draft) -> Recipe:
        return draft.recipe(advice_for(draft, self._known))

    def compose(self) -> ComposeResult:
        """Lay out the list, the line and what is known."""
        yield Menu(id="settings", markup=False)
        yield SafeInput(
            id="input", placeholder="KEY=VALUE, or Enter on a setting", select_on_focus=False
        )
        yield Lines(id="about")

    def on_mount(self) -> None:
        """Stand on going on, which keeps all as it is advised."""
        self._fill(0)
        self.query_one(OptionList).focus()
        self._look()
        if self._left_out:
            self.post_message(Kept(dict(self.draft.settings)))

    def _fill(self, place: int) -> None:
        menu = self.query_one(OptionList)
        menu.clear_options()
        count = len(self.draft.settings)
        changed = f" with {count} changed" if count else " with these"
        menu.add_option(Option(Content.styled(f"→ Go on{changed}", "bold")))
        menu.add_options(self._row(setting) for setting in SETTINGS)
        menu.highlighted = place

    @property
    def _reasons(self) -> dict[str, str]:
        """Why a setting has the value that the preset advises."""
        return {item.key: item.reason for item in advice_for(self.draft, self._known)}

    def _row(self, setting: Setting) -> Option:
        own = self._own(setting)
        value = safe_line(value_words(setting.value(self._recipe)), limit=14) or "–"
        advised = "advised" if setting.key in self._reasons else ""
        return Option(
            Content.assemble(
                ("● " if own is not None else "  ", "$text-warning"),
                f"{setting.key:<29}",
                (f"{value:<15}", "bold"),
                ("yours" if own is not None else advised, MUTED),
            )
        )

    def _own(self, setting: Setting) -> str | None:
        found = [key for key in self.draft.settings if setting_of(key) is setting]
        return found[0] if found else None

    @property
    def chosen(self) -> Setting | None:
        """The setting under the cursor; None on going on."""
        place = self.query_one(OptionList).highlighted
        return SETTINGS[place - 1] if place else None

    @on(OptionList.OptionHighlighted)
    def on_other(self, event: OptionList.OptionHighlighted) -> None:
        """Show what is known of the setting under the cursor."""
        event.stop()
        self._show()

    @on(OptionList.OptionSelected)
    def on_setting(self, event: OptionList.OptionSelected) -> None:
        """Go on, or go to the line with the setting's value in it."""
        event.stop()
        setting = self.chosen
        if setting is None:
            self.post_message(
                Answered(" ".join(f"{k}={v}" for k, v in self.draft.settings.items()))
            )
            return
        field = self.query_one(Input)
        field.value = f"{setting.key}={value_words(setting.value(self._recipe))}"
        field.cursor_position = len(field.value)
        field.focus()

    @on(Input.Submitted)
    def on_value(self, event: Input.Submitted) -> None:
        """Take a value, or say what speaks against it."""
        event.stop()
        text = event.value.strip()
        if text and "=" not in text:  # a bare value is for the setting under the cursor
            if self.chosen is None:
                self._show("Write it as KEY=VALUE, or press Enter on a setting first.")
                return
            text = f"{self.chosen.key}={text}"
        settings = dict(self.draft.settings)
        for key, value in settings_of(text).items():
            setting = setting_of(key)
            own = self._own(setting) if setting is not None else None
            settings.pop(own or key, None)
            if value:
                settings[key] = value
        draft = self.draft.with_answers(settings=settings)
        try:
            self._recipe = self._made(draft)
        except LlamaForgeError as error:
            self._show(f"{error.message} {error.hint}")
            return
        self.draft, self._left_out = draft, ()
        event.input.value = ""
        self._fill(0)
        self.query_one(OptionList).focus()
        self.post_message(Kept(settings))
        self._look()

    def _look(self) -> None:
        draft, known = self.draft, self._known

        def work() -> None:
            self.post_message(self.Known(draft.settings, effect_words(draft, known)))

        self.run_worker(work, thread=True, exclusive=True, group="effect", exit_on_error=False)

    def on_settings_editor_known(self, message: Known) -> None:
        """Show what the run takes now."""
        if message.of == self.draft.settings:
            self._words = message.words
            self._show()

    def _show(self, problem: str = "") -> None:
        if self._left_out and not problem:
            problem = (
                f"Left out, as it does not go with your other answers: {', '.join(self._left_out)}"
            )
        setting, words = self.chosen, self._words
        why = "" if setting is None or self._own(setting) else self._reasons.get(setting.key, "")

        def build(width: int) -> list[Content]:
            lines: list[Content] = []
            pairs: list[tuple[str, str]] = []
            if problem:
                lines += Content.styled(safe_line(problem, limit=300), "$text-error").wrap(width)
            elif setting is not None:
                unit = f" {setting.unit}" if setting.unit else ""
                pairs = [("what", setting.help), ("can be", f"{setting.bounds}{unit}"),
                         ("larger", setting.cost), ("why so", why)]  # fmt: skip
            return lines + facts([*pairs, ("takes", safe_line(words, limit=300))], width)

        self.query_one("#about", Lines).show(build)
