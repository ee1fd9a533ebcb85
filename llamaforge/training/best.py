"""Which checkpoint has the least validation loss, and whether to go on at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Final

from llamaforge.files import commit, sync_folder, write_json
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.training.checkpoints import damage_of

_FOLDER: Final = "best"
_NOTE: Final = "evaluations.json"


class BestCheckpoint:
    """Follows the validation loss, and keeps the checkpoint at which it was least.

    What was measured is kept in a file, so that a resumed run decides as one that never stopped.
    """

    def __init__(self, folder: Path, settings: TrainingSettings, *, step: int) -> None:
        """Take the folder of the checkpoints, and the step that training goes on from."""
        self._folder = folder
        self._settings = settings
        self._measured = [item for item in _read(folder / _NOTE) if item[0] <= step]

    def take(self, step: int, loss: float) -> bool:
        """Note a validation loss; return whether it is the least by more than the threshold."""
        self._measured.append((step, loss))
        write_json(self._folder / _NOTE, self._measured)
        return self.step == step

    def keep(self, checkpoint: Path) -> None:
        """Keep a checkpoint as the best one, in place of the one before."""
        target = self._folder / _FOLDER
        target.mkdir(mode=0o700, exist_ok=True)
        temporary = target / ".new"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        for path in checkpoint.iterdir():
            _link(path, temporary / path.name)
        sync_folder(temporary)
        final = target / checkpoint.name
        shutil.rmtree(final, ignore_errors=True)
        commit(temporary, final)
        for path in target.iterdir():
            if path != final:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def step(self) -> int | None:
        """The step of the best checkpoint; None before anything was measured."""
        best = self._best()
        return None if best is None else self._measured[best][0]

    @property
    def loss(self) -> float | None:
        """Its validation loss."""
        best = self._best()
        return None if best is None else self._measured[best][1]

    @property
    def is_over(self) -> bool:
        """Whether the loss has not become less for as many measurements as patience lasts."""
        patience, best = self._settings.early_stopping_patience, self._best()
        if patience is None or best is None:
            return False
        return len(self._measured) - 1 - best >= patience

    def _best(self) -> int | None:
        """Return the number of the measurement that is least; the first of those alike."""
        best: int | None = None
        for number, (_, loss) in enumerate(self._measured):
            least = None if best is None else self._measured[best][1]
            if least is None or loss < least - self._settings.early_stopping_threshold:
                best = number
        return best


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that was kept as the best one in `folder`, if it is whole."""
    place = folder / _FOLDER
    kept = [path for path in place.glob("step-*") if damage_of(path) is None]
    return max(kept, default=None)


def _read(path: Path) -> list[tuple[int, float]]:
    try:
        return [(int(step), float(loss)) for step, loss in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _link(source: Path, target: Path) -> None:
    """Put a file into another folder, where the disk allows it without a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
