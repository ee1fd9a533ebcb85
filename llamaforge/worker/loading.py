"""The libraries of training, which take seconds to load."""

import gc


def load_libraries() -> None:
    """Import what training takes, without looking for garbage meanwhile.

    What imports make stays: walking through it again and again takes a fifth of their time.
    """
    gc.disable()
    try:
        import peft
        import torch
        import transformers

        import llamaforge.training.trainer

        del peft, torch, transformers, llamaforge
    finally:
        gc.freeze()
        gc.enable()
