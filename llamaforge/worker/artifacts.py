"""What the run made: each file with its digest, listed only once it is whole."""

from pathlib import Path
from typing import Any

from llamaforge.files import sha256_of, write_json
from llamaforge.runs import events
from llamaforge.worker.job import Job


def add_artifact(job: Job, kind: str, path: Path) -> None:
    """List the file at `path`, and say so."""
    sha256 = sha256_of(path)
    job.run.list_artifact(kind, path, sha256)
    job.emit(events.Artifact(kind=kind, path=str(path), sha256=sha256))


def add_report(job: Job, kind: str, name: str, figures: dict[str, Any]) -> None:
    """Write a report of figures as an artifact."""
    path = job.run.artifacts / name
    write_json(path, figures)
    add_artifact(job, kind, path)


def has_artifact(job: Job, kind: str) -> bool:
    """Return whether the file was made and is still what was listed."""
    item = _listed(job, kind)
    return item is not None and sha256_of(Path(item["path"])) == item["sha256"]


def artifact_path(job: Job, kind: str) -> Path:
    """Return where the artifact lies.

    Raises:
        KeyError: there is none.
    """
    item = _listed(job, kind)
    if item is None:
        raise KeyError(kind)
    return Path(item["path"])


def result_kind(job: Job) -> str:
    """Return the kind of what llama.cpp serves of the run: `adapter` or `merged`."""
    return "adapter" if job.spec.training.makes_adapter else "merged"


def result_digest(job: Job) -> str:
    """Return the sha256 of what llama.cpp serves of the run."""
    item = _listed(job, result_kind(job))
    return "" if item is None else item["sha256"]


def _listed(job: Job, kind: str) -> dict[str, str] | None:
    """Return the entry of a kind; of merged files, which may be several, the run's own."""
    own = job.run.artifacts / job.spec.publish.merged_name
    for item in job.run.artifact_list():
        if item["kind"] == kind and (kind != "merged" or Path(item["path"]) == own):
            return item
    return None
