"""The training loop: transformers' Trainer with our loss, our batches and our checkpoints."""

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import psutil
import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from llamaforge.errors import LlamaForgeError
from llamaforge.recipe.training_settings import TrainingSettings
from llamaforge.runs import events
from llamaforge.training.arguments import training_arguments, warmup_note
from llamaforge.training.batches import Loader
from llamaforge.training.best import BestCheckpoint
from llamaforge.training.checkpoints import (
    bytes_of,
    commit_checkpoint,
    newest_checkpoint,
    partial_folder,
    set_aside,
    step_of,
)
from llamaforge.training.heap import GiveBackGaps
from llamaforge.training.lora import base_model
from llamaforge.training.objective import Measured, Objective
from llamaforge.training.ranks import ALONE, Ranks

_SPEED_STEPS: Final = 10
"""Steps over which tokens a second and the time left are averaged."""
_SAVED_BYTES_A_WEIGHT: Final = 12
"""A checkpoint's share of each trained weight: itself and Adam's two moments in float32."""
_SAVED_EXTRA_BYTES: Final = 4_000_000
"""What a checkpoint holds beside them."""

Emit = Callable[[events.Event], None]


@dataclass(frozen=True)
class Wishes:
    """What a person may ask while training runs; each is looked for after every step."""

    stop: Callable[[], bool]
    """Whether to save and end."""
    save: Callable[[], bool]
    """Whether to save and go on; each wish is told once."""
    samples: Callable[[], list[str] | None] = lambda: None
    """Prompts to answer now, or an empty list for any; None where nobody asks."""
    pause: Callable[[Callable[[], None], Callable[[], None]], None] = lambda _before, _meanwhile: (
        None
    )
    """Wait for as long as a pause is wanted. Calls the first function where there is a pause at
    all, and the second one again and again while it lasts."""
    space: Callable[[int], bool] = lambda _bytes: True
    """Wait until so many bytes are free for a checkpoint. Returns whether there was a wait."""


class Probes(Protocol):
    """What answers prompts with the model as it is."""

    def at_eval(self, step: int) -> None:
        """Answer the prompts of the recipe."""

    def asked(self, step: int, prompts: Sequence[str]) -> None:
        """Answer `prompts`; without any, some that are at hand."""


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    step: int
    total: int
    stopped: bool
    """Whether a person ended it before its last step."""


def train(
    model: PeftModel | PreTrainedModel,
    objective: Objective,
    settings: TrainingSettings,
    checkpoints: Path,
    *,
    emit: Emit,
    wishes: Wishes,
    probes: Probes | None = None,
    ranks: Ranks = ALONE,
    together: bool = False,
) -> Outcome:
    """Train what is to be trained of `model` in place; goes on from the newest whole checkpoint.

    Args:
        model: the model with LoRA layers, or one of which every weight is trained.
        objective: what is minimised, with its rows.
        settings: as in the run spec, `compute_dtype` resolved.
        checkpoints: the folder that holds them.
        emit: takes `Step`, `Eval`, `Checkpoint` and `Warn` events.
        wishes: what was asked from outside.
        probes: answers prompts whenever the validation loss is measured, and on request.
        ranks: the processes that train together; all but the first one are silent.
        together: whether none of them can compute alone, since each has a part of the model.

    Raises:
        LlamaForgeError: the loss, or a weight, is no longer a number (`diverged`).
    """
    arguments = training_arguments(
        settings,
        partial_folder(checkpoints) if ranks.is_first else checkpoints / f".rank-{ranks.rank}",
        examples=objective.examples,
        passes=objective.passes,
        world=ranks.world,
    )
    if settings.gradient_checkpointing:
        base: Any = base_model(model)
        base.gradient_checkpointing_enable({"use_reentrant": False})
    reporter = _Reporter(model, objective, settings, checkpoints, emit, wishes, probes, ranks)
    reporter.together = together
    trainer = _PackedTrainer(model, objective, arguments, reporter, ranks)
    newest, damaged = ranks.share(newest_checkpoint(checkpoints) if ranks.is_first else (None, []))
    for item in damaged if ranks.is_first else []:
        aside = set_aside(item.path)
        emit(
            events.Warn(
                code="damaged_checkpoint",
                message=f"The checkpoint {item.path.name} is damaged and was passed over: "
                f"{item.reason}. It is kept as {aside.name} until the next one is saved.",
            )
        )
    step = 0 if newest is None else step_of(newest)
    reporter.best = BestCheckpoint(checkpoints, settings, step=step)
    is_over = step >= reporter.total_steps(trainer) or ranks.share(reporter.best.is_over)
    note = warmup_note(settings, reporter.total_steps(trainer))
    if note and newest is None and ranks.is_first:
        emit(events.Warn(code="long_warmup", message=note))
    if newest is not None and is_over:
        trainer.restore(newest)
        return Outcome(step, step, stopped=False)
    if not ranks.share(objective.get_ready(model, wishes.stop)):
        return Outcome(step, reporter.total_steps(trainer), stopped=True)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    state = trainer.state
    is_over = ranks.share(reporter.best.is_over)
    stopped = state.global_step < state.max_steps and not is_over
    return Outcome(state.global_step, state.max_steps, stopped)


class _PackedTrainer(Trainer):  # type: ignore[misc]
    """transformers' loop over our batches and our loss."""

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        objective: Objective,
        arguments: TrainingArguments,
        reporter: "_Reporter",
        ranks: Ranks,
    ) -> None:
        self.step_loss = torch.zeros(())
        """The step's loss so far, that of all ranks once their gradients are summed."""
        self._ranks = ranks
        self._objective = objective
        self._reporter = reporter
        super().__init__(model=model, args=arguments, callbacks=[reporter, GiveBackGaps()])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # losses are divided by the step's counts here
        reporter.take(self)

    def get_train_dataloader(self) -> Loader:
        """Return the batches of one epoch."""
        return self._objective.loader()

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Tensor]], device: torch.device
    ) -> Tensor | None:
        """Return what the losses need to know of the whole optimizer step."""
        if not batch_samples:
            return None
        return self._ranks.total(self._objective.counts(batch_samples).to(device))

    def compute_loss(
        self,
        model: PeftModel | PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Return the batch's share of its optimizer step's loss."""
        del return_outputs
        counts = num_items_in_batch
        if counts is None:
            counts = self._objective.counts([inputs])
        self._reporter.tokens += int(inputs["lengths"].sum())
        loss = self._objective.loss(model, inputs, counts)
        self.step_loss = self.step_loss.to(loss.device) + loss.detach()
        return loss

    def _clip_grad_norm(self, model: PeftModel | PreTrainedModel) -> Any:
        """Sum the gradients of all ranks; then clip them, and return their norm."""
        if not self._ranks.is_alone:
            trained = [item for item in model.parameters() if item.requires_grad]
            for item in trained:
                if item.grad is None:
                    item.grad = torch.zeros_like(item)
            tokens = torch.tensor(float(self._reporter.tokens), device=model.device)
            gradients = [item.grad for item in trained if item.grad is not None]
            self._ranks.sum_([*gradients, self.step_loss, tokens])
            self._reporter.tokens = int(tokens)
        return super()._clip_grad_norm(model)

    def restore(self, checkpoint: Path) -> None:
        """Load the adapter of a checkpoint without training on."""
        self._load_from_checkpoint(str(checkpoint))

    @property
    def unfinished(self) -> Path:
        """The folder that this step's checkpoint is written into."""
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

    def write_checkpoint(self) -> Path:
        """Write everything that a resumed run needs, and return the folder."""
        self._save_checkpoint(self.model, trial=None)
        return self.unfinished


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the loop's calls into events, and wishes into its switches."""

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        objective: Objective,
        settings: TrainingSettings,
        checkpoints: Path,
        emit: Emit,
        wishes: Wishes,
        probes: Probes | None,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self.together = False
        """Whether the first rank can measure nothing without the others."""
        self.tokens = 0
        """Tokens read since the last step, padding not counted."""
        self._model = model
        self._objective = objective
        self._settings = settings
        self._checkpoints = checkpoints
        self._emit = emit
        self._wishes = wishes
        self._probes = probes
        self._process = psutil.Process()
        self._recent: deque[tuple[float, int]] = deque(maxlen=_SPEED_STEPS)
        self._since = 0.0
        self._saved_step = -1
        self._saved_bytes = 0
        self.best = BestCheckpoint(checkpoints, settings, step=0)
        """What the validation loss says of all checkpoints."""
        self._trainer: _PackedTrainer | None = None

    def take(self, trainer: _PackedTrainer) -> None:
        """Remember the trainer that writes checkpoints."""
        self._trainer = trainer

    @staticmethod
    def total_steps(trainer: _PackedTrainer) -> int:
        """Return how many optimizer steps the whole training has."""
        loader = trainer.get_train_dataloader()
        return int(trainer.set_initial_training_values(trainer.args, loader)[-1])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, after a look at the model as it is."""
        del args, control
        if self._objective.measures_start and state.global_step == 0:
            if self._ranks.is_first:
                self._evaluate(0)
            elif self.together:
                self._measure()
        self._since = time.monotonic()
        self._saved_step = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the ranks' random numbers their own."""
        del args, control
        self._ranks.seed_step(self._settings.seed, state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Report one optimizer step."""
        del args
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        took = now - self._since
        self._recent.append((took, self.tokens))
        self._since, self.tokens = now, 0
        seconds = sum(item[0] for item in self._recent)
        trainer = cast("_PackedTrainer", self._trainer)
        loss = float(logs["loss"]) if self._ranks.is_alone else float(trainer.step_loss)
        trainer.step_loss = torch.zeros(())
        finite = math.isfinite(loss)
        norm = float(logs.get("grad_norm", math.nan))
        self._emit(
            events.Step(
                step=state.global_step,
                total=state.max_steps,
                loss=round(loss, 6) if finite else None,
                learning_rate=float(logs["learning_rate"]),
                tokens_per_second=round(sum(item[1] for item in self._recent) / seconds, 1),
                memory_bytes=self._memory_bytes(),
                epoch=round(float(state.epoch), 4),
                grad_norm=round(norm, 6) if math.isfinite(norm) else None,
                eta_seconds=round(
                    seconds / len(self._recent) * (state.max_steps - state.global_step), 1
                ),
                seconds=round(took, 4),
                metrics=_rounded(self._objective.take_metrics()),
            )
        )
        if not finite:
            raise self._diverged(f"The loss of step {state.global_step}")
        if not math.isfinite(norm):
            raise self._diverged(f"The gradient of step {state.global_step}")
        if self._ranks.is_first:
            self._after_step(state)
        elif self.together and self._is_measured(state):
            self._measure()
        if self._ranks.share(self._wishes.stop() or self.best.is_over):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what the last steps learned."""
        del args, control
        if self._ranks.is_first:
            self._save_new(state)

    def _after_step(self, state: Any) -> None:
        started = time.monotonic()
        if self._is_measured(state):
            if self._evaluate(state.global_step) and self._settings.keeps_best:
                self._save_new(state)
                self.best.keep(self._checkpoints / f"step-{state.global_step:06d}")
            if self._probes is not None:
                self._probes.at_eval(state.global_step)
        if state.global_step % self._settings.save_steps == 0:
            self._save(state)
        self._obey(state)
        self._wishes.pause(lambda: self._save_new(state), lambda: self._obey(state))
        self._since += time.monotonic() - started  # a step's time is the step's alone

    def _obey(self, state: Any) -> None:
        """Do what was asked and lets training go on."""
        if self._wishes.save():
            self._save(state)
        prompts = self._wishes.samples()
        if prompts is not None and self._probes is not None:
            self._probes.asked(state.global_step, prompts)

    def _memory_bytes(self) -> int:
        """Return what the process holds: on the host, or on the GPU that it computes on."""
        if self._model.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return int(self._process.memory_info().rss)

    def _is_measured(self, state: Any) -> bool:
        """Return whether the validation rows are looked at after this step."""
        is_last = state.global_step == state.max_steps
        return bool(is_last or state.global_step % self._settings.eval_steps == 0)

    def _measure(self) -> Measured | None:
        was_training = self._model.training
        self._model.eval()
        measured = self._objective.measure(self._model)
        self._model.train(was_training)
        return measured

    def _evaluate(self, step: int) -> bool:
        """Report what the validation rows show, if there are any; return whether it is the best."""
        measured = self._measure()
        if measured is None:
            return False
        is_best = step > 0 and self.best.take(step, measured.loss)
        self._emit(
            events.Eval(
                step=step,
                loss=round(measured.loss, 6),
                rows=measured.rows,
                best=is_best,
                metrics=_rounded(measured.metrics),
            )
        )
        return is_best

    def _save_new(self, state: Any) -> None:
        """Write a checkpoint unless this step's is there already."""
        if state.global_step != self._saved_step:
            self._save(state)

    def _save(self, state: Any) -> None:
        """Write a checkpoint; where the disk is full, wait until it is not.

        Raises:
            LlamaForgeError: a weight is not a number (`diverged`); checkpoints stay as they are.
        """
        for parameter in self._model.parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"A weight after step {state.global_step}")
        trainer = cast("_PackedTrainer", self._trainer)
        self._wishes.space(self._needed_bytes())
        while True:
            try:
                written = trainer.write_checkpoint()
                path = commit_checkpoint(written, self._checkpoints, state.global_step)
                break
            except (OSError, RuntimeError, SafetensorError):
                # Libraries say "disk full" in many ways: what is free tells.
                shutil.rmtree(trainer.unfinished, ignore_errors=True)
                if not self._wishes.space(self._needed_bytes()):
                    raise
        self._saved_step = state.global_step
        self._saved_bytes = bytes_of(path)
        self._emit(events.Checkpoint(step=state.global_step, path=str(path)))

    def _needed_bytes(self) -> int:
        """Return what the next checkpoint takes: as much as the last one, or a bound."""
        if self._saved_bytes:
            return self._saved_bytes + _SAVED_EXTRA_BYTES
        trained = sum(item.numel() for item in self._model.parameters() if item.requires_grad)
        return _SAVED_BYTES_A_WEIGHT * trained + _SAVED_EXTRA_BYTES

    def _diverged(self, what: str) -> LlamaForgeError:
        newest, _ = newest_checkpoint(self._checkpoints)
        kept = "" if newest is None else f" The checkpoint of step {step_of(newest):,} is kept."
        return LlamaForgeError(
            f"{what} is not a number: training has diverged.{kept}",
            "Start again with a lower rate, for example: --set learning_rate="
            f"{self._settings.learning_rate / 10:g}",
            code="diverged",
        )


def _rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures as events hold them; what is not a number becomes None."""
    return {
        name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()
    }
