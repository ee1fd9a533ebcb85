"""Two files in llama.cpp in place of one file with an adapter that is switched on and off."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llamaforge.evaluation.llama import Files, Server


class Served(Protocol):
    """What llama.cpp serves: the tuned model, or the one before."""

    def use_adapter(self, on: bool) -> None:
        """Answer as the tuned model does, or as the one before."""

    def log_probabilities(
        self, ids: Sequence[int], positions: Collection[int]
    ) -> npt.NDArray[np.float32]:
        """Return log P(next token | ids up to and including p) for each p of `positions`."""

    def token_log_probabilities(self, ids: Sequence[int], places: Collection[int]) -> list[float]:
        """Return log P(ids[p] | the ids before it) for each p of `places`."""

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        end_ids: Collection[int],
        stopped: Callable[[], bool] = ...,
        on_token: Callable[[int], None] = ...,
    ) -> list[int]:
        """Return the most probable continuation of `prompt`, without its end."""


class ServedPair:
    """The file before and the merged one. Use it as a context manager."""

    def __init__(self, before: Files, tuned: Files, *, context: int) -> None:
        """Take the files of both, for sequences of at most `context` tokens."""
        self._before = Server(before, context=context)
        self._tuned = Server(tuned, context=context)
        self._current = self._tuned
        self._stack = ExitStack()

    def __enter__(self) -> "ServedPair":
        with ExitStack() as stack:
            stack.enter_context(self._before)
            stack.enter_context(self._tuned)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def use_adapter(self, on: bool) -> None:
        """Answer as the merged file does, or as the one before."""
        self._current = self._tuned if on else self._before

    def log_probabilities(
        self, ids: Sequence[int], positions: Collection[int]
    ) -> npt.NDArray[np.float32]:
        """Return log P(next token) as `Server.log_probabilities` does."""
        return self._current.log_probabilities(ids, positions)

    def token_log_probabilities(self, ids: Sequence[int], places: Collection[int]) -> list[float]:
        """Return log P of given tokens as `Server.token_log_probabilities` does."""
        return self._current.token_log_probabilities(ids, places)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        end_ids: Collection[int],
        stopped: Callable[[], bool] = lambda: False,
        on_token: Callable[[int], None] = lambda token: None,
    ) -> list[int]:
        """Return the most probable continuation as `Server.generate` does."""
        return self._current.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            end_ids=end_ids,
            stopped=stopped,
            on_token=on_token,
        )
