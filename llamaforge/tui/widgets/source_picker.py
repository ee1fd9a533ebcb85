"""Choosing files: typing with completion, what was used before, and several at once."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llamaforge import paths
from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.answers import Answered, Pending
from llamaforge.tui.widgets.helpful import Helpful
from llamaforge.tui.widgets.lines import MUTED
from llamaforge.tui.widgets.menu import Menu
from llamaforge.tui.widgets.safe_input import SafeInput
from llamaforge.wizard.frozen import FrozenRows, frozen_rows
from llamaforge.wizard.questions import places
from llamaforge.words import plural, size_words

_MOST_ENTRIES: Final = 2_000
_MOST_SHOWN: Final = 40
_SUFFIXES: Final = frozenset(
    {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md", ".gz",
     ".zst", ".zstd"}
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One line of the list."""

    kind: Literal["go", "chosen", "file", "folder", "recent", "demo", "frozen"]
    place: str
    title: str
    words: str = ""


class SourcePicker(Vertical, Helpful, Pending):
    """A line to type in over a list: what is chosen, what was used before, what is in a folder."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "to_list", "Choose from the list", show=False),
    ]

    def __init__(self, chosen: Sequence[str], recent: Sequence[str], typed: str = "") -> None:
        """Begin with what was chosen before; `typed` stands in the line and was not taken yet."""
        super().__init__()
        self._chosen = list(chosen) if len(chosen) > 1 else []
        self._typed = typed or (shlex.join(chosen) if len(chosen) == 1 else "")
        self._recent = recent
        self._entries: list[Entry] = []
        self._frozen: tuple[FrozenRows, ...] = ()

    @dataclass
    class Found(Message):
        """The rows that were frozen earlier are known."""

        frozen: tuple[FrozenRows, ...]

    def help_text(self) -> str:
        """Return how files are chosen."""
        return (
            "Type a path, a pattern such as data/*.jsonl, or hf:OWNER/NAME, and press Enter. The "
            "right arrow takes the proposed ending. The down arrow goes to the list, where Enter "
            "opens a folder or adds a file, so that several can be taken. Rows that were frozen "
            "for an earlier run are there too, divided as they were."
        )

    def compose(self) -> ComposeResult:
        """Lay out the line and the list."""
        yield SafeInput(self._typed, suggester=Paths(), id="input")
        yield Menu(id="places", markup=False)

    def on_mount(self) -> None:
        """Show what there is, and stand in the line."""
        self._show()
        self.query_one(Input).focus()
        self.run_worker(self._look, thread=True, group="frozen", exit_on_error=False)

    def _look(self) -> None:
        self.post_message(self.Found(frozen_rows()))

    def on_source_picker_found(self, message: Found) -> None:
        """Show them too."""
        if message.frozen:
            self._frozen = message.frozen
            self._show()

    @property
    def pending(self) -> str:
        """What is chosen and typed so far, as a line."""
        typed = self.query_one(Input).value.strip()
        return " ".join([*map(shlex.quote, self._chosen), *([typed] if typed else [])])

    @on(Input.Changed)
    def on_typed(self, event: Input.Changed) -> None:
        """Show what the typed path may become."""
        event.stop()
        self._show()

    @on(Input.Submitted)
    def on_entered(self, event: Input.Submitted) -> None:
        """Take what is chosen and what is typed."""
        event.stop()
        self._take()

    def _take(self) -> None:
        typed = places(self.query_one(Input).value.strip())
        self.post_message(Answered(tuple(dict.fromkeys([*self._chosen, *typed]))))

    @on(OptionList.OptionSelected)
    def on_entry(self, event: OptionList.OptionSelected) -> None:
        """Go on, go into a folder, add a file or take one away."""
        event.stop()
        entry = self._entries[event.option_index]
        field = self.query_one(Input)
        if entry.kind == "go":
            self._take()
            return
        if entry.kind == "folder":
            field.value = entry.place
            field.cursor_position = len(entry.place)
        elif entry.kind == "frozen":
            self.post_message(Answered((entry.place,)))
            return
        elif entry.kind == "chosen":
            self._chosen.remove(entry.place)
        else:
            self._chosen.append(entry.place)
            field.value = ""
        self._show()

    def action_to_list(self) -> None:
        """Go from the line to the list."""
        menu = self.query_one(OptionList)
        menu.focus()
        menu.highlighted = 0 if menu.option_count else None

    def _show(self) -> None:
        self._entries = self._listed(self.query_one(Input).value.strip())
        menu = self.query_one(OptionList)
        menu.clear_options()
        menu.add_options(
            Option(
                Content.assemble(
                    (safe_line(entry.title, limit=120), "bold" if entry.kind == "go" else ""),
                    (_words(entry), MUTED),
                )
            )
            for entry in self._entries
        )
        menu.display = bool(self._entries)
        if menu.has_focus and self._entries:
            menu.highlighted = 0

    def _listed(self, typed: str) -> list[Entry]:
        found = []
        if self._chosen:
            count = len(self._chosen)
            found.append(Entry("go", "", f"→ Go on with {plural(count, 'file')}"))
            found += [
                Entry("chosen", place, f"✓ {place}", "Enter takes it away")
                for place in self._chosen
            ]
        if typed:
            return found + _in_folder(typed, self._chosen)
        recent = [place for place in self._recent if place not in self._chosen]
        found += [Entry("recent", place, place, "used before") for place in recent]
        demo = str(paths.embedded_data())
        if demo not in {*recent, *self._chosen}:
            found.append(Entry("demo", demo, "Built-in practice rows", "to see how it goes"))
        if not self._chosen:  # they are learned alone
            found += [Entry("frozen", one.source, one.title, one.words) for one in self._frozen]
        return found


def _words(entry: Entry) -> str:
    """Return what is said of an entry behind its title, or below where that is long."""
    between = "\n  " if entry.kind == "frozen" else "  "
    return f"{between}{safe_line(entry.words, limit=120)}" if entry.words else ""


class Paths(Suggester):
    """Proposes the name of a file that begins as what was typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """Return the value with its last path completed, if there is one."""
        start = value.rfind(" ") + 1
        typed = value[start:]
        found = _names(typed) if typed else []
        if not found:
            return None
        head = typed if typed.endswith("/") else typed[: len(typed) - len(Path(typed).name)]
        return value[:start] + head + found[0]


def _names(typed: str) -> list[str]:
    """Return the names in the folder of a typed path that go on as it ends; folders with `/`."""
    try:
        place = Path(typed).expanduser()
        folder, begin = (place, "") if typed.endswith("/") else (place.parent, place.name)
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name + ("/" if entry.is_dir() else "")
                for number, entry in enumerate(entries)
                if number < _MOST_ENTRIES and entry.name.startswith(begin)
            )
    except (OSError, ValueError, RuntimeError):
        return []
    return [name for name in names if name.isprintable() and not name.startswith(".")]


def _in_folder(typed: str, chosen: Sequence[str]) -> list[Entry]:
    head = typed if typed.endswith("/") else typed[: len(typed) - len(Path(typed).name)]
    found = []
    for name in _names(typed):
        place = head + name
        if name.endswith("/"):
            found.append(Entry("folder", place, name, "folder"))
        elif Path(name).suffix.lower() in _SUFFIXES and place not in chosen:
            found.append(Entry("file", place, name, _size(place)))
    return found[:_MOST_SHOWN]


def _size(place: str) -> str:
    try:
        return size_words(Path(place).expanduser().stat().st_size)
    except OSError:
        return ""
