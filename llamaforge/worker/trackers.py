"""A run's figures for the programs that people compare runs with, beside `events.jsonl`.

They are imported only where the recipe asks for them, and get figures and settings: no rows, no
prompts, no answers. What fails there is told once, and the run goes on.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamaforge import paths
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import events
from llamaforge.safe_text import redact, safe_line

_PROJECT: Final = "llamaforge"
_STEP_FIGURES: Final = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_bytes",
    "epoch",
)


@dataclass(frozen=True)
class Tracker:
    """An opened tracker."""

    log: Callable[[dict[str, float], int], object]
    """Takes figures and the optimizer step that they belong to."""
    close: Callable[[], object]


Opener = Callable[[str, Path, Mapping[str, Any]], Tracker]
"""From the run's name, its folder and its settings."""


def _tensorboard(run: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(log_dir=str(folder / "tensorboard"))
    lines = [f"    {key}: {value}" for key, value in settings.items()]
    writer.add_text("settings", "\n".join(lines), 0)

    def log(figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    del run
    return Tracker(log, writer.close)


def _trackio(run: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    import trackio

    del folder
    trackio.init(project=_PROJECT, name=run, config=dict(settings), resume="allow", embed=False)
    return Tracker(lambda figures, step: trackio.log(figures, step=step), trackio.finish)


def _mlflow(run: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{paths.home() / 'mlflow.db'}")
    mlflow.set_experiment(_PROJECT)
    noted = folder / "mlflow-run"
    known = noted.read_text(encoding="ascii") if noted.exists() else None
    active = mlflow.start_run(run_id=known, run_name=None if known else run)
    if known is None:
        noted.write_text(active.info.run_id, encoding="ascii")
        mlflow.log_params(dict(settings))
    return Tracker(lambda figures, step: mlflow.log_metrics(figures, step=step), mlflow.end_run)


def _wandb(run: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    import wandb

    opened = wandb.init(
        project=_PROJECT,
        name=run,
        id=run,
        resume="allow",
        dir=str(folder),
        config=dict(settings),
        settings=wandb.Settings(console="off", disable_git=True, save_code=False),
    )
    return Tracker(lambda figures, step: opened.log(figures, step=step), opened.finish)


def _named(side: str, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"{side}/{name}": value for name, value in figures.items()}


_OPENERS: Final[dict[str, Opener]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


class Trackers:
    """All trackers that a recipe asks for."""

    def __init__(self, spec: RunSpec, folder: Path, warn: Callable[[str, str], None]) -> None:
        """Open them; `warn` takes the code and the words of what fails."""
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        settings = {
            "model": spec.model.name,
            "architecture": spec.model.architecture,
            "quantization": spec.model.quantization,
        } | spec.training.model_dump(mode="json", exclude={"report_to"})
        for name in dict.fromkeys(spec.training.report_to):
            opener = _OPENERS[name]
            self._guarded(name, lambda name=name, opener=opener: self._open.__setitem__(  # type: ignore[misc]
                name, opener(spec.run, folder, settings)
            ))  # fmt: skip

    def take(self, event: events.Event) -> None:
        """Pass an event's figures on, if it has any."""
        match event:
            case events.Step():
                found = {name: getattr(event, name) for name in _STEP_FIGURES}
                figures = _named("train", found | dict(event.metrics))
            case events.Eval():
                figures = _named("eval", {"loss": event.loss} | dict(event.metrics))
            case _:
                return
        known = {name: float(value) for name, value in figures.items() if value is not None}
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: tracker.log(known, event.step))  # type: ignore[misc]

    def close(self) -> None:
        """Let them write what they still hold."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)
        self._open.clear()

    def _guarded(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # their failures are their own
            self._open.pop(name, None)
            reason = safe_line(redact(str(error)) or type(error).__name__, limit=200)
            self._warn(
                "tracker_failed",
                f"{name} gets no more figures of this run: {reason}. All of them are in "
                "events.jsonl, and training goes on.",
            )
