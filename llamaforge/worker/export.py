"""Stage 3: the trained adapter becomes a GGUF file over the model's own."""

from llamaforge.worker.artifacts import add_artifact
from llamaforge.worker.job import Job
from llamaforge.worker.train import final_checkpoint


def export(job: Job) -> None:
    """Write the trained adapter as GGUF."""
    from llamaforge.export.adapter import write_adapter
    from llamaforge.worker.trained import load_trained

    trained = load_trained(job.header, job.spec.training, final_checkpoint(job.run))
    path = job.run.artifacts / "adapter.gguf"
    write_adapter(
        path,
        job.header,
        trained.layers(),
        name=job.run.id,
        base_digest=job.spec.model.digest,
    )
    add_artifact(job, "adapter", path)
