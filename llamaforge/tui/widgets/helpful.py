"""A part of a screen that explains itself when it has the focus and somebody asks for help."""


class Helpful:
    """Mixed into widgets and screens' parts that have an explanation of their own."""

    def help_text(self) -> str:
        """Return a sentence or two for somebody who sees it for the first time."""
        raise NotImplementedError
