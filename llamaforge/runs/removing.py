"""Removing a run with everything it made."""

import os
import shutil
from pathlib import Path

from llamaforge.errors import LlamaForgeError, RefusedError
from llamaforge.runs.directory import LIVE_STATES, RunDirectory
from llamaforge.runs.lock import RunLock


def require_no_worker(run: RunDirectory) -> None:
    """Return if no worker has the run.

    Raises:
        RefusedError: one has.
    """
    state = run.read_status().state
    if state in LIVE_STATES:
        raise RefusedError(
            f"The run {run.id} is {state.value}.",
            f"Stop it first: llamaforge runs stop {run.id}",
            code="run_running",
        )


def run_bytes(run: RunDirectory) -> int:
    """Return the bytes on the disk that removing the run frees; of a link, none."""
    if run.path.is_symlink():
        return 0
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, names in os.walk(run.path):
        for name in names:
            try:
                found = (Path(folder) / name).lstat()
            except OSError:  # removed meanwhile
                continue
            # A file with several names is freed once, and only if all of them go.
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def remove_run(run: RunDirectory) -> None:
    """Remove a run's folder; of a link, only the link.

    Raises:
        RefusedError: a worker has it.
        LlamaForgeError: it cannot be removed (`not_removed`).
    """
    require_no_worker(run)
    if run.path.is_symlink():
        run.path.unlink()
        return
    try:
        with RunLock(run.lock_file):  # no worker may take it meanwhile
            shutil.rmtree(run.path)
    except OSError as error:
        raise LlamaForgeError(
            f"The run {run.id} cannot be removed: {error.strerror}.",
            f"Check the permissions of {run.path}",
            code="not_removed",
        ) from error
