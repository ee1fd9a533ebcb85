"""Whether rows are held out where a recipe cannot do without them."""

from llamaforge.errors import RefusedError
from llamaforge.recipe.spec import Phase


def check_held_out(phase: Phase, marked: int) -> None:
    """Return unless the best checkpoint is wanted and no row will be there to tell it by.

    Args:
        phase: what is trained on, and how.
        marked: rows that say themselves that they are for validation.

    Raises:
        RefusedError: `no_validation`.
    """
    data = phase.data
    is_divided = data.validation_fraction > 0 or data.validation_count is not None
    if phase.training.keeps_best and not marked and not is_divided:
        raise no_validation()


def no_validation() -> RefusedError:
    """Return the refusal of a run whose best checkpoint cannot be told."""
    return RefusedError(
        "No row is held out for validation, so the best checkpoint cannot be told.",
        "Hold some out: --set validation_fraction=0.1; or leave out early_stopping_patience "
        "and load_best_model_at_end.",
        code="no_validation",
    )
