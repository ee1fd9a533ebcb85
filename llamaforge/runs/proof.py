"""The proof that what a run made is served as it was trained: whether it is there, and holds."""

import json
from pathlib import Path
from typing import Final

from llamaforge.errors import InvalidFileError, RefusedError
from llamaforge.files import sha256_of
from llamaforge.runs.directory import RunDirectory
from llamaforge.safe_text import safe_line

_RESULTS: Final = ("adapter", "merged")
"""What is proven: the adapter; where a run makes none, its merged file."""


def require_proof(run: RunDirectory) -> None:
    """Return if `artifacts/verify.json` says that what is served is what was trained.

    Raises:
        RefusedError: it does not, or is not there (`not_verified`).
    """
    try:
        report = json.loads((run.artifacts / "verify.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict):
        raise RefusedError(
            f"The result of {run.id} is not verified.",
            f"Let the run go on to its end: llamaforge runs resume {run.id}",
            code="not_verified",
        )
    run.check_proof()


def require_unchanged(run: RunDirectory) -> None:
    """Return if the proof, and what it is of, are the files that were listed.

    Raises:
        InvalidFileError: one is not (`changed_artifact`).
    """
    # Of several merged files the run's own is the first.
    listed = {item["kind"]: item for item in reversed(run.artifact_list())}
    result = next((kind for kind in _RESULTS if kind in listed), "")
    for item in (listed[kind] for kind in (result, "verify") if kind in listed):
        path = Path(item["path"])
        actual = sha256_of(path)
        if actual != item["sha256"]:
            raise InvalidFileError(
                f"{safe_line(path.name)} changed after it was proven: its sha256 is {actual}, "
                f"expected {item['sha256']}.",
                "Train again; what is in it now was never verified.",
                code="changed_artifact",
            )
