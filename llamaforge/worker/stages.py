"""The stages of a run in their order, and how each is known to be done already."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from llamaforge.worker import evaluate, export, prepare, publish, train, verify
from llamaforge.worker.artifacts import has_artifact
from llamaforge.worker.job import Job


@dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str
    carry_out: Callable[[Job], None]
    is_done: Callable[[Job], bool]
    """Whether its result is there and whole."""


PHASE_STAGES: Final = (
    Stage("prepare", prepare.prepare, prepare.is_prepared),
    Stage("train", train.train, train.is_trained),
)
"""What each phase of training consists of."""
LAST_STAGES: Final = (
    Stage("export", export.export, export.is_exported),
    Stage("verify", verify.verify, verify.is_verified),
    Stage("evaluate", evaluate.evaluate, lambda job: has_artifact(job, "evaluation")),
    Stage("publish", publish.publish, publish.is_published),
)
"""What is done with the adapter of the last phase."""


def stages_of(job: Job) -> Iterator[Stage]:
    """Yield the stages in order, after turning the job to the phase that each belongs to.

    Those of later phases carry its number: `prepare 2`, `train 2`.
    """
    steps = 0
    for phase in range(1, job.phases + 1):
        job.turn_to(phase, steps)
        for stage in PHASE_STAGES:
            yield stage if phase == 1 else replace(stage, name=f"{stage.name} {phase}")
        steps += train.finished_steps(job)
    yield from LAST_STAGES
