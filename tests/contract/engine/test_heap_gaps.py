"""Gaps in the heap are given back once they are large, and only then."""

from dataclasses import dataclass

import pytest

from llamaforge import hardware
from llamaforge.recipe.estimate import GAPS_LEAST_BYTES, GAPS_PART
from llamaforge.training.heap import HeapGaps


@dataclass
class Memory:
    """What a process holds: what it needs, and gaps."""

    needed: int
    gaps: int = 0
    trims: int = 0

    def trim(self) -> None:
        self.gaps = 0
        self.trims += 1


def watched(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> HeapGaps:
    monkeypatch.setattr(hardware, "own_memory_bytes", lambda: memory.needed + memory.gaps)
    monkeypatch.setattr(hardware, "trim_heap", memory.trim)
    gaps = HeapGaps()
    gaps.after_pass()
    assert memory.trims == 1, "what was there before training is given back at once"
    return gaps


@pytest.mark.parametrize("needed", [10**8, 10**10])
def test_gaps_are_given_back_when_they_are_large(
    needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(needed)
    gaps = watched(memory, monkeypatch)
    most = max(GAPS_LEAST_BYTES, int(GAPS_PART * needed))
    for size, trims in ((most, 1), (most + 1, 2), (most, 2), (most + 1, 3)):
        memory.gaps = size
        gaps.after_pass()
        assert memory.trims == trims, size


def test_what_cannot_be_given_back_is_not_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory(10**8)
    gaps = watched(memory, monkeypatch)
    memory.needed += 2 * GAPS_LEAST_BYTES
    for _ in range(3):
        gaps.after_pass()
    assert memory.trims == 2
