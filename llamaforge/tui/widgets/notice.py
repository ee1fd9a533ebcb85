"""What stands where a list would be: that it is empty, or why it cannot be shown."""

from collections.abc import Sequence

from textual.content import Content

from llamaforge.safe_text import safe_line
from llamaforge.tui.widgets.lines import MUTED, Lines, hanging


class Notice(Lines):
    """A sentence of what is, and lines of what to do."""

    def tell(self, mark: Content, text: str, hints: Sequence[str]) -> None:
        """Show this, and be there; text from outside is made safe here."""
        text = safe_line(text)
        lines = [safe_line(hint) for hint in hints if hint]

        def build(width: int) -> list[Content]:
            shown = hanging(mark, Content.styled(text, "bold"), indent=2, width=width)
            for hint in lines:
                shown += [Content("")]
                shown += hanging(Content.styled("→", MUTED), Content(hint), indent=2, width=width)
            return shown

        self.show(build)
        self.add_class("-shown")

    def hide(self) -> None:
        """Be gone."""
        self.remove_class("-shown")
