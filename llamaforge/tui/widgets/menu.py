"""A list to choose from, whose key stands with the others at the bottom of the screen."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

TAKE_ID = "answer.take"
"""Of the key that takes what is chosen or typed."""


class Menu(OptionList):
    """Entries of which one is taken with Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "OK", id=TAKE_ID)]
