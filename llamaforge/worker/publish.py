"""Stage 6: the result goes to Ollama, where the run asks for it."""

from llamaforge.errors import RefusedError
from llamaforge.runs import events
from llamaforge.worker.job import Job


def is_published(job: Job) -> bool:
    """Return whether there is nothing to publish: it was not asked for, or is done."""
    return job.spec.publish.name is None or "published" in job.run.read_status().metrics


def publish(job: Job) -> None:
    """Bring the result into Ollama under the name that the spec asks for.

    Raises:
        LlamaForgeError: a server answers, and does not take it.
    """
    from llamaforge.worker.publication import publish_as

    name = str(job.spec.publish.name)

    def on_progress(what: str, done: int, total: int) -> None:
        if what == "adapters_unsupported":  # the report at the end says what was published
            return
        job.progress("publish", done, total, what)
        if what in {"merge", "check", "upload"}:
            job.check_stop()

    try:
        result = publish_as(job.run, name, "auto", on_progress=on_progress)
    except RefusedError as error:
        if error.code != "no_server":
            raise
        job.warn(
            "no_server",
            f"{error.message} The adapter is finished; once Ollama runs: llamaforge publish "
            f"{job.run.id} --name {name}",
        )
    else:
        if result.left_out:
            job.warn(
                "left_out",
                f"The {' and the '.join(result.left_out)} of {result.base} did not go along: this "
                "server does not take it beside a merged file.",
            )
        job.note(published=result.name)
        job.emit(
            events.Report(
                kind="published",
                figures={"name": result.name, "digest": result.digest, "form": result.form},
            )
        )
