"""The libraries of training, which take seconds to load."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LAST: Final = "llamaforge.training.trainer"
_LEFT_OUT: Final = ("datasets", "scipy")
"""What transformers loads where it is installed, for datasets of its own kind and for losses of
models that see: with what these load themselves a fifth of the time."""


def load_libraries() -> None:
    """Import what training takes; what is loaded already costs nothing."""
    if _LAST in sys.modules:
        return
    with undisturbed():
        import peft
        import torch
        import transformers

        import llamaforge.training.trainer

        del peft, torch, transformers, llamaforge


@contextmanager
def undisturbed() -> Iterator[None]:
    """Import heavy libraries without what they never call here, and without looking for garbage.

    What imports make stays: walking through it again and again takes a fifth of their time. It is
    to be the first work of a process, since nothing that is there at its end is ever collected.
    """
    names = [name for name in _LEFT_OUT if name not in sys.modules]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    gc.disable()
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        gc.freeze()
        gc.enable()
