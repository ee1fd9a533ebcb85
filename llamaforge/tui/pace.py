"""How long a run still takes, as a range: from how long its newest steps took."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_KEPT: Final = 256
"""Steps that are looked at."""
_PARTS: Final = 8
"""Into so many parts of equal length they are cut; each has a mean of its own."""
_LEAST_STEPS: Final = 4
_LEAST_SPREAD: Final = 0.03
"""Nobody knows it better than this part of it: what else the machine will do is not known."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When the newest steps were taken: pairs of step and seconds, oldest first."""

    marks: tuple[tuple[int, float], ...] = ()

    def extended(self, new: Iterable[tuple[int, float]]) -> "Pace":
        """Return the pace after steps; a step back, as after a restart, begins anew."""
        marks = list(self.marks)
        for step, seconds in new:
            if marks and (step <= marks[-1][0] or seconds < marks[-1][1]):
                marks = []
            marks.append((step, seconds))
        return Pace(tuple(marks[-_KEPT:]))

    def seconds_left(self, total: int) -> tuple[float, float] | None:
        """Return the least and the most seconds until step `total`; None while nobody can tell.

        What lies between the steps, such as looks at held-out rows, counts with them. The range is
        that of the means of parts of the newest steps: a machine that is used by others as well
        has a wide one.
        """
        marks = self.marks
        if len(marks) <= _LEAST_STEPS:
            return None
        left = max(total - marks[-1][0], 0)
        last = len(marks) - 1
        cuts = sorted({round(last * part / _PARTS) for part in range(_PARTS + 1)})
        means = [
            (marks[stop][1] - marks[start][1]) / (marks[stop][0] - marks[start][0])
            for start, stop in itertools.pairwise(cuts)
        ]
        whole = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
        low = min(*means, whole * (1 - _LEAST_SPREAD))
        high = max(*means, whole * (1 + _LEAST_SPREAD))
        return left * low, left * high
