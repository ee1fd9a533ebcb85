"""The widget that takes the answer to a question."""

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget
from textual.widgets.option_list import Option as Row

from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.column_mapper import ColumnMapper
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.lines_editor import LinesEditor
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.tui.widgets.settings_editor import SettingsEditor
from llamaforge.tui.widgets.source_picker import SourcePicker
from llamaforge.wizard.answers import words_of
from llamaforge.wizard.draft import Draft
from llamaforge.wizard.facts import Facts
from llamaforge.wizard.question import Kind, Option, Question
from llamaforge.wizard.recent import recent_sources
from llamaforge.wizard.row_files import files_for


def question_widget(question: Question, draft: Draft, facts: Facts, typed: str) -> Widget:
    """Return the widget that takes the answer to a question, with what was answered before.

    Args:
        question: what is asked.
        draft: the answers so far.
        facts: what is known.
        typed: what was typed before and not taken; empty where nothing was.
    """
    now = getattr(draft, question.key) or question.default(draft, facts)
    options = question.options(draft, facts)
    match question.kind:
        case Kind.CHOICE:
            widget: Widget = _menu(options, str(now))
        case Kind.YES_NO:
            choices = [Option("no", "No"), Option("yes", "Yes")]
            widget = _menu(choices, "yes" if now else "no")
        case Kind.SOURCES:
            widget = SourcePicker(tuple(now or ()), recent_sources(), typed)
        case Kind.COLUMNS:
            widget = ColumnMapper(files_for(draft, facts.files), options, typed or str(now))
        case Kind.SETTINGS:
            widget = SettingsEditor(draft, facts)
        case Kind.LINES:
            widget = LinesEditor(tuple(now or ()), options, typed)
        case Kind.TEXT:
            widget = SafeInput(typed or words_of(question, now), id="input")
    return widget


def _menu(options: Sequence[Option], chosen: str) -> Menu:
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
    menu = Menu(*rows, id="menu")
    values = [option.value for option in options]
    menu.highlighted = values.index(chosen) if chosen in values else 0
    return menu


def _begun(text: str) -> str:
    """Return a clause as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
