"""What a training takes, before it begins: memory by part, and time.

Without a `Trial` the figures are formulas over the file's own tensor sizes; a trial (some forward
and backward passes of this model on this machine, `training.trial`) replaces every coefficient that
can be measured. This is the only estimate: preflight, `plan`, the wizard and the worker share it.
"""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final

from llamaforge.errors import LlamaForgeError
from llamaforge.gguf.architectures import configuration
from llamaforge.gguf.header import Header
from llamaforge.gguf.names import row_order
from llamaforge.gguf.types import FLOAT_TYPES
from llamaforge.recipe.batching import (
    EVALUATED_ROWS,
    PAD_MULTIPLE,
    packed_batches,
    padded,
    passes_without_gradient,
    planned_steps,
    steps_an_epoch,
)
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.training_settings import TrainingSettings

PROGRAM_BYTES: Final = 600_000_000
"""Python with torch, transformers and PEFT, and what their first products allocate."""
_WEIGHT_AND_GRADIENT_BYTES: Final = 8  # float32 both
_MOMENTS_BYTES: Final = 8  # Adam's two, float32
_KEPT_HIDDEN, _KEPT_INTERMEDIATE = 14, 6
"""Activations a token and layer that the backward pass needs, in units of the two sizes."""
_HEAP: Final = 1.25
"""What glibc's heap holds for each byte in use: blocks of many sizes leave gaps."""
GAPS_PART: Final = 0.06
"""How large the gaps in the heap may become before they are given back, as a part of what is held
besides activations."""
GAPS_LEAST_BYTES: Final = 48_000_000
"""Gaps that are left alone in any case."""
_RECOMPUTED_SECONDS: Final = 1.5
"""A pass that computes activations again: forward, forward once more, backward."""
_SOFTMAX_BYTES: Final = 32 * 1024 * 1024
"""Float32 logits of some positions while they are turned into gradients, with their copies."""
_ALONE: Final = LaunchSettings()
LOGITS_BYTES: Final = 128 * 1024 * 1024
"""Bytes that one chunk's logits may take if float32, half as much in bfloat16."""
HEAD_KEPT_BYTES: Final = 512 * 1024 * 1024
"""A head that unpacks to at most this is unpacked once for good, a larger one part by part."""
LOGITS_BESIDE_PARTS_BYTES: Final = 512 * 1024 * 1024
"""As `LOGITS_BYTES` for a head in parts: every chunk unpacks all of them twice, so few chunks."""
HEAD_PART_WEIGHTS: Final = 8 * 1024 * 1024
"""Weights of the head that are unpacked at a time where it is not kept whole."""
SCRATCH_WEIGHTS: Final = 64 * 1024 * 1024
"""A matrix of at most this many weights is unpacked into memory that is used again and again."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for, at the peak of training."""

    weights: int
    """The file's tensors, mapped, and the rows that are copied into another order."""
    adapter: int
    """Its weights and their gradients."""
    optimizer: int
    activations: int
    """What the forward pass keeps for the backward pass, with the gaps that it leaves."""
    logits: int
    """The output head unpacked, and one chunk of logits."""
    overhead: int
    """The program, its libraries, the rows, and matrices while they are unpacked."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        """Return the parts and their total."""
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True)
class Trial:
    """What was measured of one model on one machine, at some lengths."""

    recomputed: bool
    """Whether activations were computed again in the backward pass."""
    fixed_bytes: int
    """The process's peak without any activation, the optimizer not counted."""
    bytes_a_token: float
    """What a further token in a pass adds to the peak."""
    seconds_a_pass: float
    """Forward and backward: what does not depend on the tokens, unpacking above all."""
    seconds_a_token: float
    """The same for each token, padding included."""
    seconds_a_shape: float
    """What is added where rows and their length are new: the matrix library compiles kernels."""
    seconds_a_trained_token: float
    """The loss and its gradient, for each token that is trained."""
    seconds_a_step: float
    """Clipping and the optimizer."""
    forward_part: float
    """The forward pass's part of a pass, 0 to 1."""
    tokens: int
    """Tokens of the longest pass that was tried."""
    seconds: float
    """What the trial itself took."""


@dataclass(frozen=True)
class RowSizes:
    """The rows of a run in tokens: all of them, or an even sample."""

    train: tuple[tuple[int, int], ...]
    """Tokens and trained tokens of each row that is known."""
    train_rows: int
    """Rows to train on; more than are known where these are a sample."""
    validation: tuple[tuple[int, int], ...] = ()
    validation_rows: int = 0
    longest_known: int = 0
    """Tokens of the longest of all rows, where the sample need not hold it."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row, padded."""
        return padded(self.longest_tokens)

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest row."""
        most = max((tokens for tokens, _ in self.train), default=PAD_MULTIPLE)
        return max(most, self.longest_known)


@dataclass(frozen=True)
class Seconds:
    """How long training takes."""

    step: float
    """One optimizer step, on average."""
    steps: int
    training: float
    """All steps."""
    validation: float
    """All losses on validation rows, and what a reference is asked before training."""

    @property
    def total(self) -> float:
        """Both."""
        return self.training + self.validation


class Estimator:
    """Memory and time of training on one file with one set of settings.

    Args:
        header: the model's file.
        settings: of the run, `compute_dtype` resolved.
        trained_weights: how many weights the adapter has.
        trial: what was measured, if anything was.
        held_bytes: what the frozen weights of another base take; None for the file's own.
        launch: the processes that train together. Memory is that of each of them, and a trial was
            done by one as it will be: on its own GPU, or its part of a machine's cores. What they
            have to tell each other is not counted: once a step, an adapter's size.
    """

    def __init__(
        self,
        header: Header,
        settings: TrainingSettings,
        trained_weights: int,
        trial: Trial | None = None,
        *,
        held_bytes: int | None = None,
        launch: LaunchSettings = _ALONE,
    ) -> None:
        self.settings = settings
        self.trial = trial
        self._header = header
        self._trained_weights = trained_weights
        self._held_bytes = held_bytes
        self._launch = launch
        self._itemsize = 2 if settings.compute_dtype == "bfloat16" else 4

    def memory(self, cut: Cut, longest: int) -> Memory:
        """Return the peak of a training whose longest row has `longest` tokens.

        Raises:
            RefusedError: the architecture is not known.
        """
        tokens = cut.per_device_train_batch_size * padded(longest)
        weights = self._weights
        adapter = self._trained_weights * _WEIGHT_AND_GRADIENT_BYTES
        head, chunk = self._logits(tokens)
        overhead = PROGRAM_BYTES + self._scratch
        if self.trial is not None:
            overhead = max(0, self.trial.fixed_bytes - weights - adapter - head)
            overhead += int(max(GAPS_PART * self.trial.fixed_bytes, GAPS_LEAST_BYTES))
        return Memory(
            weights=weights,
            adapter=adapter,
            optimizer=self._trained_weights * _MOMENTS_BYTES,
            activations=int(self.bytes_a_token(recomputed=cut.gradient_checkpointing) * tokens),
            logits=head + chunk,
            overhead=overhead,
        )

    def bytes_a_token(self, *, recomputed: bool) -> float:
        """Return what one more token in a pass takes.

        With `recomputed`, each layer keeps its input only, and one layer at a time is whole.
        """
        by_formula = self._formula(recomputed=recomputed)
        if self.trial is None:
            return by_formula
        if self.trial.recomputed is recomputed:
            return self.trial.bytes_a_token
        return by_formula * self.trial.bytes_a_token / self._formula(recomputed=not recomputed)

    def seconds(self, cut: Cut, rows: RowSizes) -> Seconds | None:
        """Return how long training on `rows` takes; None where nothing was measured."""
        trial = self.trial
        if trial is None:
            return None
        settings = cut.applied(self.settings)
        world = self._launch.world
        size = cut.per_device_train_batch_size
        passes, tokens, shapes = packed_batches(
            rows.train, size, cut.gradient_accumulation_steps * world, settings.seed
        )
        share = rows.train_rows / max(len(rows.train), 1)
        trained = sum(count for _, count in rows.train)
        slower = 1.0
        if cut.gradient_checkpointing is not trial.recomputed:
            slower = _RECOMPUTED_SECONDS ** (1 if cut.gradient_checkpointing else -1)
        epoch = slower * (passes * trial.seconds_a_pass + tokens * trial.seconds_a_token)
        epoch += trained * trial.seconds_a_trained_token
        forward = self._forward(trial, passes, tokens, trained)
        in_steps, once = passes_without_gradient(settings, rows.train_rows, world)
        epoch += in_steps * forward
        epoch /= world
        step = epoch * share / steps_an_epoch(settings, rows.train_rows, world)
        step += trial.seconds_a_step
        steps = planned_steps(settings, rows.train_rows, world)
        met = min(shapes, steps * cut.gradient_accumulation_steps)
        training = steps * step + met * trial.seconds_a_shape
        beside = once * forward * share + self._validation(settings, rows, steps)
        return Seconds(training / steps, steps, training, beside)

    def _validation(self, settings: TrainingSettings, rows: RowSizes, steps: int) -> float:
        trial = self.trial
        count = min(rows.validation_rows, EVALUATED_ROWS)
        if trial is None or not rows.validation or not count:
            return 0.0
        known = rows.validation[:EVALUATED_ROWS]
        passes, tokens, _ = packed_batches(known, settings.per_device_eval_batch_size, 1, 0)
        trained = sum(trained for _, trained in known)
        once = self._forward(trial, passes, tokens, trained)
        times = math.ceil(steps / settings.eval_steps)
        return once * times * count / len(known)

    @staticmethod
    def _forward(trial: Trial, passes: int, tokens: int, trained: int) -> float:
        """Return how long passes without a gradient take."""
        part = trial.forward_part / (_RECOMPUTED_SECONDS if trial.recomputed else 1.0)
        seconds = part * (passes * trial.seconds_a_pass + tokens * trial.seconds_a_token)
        return seconds + trained * trial.seconds_a_trained_token / 2

    def longest_that_fits(self, cut: Cut, room_bytes: int) -> int:
        """Return the longest row, in tokens, of which a batch of this cut fits; 0 if none does."""
        low, high = 0, 1 << 20
        while low < high:
            middle = (low + high + 1) // 2
            if self.memory(cut, middle).total <= room_bytes:
                low = middle
            else:
                high = middle - 1
        return low // PAD_MULTIPLE * PAD_MULTIPLE

    @cached_property
    def _weights(self) -> int:
        """The file's tensors, and those matrices once more whose rows are put into order."""
        if self._held_bytes is not None:
            return self._held_bytes
        size = 0
        for name, tensor in self._header.tensors.items():
            size += tensor.n_bytes
            if len(tensor.shape) == 2 and name.endswith(".weight"):
                size += tensor.n_bytes * self._is_reordered(name.removesuffix(".weight"))
        return size

    def _is_reordered(self, name: str) -> bool:
        try:
            return row_order(self._header, name) is not None
        except LlamaForgeError:
            return False

    @cached_property
    def _scratch(self) -> int:
        sizes = [
            tensor.width * tensor.rows
            for name, tensor in self._header.tensors.items()
            if name.startswith("blk.") and tensor.type not in FLOAT_TYPES
        ]
        return min(max(sizes, default=0), SCRATCH_WEIGHTS) * self._itemsize

    def _logits(self, tokens: int) -> tuple[int, int]:
        """Return the bytes of the unpacked head, and of the logits of a batch of `tokens`."""
        table = self._header.tensors.get("output.weight") or self._header.tensors.get(
            "token_embd.weight"
        )
        if table is None:
            return 0, 0
        whole = table.rows * table.width * self._itemsize
        if whole <= HEAD_KEPT_BYTES:
            head, room = whole, LOGITS_BYTES
        else:
            head, room = HEAD_PART_WEIGHTS * self._itemsize, LOGITS_BESIDE_PARTS_BYTES
        positions = min(tokens, max(1, room // (4 * table.rows)))
        return head, positions * table.rows * self._itemsize + min(
            _SOFTMAX_BYTES, positions * table.rows * 12
        )

    def _formula(self, *, recomputed: bool) -> float:
        config = configuration(self._header)
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        inner = int(config.get("intermediate_size") or 4 * hidden)
        layer = _KEPT_HIDDEN * hidden + _KEPT_INTERMEDIATE * inner
        kept = layers * hidden + layer if recomputed else layers * layer
        return kept * self._itemsize * _HEAP
