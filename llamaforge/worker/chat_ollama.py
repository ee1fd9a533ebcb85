"""Base and published model, answered for by the Ollama server that serves both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from llamaforge.catalog.host import resolve_host
from llamaforge.catalog.names import parse_name
from llamaforge.catalog.ollama_server import OllamaServer, Patience
from llamaforge.errors import NotFoundError

_ANSWER_SECONDS: Final = 600.0
"""Loading a model from a slow disk, or the time between two words of it."""
_MOST_NEW_TOKENS: Final = 512


class OllamaTalker(OllamaServer):
    """Both models under their names in Ollama."""

    backend = "ollama"

    def __init__(self, base: str, tuned: str) -> None:
        super().__init__(resolve_host(None), Patience())
        self.names = {"base": parse_name(base).short, "tuned": parse_name(tuned).short}

    def answer(
        self,
        arm: str,
        turns: Sequence[Mapping[str, str]],
        on_text: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> tuple[int, bool]:
        """Give the answer as the server streams it; the most probable word each time.

        Raises:
            RefusedError, LlamaForgeError: as `OllamaServer`.
        """
        count, reason = 0, ""
        with self._translated():
            stream = self._client(_ANSWER_SECONDS).chat(
                self.names[arm],
                messages=list(turns),
                stream=True,
                options={"num_predict": _MOST_NEW_TOKENS, "temperature": 0},
            )
            for part in stream:
                if part.message.content:
                    on_text(part.message.content)
                if part.done:
                    count, reason = int(part.eval_count or 0), str(part.done_reason or "")
                if stopped():
                    return count, True
        return count, reason == "length"


@contextmanager
def ollama_talker(base: str, tuned: str) -> Iterator[OllamaTalker]:
    """Talk to both models on the server.

    Raises:
        NotFoundError: it has one of them no longer.
        RefusedError: no server answers.
    """
    with OllamaTalker(base, tuned) as talker:
        for name in talker.names.values():
            if talker.show(parse_name(name)) is None:
                raise NotFoundError(
                    f"The server has no model named {name}.",
                    "Publish the run again, or pull the model again.",
                    code="no_model",
                )
        yield talker
