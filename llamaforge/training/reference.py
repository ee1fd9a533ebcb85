"""The model that training on preferences holds on to: the same weights as they were before it.

That is the base with the adapter off or, where a run goes on from an earlier adapter, with
that adapter as it was. No second model is loaded.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llamaforge.data.chat import EncodedRow
from llamaforge.files import write_atomic
from llamaforge.training.batches import collate
from llamaforge.training.loss import OutputHead
from llamaforge.training.pairs import answer_tokens

_SAVED_ITEMS: Final = 512
"""Items after which what is known so far goes to disk."""

_TABLE: Final = "log_probabilities"
TRAIN_TABLE, VALIDATION_TABLE = "reference.safetensors", "reference-validation.safetensors"
"""Files in the folder of the checkpoints that hold what the reference says of all rows."""


class Reference:
    """The weights that training began with."""

    def __init__(
        self,
        model: PeftModel,
        head: OutputHead,
        dtype: torch.dtype,
        start: Mapping[str, Tensor] | None,
    ) -> None:
        """Take `model` and what it began with.

        Args:
            model: the model with LoRA layers.
            head: the output head over [vocabulary, hidden].
            dtype: what products are computed in.
            start: the adapter's weights at the beginning by their parameters' names; None where
                it was untouched, which is as if there were none.
        """
        self._model = model
        self._head = head
        self._dtype = dtype
        self._start = start

    def sums(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Return log P(answer) of each row of a batch [b, s], without gradients, shape [b]."""
        with self._shown(), torch.no_grad():
            tokens = answer_tokens(self._model, self._head, input_ids, labels, self._dtype)
        return tokens.sums()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Let the model be the reference, for the length of a `with` block."""
        was_training = self._model.training
        self._model.eval()
        try:
            if self._start is None:
                with self._model.disable_adapter():
                    yield
            else:
                with _exchanged(self._model, self._start):
                    yield
        finally:
            self._model.train(was_training)


@contextmanager
def _exchanged(model: PeftModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let trained parameters have other values, for the length of a `with` block.

    Only what they point to changes, so nothing is copied and optimizers notice nothing.
    """
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    present = {name: parameter.data for name, parameter in own.items()}
    try:
        for name, parameter in own.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in own.items():
            parameter.data = present[name]


def reference_table(
    reference: Reference,
    items: Sequence[Sequence[EncodedRow]],
    batch_size: int,
    path: Path,
    *,
    device: torch.device,
    stopped: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> Tensor | None:
    """Return log P(answer) of the rows of all `items`, shape [items, rows of each], on the CPU.

    None where it was stopped. Items are batched by length, always in the same way, and results are
    kept in `path` as they come: a run that dies goes on where it was, with the very same numbers.

    Args:
        reference: what is asked.
        items: as many rows each, such as both sides of a pair.
        batch_size: items in a pass.
        path: where the results are kept.
        device: where the model lies.
        stopped: asked before each pass.
        on_progress: takes how many items are known.
    """
    longest = [max(len(row.ids) for row in rows) for rows in items]
    order = sorted(range(len(items)), key=lambda number: (longest[number], number))
    fingerprint = _fingerprint(items, batch_size)
    table = _read(path, fingerprint, (len(items), len(items[0]) if items else 0))
    unsaved = 0
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        if not torch.isnan(table[numbers]).any():
            continue
        if stopped():
            _write(path, fingerprint, table)
            return None
        # All first rows, then all second ones: as training has them.
        batch = collate([row for rows in zip(*(items[n] for n in numbers), strict=True)
                         for row in rows])  # fmt: skip
        found = reference.sums(batch["input_ids"].to(device), batch["labels"].to(device))
        table[numbers] = found.view(-1, len(numbers)).T.cpu()
        unsaved += len(numbers)
        if unsaved >= _SAVED_ITEMS:
            _write(path, fingerprint, table)
            unsaved = 0
        on_progress(start + len(numbers))
    if unsaved:
        _write(path, fingerprint, table)
    return table


def _fingerprint(items: Sequence[Sequence[EncodedRow]], batch_size: int) -> str:
    """Return what the table of other rows, or of other batches, would not have."""
    digest = hashlib.sha256(f"{batch_size}".encode())
    for rows in items:
        for row in rows:
            digest.update(repr((row.ids, sum(row.trained))).encode())
    return digest.hexdigest()


def _read(path: Path, fingerprint: str, shape: tuple[int, int]) -> Tensor:
    """Return the table in `path`, of `shape`; what is not known yet is NaN.

    A file of other rows, or one that is not what was written, is as good as none.
    """
    unknown = torch.full(shape, torch.nan)
    try:
        with safe_open(path, framework="pt") as file:
            table = file.get_tensor(_TABLE)
            noted = file.metadata() or {}
    except (OSError, SafetensorError):
        return unknown
    fits = table.shape == unknown.shape and table.dtype == unknown.dtype
    expected = {"rows": fingerprint, "sha256": _digest(table)}
    return table if fits and noted == expected else unknown


def _write(path: Path, fingerprint: str, table: Tensor) -> None:
    noted = {"rows": fingerprint, "sha256": _digest(table)}
    write_atomic(path, save({_TABLE: table}, noted))


def _digest(table: Tensor) -> str:
    return hashlib.sha256(table.contiguous().numpy().tobytes()).hexdigest()
