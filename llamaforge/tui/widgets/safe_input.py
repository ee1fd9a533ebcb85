"""A line to type in that may hold text from outside: a path, a column's name, an old answer."""

from typing import Any, ClassVar, Final

from rich.highlighter import Highlighter
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Input

from llamaforge.safe_text import safe_text
from llamaforge.tui.widgets.menu import TAKE_ID

_PICTURES: Final = 0x2400
"""Where Unicode has a picture of each control character."""
_DELETE: Final = "\x7f"
_OTHER: Final = "\ufffd"


class SafeInput(Input):
    """Shows a sign for each character that a terminal would obey; the value stays as it is."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "OK", id=TAKE_ID)]

    def __init__(self, value: str = "", **more: Any) -> None:
        super().__init__(value, highlighter=_Visible(), **more)


class _Visible(Highlighter):
    """Puts one sign in the place of one character, so that the cursor stands where it should."""

    def highlight(self, text: Text) -> None:
        """Replace what is not to be printed."""
        text.plain = "".join(map(_sign, text.plain))


def _sign(char: str) -> str:
    if char not in "\n\t" and safe_text(char) == char:
        return char
    if char < " ":
        return chr(_PICTURES + ord(char))
    return "\u2421" if char == _DELETE else _OTHER
