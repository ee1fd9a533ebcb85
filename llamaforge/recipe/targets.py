"""Whether the layers that a recipe names are ones that the model has."""

from llamaforge.errors import UsageError
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import layer_names
from llamaforge.recipe.spelling import nearest
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.safe_text import safe_line


def check_targets(training: TrainingSettings, header: Header) -> None:
    """Return unless a name of `target_modules` fits no layer of the model with `header`.

    The loaded model knows its layers exactly; this finds names that no such model could have.

    Raises:
        UsageError: `target_modules`.
    """
    if isinstance(training.target_modules, str):
        return
    known = layer_names(header)
    for name in training.target_modules:
        if name not in known:
            near = nearest(name, [layer for layer, is_usual in known.items() if is_usual])
            raise UsageError(
                f"The model has no layer named {safe_line(name, limit=60)!r} to train.",
                f"Did you mean {near}?"
                if near
                else "Leave target_modules out to train all layers.",
                code="target_modules",
            )
