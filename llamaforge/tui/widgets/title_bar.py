"""The line on top of every screen: the program, where one is, and in what state that is."""

from textual.content import Content

from llamaforge.tui.widgets.lines import MUTED, Lines


class TitleBar(Lines):
    """Shows a place on the left and a state on the right."""

    def tell(self, place: str, state: Content | None = None) -> None:
        """Show these; `place` is safe text."""
        left = Content.assemble(
            ("LlamaForge", "bold $primary"),
            ("  ›  ", MUTED),
            place,
        )
        right = state or Content("")

        def build(width: int) -> list[Content]:
            room = max(width - right.cell_length - 2, 0)
            shown = left.truncate(room, ellipsis=True)
            return [shown.pad_right(max(width - shown.cell_length - right.cell_length, 0)) + right]

        self.show(build)
