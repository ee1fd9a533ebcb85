"""What widgets that take an answer have in common: the messages with it."""

from typing import Any

from textual.message import Message


class Answered(Message):
    """Somebody gave an answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


class Kept(Message):
    """A part of the answer was given, and is to be kept whatever comes."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


class Pending:
    """Mixed into widgets in which something can be typed and not be taken yet."""

    @property
    def pending(self) -> str:
        """What was typed or put together so far, as the widget takes it again."""
        raise NotImplementedError
