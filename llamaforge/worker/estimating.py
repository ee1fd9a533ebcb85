"""What a run is expected to take and what it took: the same figures, side by side in its folder."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamaforge import hardware
from llamaforge.errors import RefusedError
from llamaforge.files import write_json
from llamaforge.gguf.header import Header
from llamaforge.recipe.batching import planned_steps
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import Estimator, RowSizes
from llamaforge.recipe.fit import Fit, fitted
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.preflight import held_bytes, least_memory, trained_parameters
from llamaforge.recipe.spec import RunSpec
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.words import size_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from llamaforge.data.encoding import EncodedRecord
    from llamaforge.training.model import LoadedModel

_ALONE: Final = LaunchSettings()


@dataclass(frozen=True)
class Estimated:
    """A cut that fits, and what it rests on."""

    estimator: Estimator
    fit: Fit
    available: int
    """Memory that the process may have in all, in bytes."""


def sizes_of(items: "Iterable[EncodedRecord]") -> tuple[tuple[int, int], ...]:
    """Return tokens and trained tokens of what passes for each item; of a pair, both its sides."""
    found = []
    for item in items:
        trained = sum(item.row.trained)
        if item.rejected is None:
            found.append((item.tokens, trained))
        else:
            found.append((2 * item.tokens, trained + sum(item.rejected.trained)))
    return tuple(found)


def available_bytes(device: "torch.device", launch: LaunchSettings = _ALONE) -> int:
    """Return the memory that a process may take where `device` computes, in all.

    It is one of those of `launch`, among which a machine's memory is divided; a GPU's is not.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + int(torch.cuda.memory_reserved(device))
    held = hardware.own_memory_bytes()
    return hardware.available_memory_bytes(held=held) // launch.processes


def estimated(
    loaded: "LoadedModel",
    model: "PeftModel | PreTrainedModel",
    header: Header,
    settings: TrainingSettings,
    rows: RowSizes,
    *,
    held: int | None = None,
    launch: LaunchSettings = _ALONE,
    thorough: bool = False,
) -> Estimated:
    """Try some passes of `model`, and return the cut that fits with what it is expected to take.

    The trial of a short training is short, unless it shall be `thorough`. `held` is what the frozen
    weights of another base than the file's own take, `launch` the processes that will train.

    Raises:
        RefusedError: not even one row at a time fits (`no_memory`).
    """
    from llamaforge.training.lora import trainable_parameters
    from llamaforge.training.trial import measure

    trained = trainable_parameters(model)
    available = available_bytes(model.device, launch)
    _require_least(least_memory(header, settings, trained, held), available)
    tried = settings
    for _ in range(2):
        trial = measure(
            model,
            loaded.head,
            tried,
            Estimator(header, settings, trained, held_bytes=held, launch=launch),
            longest=rows.longest_tokens,
            room_bytes=available,
            planned_tokens=math.inf if thorough else _planned_tokens(settings, rows),
        )
        estimator = Estimator(header, settings, trained, trial, held_bytes=held, launch=launch)
        fit = fitted(estimator, rows, available)
        if fit.cut.gradient_checkpointing is trial.recomputed:
            break
        # What is chosen is measured too: how much recomputing saves is no matter of formulas.
        tried = fit.cut.applied(settings)
    return Estimated(estimator, fit, available)


def guessed(spec: RunSpec, header: Header, rows: RowSizes) -> Estimated:
    """Return the cut that fits by formulas alone, for each of the processes that train together.

    Raises:
        RefusedError: not even one row at a time fits (`no_memory`).
    """
    trained = trained_parameters(header, spec.training)
    estimator = Estimator(
        header,
        spec.training,
        trained,
        held_bytes=held_bytes(spec, header),
        launch=spec.launch,
    )
    if spec.training.device == "cuda":
        import torch

        available, _ = torch.cuda.mem_get_info()
    else:
        available = hardware.available_memory_bytes() // spec.launch.processes
    return Estimated(estimator, fitted(estimator, rows, int(available)), int(available))


def _require_least(least: int, available: int) -> None:
    if available < least:
        raise RefusedError(
            f"Training needs at least {size_words(least)} of memory, and {size_words(available)} "
            "are available.",
            "Close other programs, or choose a smaller model or one of smaller blocks.",
            code="no_memory",
        )


def _planned_tokens(settings: TrainingSettings, rows: RowSizes) -> float:
    steps = planned_steps(settings, rows.train_rows)
    step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    mean = sum(tokens for tokens, _ in rows.train) / max(len(rows.train), 1)
    return steps * min(step, rows.train_rows) * mean


def predicted(found: Estimated) -> dict[str, Any]:
    """Return what is expected of a run, as it stands in its `estimate.json`."""
    estimator, fit, seconds = found.estimator, found.fit, found.fit.seconds
    return {
        "memory_bytes": fit.memory.to_json(),
        "available_bytes": found.available,
        "seconds_per_step": None if seconds is None else round(seconds.step, 4),
        "steps": None if seconds is None else seconds.steps,
        "seconds": None if seconds is None else round(seconds.total, 2),
        "settings": asdict(fit.cut),
        "trial": None if estimator.trial is None else asdict(estimator.trial),
    }


class Record:
    """Predicted and measured figures of a run's training, kept in one file.

    A run that is resumed adds to what was measured before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._body = _read(path)
        self._seconds = 0.0
        self._steps = 0
        self._started = 0.0

    def predict(self, figures: dict[str, Any]) -> None:
        """Keep what is expected."""
        self._body = {"predicted": figures, "measured": None}
        write_json(self._path, self._body)

    def begin(self, device: "torch.device") -> None:
        """Start to measure."""
        from llamaforge.training.heap import release_memory, reset_peak

        release_memory()
        reset_peak(device)
        self._started = time.monotonic()

    def watched(self, emit: "Callable[[events.Event], None]") -> "Callable[[events.Event], None]":
        """Return an `emit` that passes events on, and counts the steps among them."""

        def count(event: events.Event) -> None:
            if isinstance(event, events.Step) and event.seconds is not None:
                self._steps += 1
                self._seconds += event.seconds
            emit(event)

        return count

    def end(self, device: "torch.device") -> dict[str, Any]:
        """Keep what was measured, and return both figures."""
        from llamaforge.training.heap import peak_bytes

        before = self._body.get("measured") or {}
        steps = self._steps + int(before.get("steps", 0))
        training = self._seconds + float(before.get("training_seconds", 0.0))
        total = time.monotonic() - self._started + float(before.get("seconds", 0.0))
        self._body["measured"] = {
            "memory_bytes": max(peak_bytes(device), int(before.get("memory_bytes", 0))),
            "seconds_per_step": round(training / steps, 4) if steps else None,
            "steps": steps,
            "training_seconds": round(training, 3),
            "seconds": round(total, 3),
        }
        write_json(self._path, self._body)
        return self._body


def kept_cut(path: Path) -> Cut | None:
    """Return the cut that a run was begun with, or None where it was never begun."""
    body = _read(path)
    try:
        return Cut(**{name: body[name] for name in Cut.__dataclass_fields__})
    except KeyError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
