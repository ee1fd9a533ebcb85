"""A widget whose lines are a pure function of its width: what it shows can be tested without it."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

Build = Callable[[int], Sequence[Content]]
"""Takes a width in cells, returns lines of at most that width."""

_COLUMN_GAP: Final = 3
MUTED: Final = "$foreground 70%"
"""Light enough to stand back, dark enough to be read on every ground, a cursor too."""


class Lines(Widget):
    """Shows what a function of the width returns; as high as that is, unless styled otherwise."""

    DEFAULT_CSS = """
    Lines { height: auto; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self._build: Build = lambda width: []
        self._built: tuple[int, Sequence[Content]] = (-1, ())
        """The width for which lines were built last, and these."""

    def show(self, build: Build) -> None:
        """Show the lines of `build` from now on; what is there already is not painted again."""
        width, before = self._built
        self._build = build
        if width != self.content_size.width:
            self._built = (-1, ())
            if self._has_place():
                self.refresh(layout=True)
            return
        lines = build(width)
        self._built = (width, lines)
        if len(lines) != len(before):
            self.refresh(layout=True)
        elif [(line.plain, line.spans) for line in lines] != [
            (line.plain, line.spans) for line in before
        ]:
            self.refresh()

    def _has_place(self) -> bool:
        """Whether it is laid out, be it of no height; the whole screen would be laid out anew."""
        return all(node.display for node in self.ancestors_with_self)

    def on_show(self) -> None:
        """Be as high as what was to be shown meanwhile."""
        if self._built[0] != self.content_size.width:
            self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the number of lines."""
        del container, viewport
        return len(self._build(width))

    def render(self) -> Content:
        """Return the lines."""
        width = self.content_size.width
        if self._built[0] != width:
            self._built = (width, self._build(width))
        return Content("\n").join(self._built[1])


def hanging(label: Content, value: Content, *, indent: int, width: int) -> list[Content]:
    """Return `value` wrapped at `width`, all lines `indent` cells in, the first behind `label`."""
    room = max(width - indent, 8)
    blank = Content.blank(indent)
    first = label.pad_right(max(indent - label.cell_length, 0))
    lines = value.wrap(room) or [Content("")]
    return [(first if number == 0 else blank) + line for number, line in enumerate(lines)]


def column_width(count: int, width: int) -> int:
    """Return how many cells each of `count` columns has."""
    return max((width - _COLUMN_GAP * (count - 1)) // count, 8)


def side_by_side(columns: Sequence[Sequence[Content]], width: int) -> list[Content]:
    """Return columns of lines as lines, with a rule between them."""
    room = column_width(len(columns), width)
    rule = Content.styled(" │ ", "$foreground 25%")
    return [
        rule.join([cell.pad_right(max(room - cell.cell_length, 0)) for cell in row])
        for row in itertools.zip_longest(*columns, fillvalue=Content(""))
    ]


def facts(pairs: Iterable[tuple[str, str | Content]], width: int) -> list[Content]:
    """Return pairs of label and value as two aligned columns, without empty values."""
    shown = [(label, value) for label, value in pairs if value]
    indent = max((len(label) for label, _ in shown), default=0) + 2
    lines: list[Content] = []
    for label, value in shown:
        text = value if isinstance(value, Content) else Content(value)
        lines += hanging(Content.styled(label, MUTED), text, indent=indent, width=width)
    return lines
