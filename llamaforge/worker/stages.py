"""The stages of a run in their order, and how each is known to be done already."""

from collections.abc import Callable
from dataclasses import dataclass
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


STAGES: Final = (
    Stage("prepare", prepare.prepare, prepare.is_prepared),
    Stage("train", train.train, train.is_trained),
    Stage("export", export.export, export.is_exported),
    Stage("verify", verify.verify, verify.is_verified),
    Stage("evaluate", evaluate.evaluate, lambda job: has_artifact(job, "evaluation")),
    Stage("publish", publish.publish, publish.is_published),
)
