"""The losses of a run, few enough to plot however long the run is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_POINTS: Final = 1024
"""As many dots as a row of 512 cells has; beyond it neighbours are merged."""


@dataclass(frozen=True, slots=True)
class LossPoint:
    """The loss at one optimizer step, or the mean of several neighbouring ones."""

    step: float
    loss: float
    """Nats per trained token."""


@dataclass(frozen=True, slots=True)
class LossHistory:
    """Training losses in the order of their steps, each point the mean of `stride` steps."""

    points: tuple[LossPoint, ...] = ()
    stride: int = 1
    waiting: tuple[LossPoint, ...] = ()
    """The newest steps, too few for a point of their own yet."""

    def extended(self, new: Iterable[LossPoint]) -> "LossHistory":
        """Return the history with `new` at its end.

        A step that is not after the last one means that the run went on from an older checkpoint:
        what was noted from that step on is forgotten, because it was trained again.
        """
        points, stride, waiting = list(self.points), self.stride, list(self.waiting)
        for point in new:
            last = waiting[-1] if waiting else points[-1] if points else None
            if last is not None and point.step <= last.step:
                points = [item for item in points if item.step < point.step]
                waiting = [item for item in waiting if item.step < point.step]
            waiting.append(point)
            if len(waiting) >= stride:
                points.append(_mean(waiting))
                waiting = []
            if len(points) >= MAX_POINTS:
                points = [_mean(points[at : at + 2]) for at in range(0, len(points), 2)]
                stride *= 2
        return LossHistory(tuple(points), stride, tuple(waiting))

    def all_points(self) -> tuple[LossPoint, ...]:
        """Return every point, the newest steps as one."""
        return (*self.points, _mean(self.waiting)) if self.waiting else self.points


def _mean(points: list[LossPoint] | tuple[LossPoint, ...]) -> LossPoint:
    return LossPoint(
        sum(point.step for point in points) / len(points),
        sum(point.loss for point in points) / len(points),
    )


def smoothed(points: tuple[LossPoint, ...]) -> tuple[LossPoint, ...]:
    """Return the exponential moving average of `points`, over about a twentieth of them.

    The average of the first points is corrected for having begun at zero, as in Adam (Kingma and
    Ba, 2015, section 3), so that the curve starts where the losses do.
    """
    keep = 1 - 1 / max(len(points) / 20, 1)
    average, weight, result = 0.0, 0.0, []
    for point in points:
        average = keep * average + (1 - keep) * point.loss
        weight = keep * weight + (1 - keep)
        result.append(LossPoint(point.step, average / weight))
    return tuple(result)
