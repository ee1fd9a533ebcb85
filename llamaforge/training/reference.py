"""The model that training on pairs holds on to: the same weights as they are at its beginning.

That is the packed base with the adapter off or, where a run goes on from an earlier adapter, with
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

from llamaforge.files import write_atomic
from llamaforge.training.loss import OutputHead
from llamaforge.training.pairs import EncodedPair, answer_tokens, collate_pairs
from llamaforge.training.preference_loss import PairScores

_SAVED_PAIRS: Final = 512
"""Pairs after which what is known so far goes to disk."""

_TABLE: Final = "log_probabilities"


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
            model: the packed model with LoRA layers.
            head: the output head over [vocabulary, hidden].
            dtype: what products are computed in.
            start: the adapter's weights at the beginning by their parameters' names; None where
                it was untouched, which is as if there were none.
        """
        self._model = model
        self._head = head
        self._dtype = dtype
        self._start = start

    def scores(self, input_ids: Tensor, labels: Tensor) -> PairScores:
        """Return log P(answer) of a batch of pairs, without gradients."""
        with self._shown(), torch.no_grad():
            tokens = answer_tokens(self._model, self._head, input_ids, labels, self._dtype)
        return PairScores.of(tokens.sums())

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
    pairs: Sequence[EncodedPair],
    batch_size: int,
    path: Path,
    *,
    device: torch.device,
    stopped: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> PairScores | None:
    """Return what the reference says of all `pairs`, on the CPU; None where it was stopped.

    Pairs are batched by length, always in the same way, and results are kept in `path` as they
    come: a run that dies goes on where it was, with the very same numbers.
    """
    order = sorted(range(len(pairs)), key=lambda number: (pairs[number].longest, number))
    fingerprint = _fingerprint(pairs, batch_size)
    table = _read(path, fingerprint, len(pairs))
    unsaved = 0
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        if not torch.isnan(table[numbers]).any():
            continue
        if stopped():
            _write(path, fingerprint, table)
            return None
        batch = collate_pairs([(number, pairs[number]) for number in numbers])
        found = reference.scores(batch["input_ids"].to(device), batch["labels"].to(device))
        table[numbers] = torch.stack([found.chosen, found.rejected], dim=1).cpu()
        unsaved += len(numbers)
        if unsaved >= _SAVED_PAIRS:
            _write(path, fingerprint, table)
            unsaved = 0
        on_progress(start + len(numbers))
    if unsaved:
        _write(path, fingerprint, table)
    return PairScores(table[:, 0], table[:, 1])


def _fingerprint(pairs: Sequence[EncodedPair], batch_size: int) -> str:
    """Return what the table of other pairs, or of other batches, would not have."""
    digest = hashlib.sha256(f"{batch_size}".encode())
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            digest.update(repr((side.ids, sum(side.trained))).encode())
    return digest.hexdigest()


def _read(path: Path, fingerprint: str, count: int) -> Tensor:
    """Return the table in `path`, shape [count, 2]; what is not known yet is NaN.

    A file of other pairs, or one that is not what was written, is as good as none.
    """
    unknown = torch.full((count, 2), torch.nan)
    try:
        with safe_open(path, framework="pt") as file:
            table = file.get_tensor(_TABLE)
            noted = file.metadata() or {}
    except (OSError, SafetensorError):
        return unknown
    fits = table.shape == unknown.shape and table.dtype == unknown.dtype
    expected = {"pairs": fingerprint, "sha256": _digest(table)}
    return table if fits and noted == expected else unknown


def _write(path: Path, fingerprint: str, table: Tensor) -> None:
    noted = {"pairs": fingerprint, "sha256": _digest(table)}
    write_atomic(path, save({_TABLE: table}, noted))


def _digest(table: Tensor) -> str:
    return hashlib.sha256(table.contiguous().numpy().tobytes()).hexdigest()
