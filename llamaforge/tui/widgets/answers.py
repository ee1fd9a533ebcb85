"""What widgets that take an answer have in common: the message with it."""

from typing import Any

from textual.message import Message


class Answered(Message):
    """Somebody gave an answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
