"""What a model on a server is asked and what it answers, whoever serves it."""

from dataclasses import dataclass
from typing import Any, Protocol

from llamaforge.data.records import Message
from llamaforge.errors import LlamaForgeError


@dataclass(frozen=True, slots=True)
class Asking:
    """How answers are to be made. What is None is left to the server."""

    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    """Tokens of an answer at most, thinking included."""
    context_tokens: int | None = None
    """Tokens of prompt and answer that the server makes room for; Ollama cuts what is longer."""
    schema: dict[str, Any] | None = None
    """A JSON schema that the answer should keep to, where the server can hold a model to one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, as it came: make it safe before printing."""

    text: str
    was_cut: bool
    """Whether it ended because it had reached its number of tokens."""
    tokens: int
    """Tokens of the answer as the server counts them; 0 where it does not say."""


class Teacher(Protocol):
    """A model on a server. Its method may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The model's name, safe to print."""

    def ask(self, messages: tuple[Message, ...], asking: Asking) -> Answer:
        """Return the model's answer.

        Raises:
            BusyError: it may work if it is asked again.
            UnansweredError: it will not, and another prompt may.
            LlamaForgeError: no prompt will be answered.
        """


class BusyError(Exception):
    """The server is overloaded, slow or broke off. The text is the reason, safe to print."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        """How long the server asks to be left alone."""


class UnansweredError(Exception):
    """This prompt gets no usable answer. The text is the reason, one clause safe to print."""


def no_answer_yet(reason: str) -> LlamaForgeError:
    """Return why the work was given up: one prompt after the other failed."""
    return LlamaForgeError(
        f"One prompt after the other gets no answer; the last: {reason}.",
        "Look at the server's log; the same command goes on from here.",
        code="server_failing",
    )
