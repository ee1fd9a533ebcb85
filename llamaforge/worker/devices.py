"""The device that a run computes on."""

from llamaforge.errors import RefusedError
from llamaforge.recipe.training_settings import TrainingSettings


def require_device(settings: TrainingSettings) -> None:
    """Check that the device that the settings name can be computed on.

    Raises:
        RefusedError: it cannot (`no_gpu`).
    """
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        raise RefusedError(
            "This torch sees no GPU."
            if built
            else f"torch {torch.__version__} was built without GPU support.",
            "Leave out --set device=cuda, or look at the driver with nvidia-smi."
            if built
            else "Install a GPU build of torch into the same environment, or leave out "
            "--set device=cuda.",
            code="no_gpu",
        )
