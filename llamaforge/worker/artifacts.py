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
    for item in job.run.artifact_list():
        if item["kind"] == kind:
            return sha256_of(Path(item["path"])) == item["sha256"]
    return False


def artifact_path(job: Job, kind: str) -> Path:
    """Return where the artifact lies."""
    return next(Path(item["path"]) for item in job.run.artifact_list() if item["kind"] == kind)
