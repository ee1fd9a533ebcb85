"""Which checkpoint a training came to, told where it is not simply the last one."""

from llamaforge.runs import events
from llamaforge.training.checkpoints import step_of
from llamaforge.training.finished import finished_checkpoint
from llamaforge.worker.job import Job


def tell_result(job: Job, step: int) -> None:
    """Tell which step's adapter is the result of a training that ended after `step`."""
    settings = job.spec.training
    chosen = finished_checkpoint(job.run.checkpoints)
    if chosen is None or not settings.keeps_best:
        return
    best = step_of(chosen)
    figures = {"step": best, "ended": step}
    job.emit(events.Report(kind="best", figures=figures))
    job.note(best_step=best)
    if best < step:
        job.warn(
            "best_checkpoint",
            f"The validation loss was least at step {best:,}, and training ended at {step:,}: the "
            f"adapter of step {best:,} is the result.",
        )
