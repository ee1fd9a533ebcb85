"""The chunked loss is the plain cross entropy, in value and gradient."""

import pytest
import torch
from torch.nn import functional

from llamaforge.training import loss
from llamaforge.training.loss import IGNORED_LABEL, OutputHead, token_losses, trained_positions
from tests.unit.training.packed_weights import random_head


def plain_and_chunked(rows: int, hidden: int = 64) -> None:
    head = random_head(rows=101, width=hidden)
    states = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(rows) % 101
    results = []
    for is_chunked in (True, False):
        x = states.clone().requires_grad_()
        if is_chunked:
            losses = token_losses(x, targets, OutputHead(head))
        else:
            logits = x @ head.unpack(torch.float32).T
            losses = functional.cross_entropy(logits, targets, reduction="none")
        (gradient,) = torch.autograd.grad(losses, x, torch.linspace(0.5, 2.0, rows))
        results.append((losses.detach(), gradient))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_value_and_gradient_equal_cross_entropy(rows: int) -> None:
    plain_and_chunked(rows)


def test_many_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_BYTES", 5 * 4 * 101)  # five tokens at a time
    plain_and_chunked(23)


def test_a_head_in_parts_equals_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "HEAD_KEPT_BYTES", 0)
    monkeypatch.setattr(loss, "HEAD_PART_WEIGHTS", 64 * 10)  # ten rows at a time
    plain_and_chunked(9)


def test_a_position_predicts_the_next_trained_token() -> None:
    hidden = torch.arange(8.0).reshape(1, 4, 2)
    labels = torch.tensor([[5, IGNORED_LABEL, 6, 7]])
    states, targets = trained_positions(hidden, labels)
    assert targets.tolist() == [6, 7]
    assert states.tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_no_gradient_is_worked_out_where_none_is_asked_for() -> None:
    head = random_head(rows=11, width=32)
    with torch.no_grad():
        losses = token_losses(torch.randn(3, 32), torch.tensor([1, 2, 3]), OutputHead(head))
    assert losses.grad_fn is None
    assert losses.shape == (3,)
