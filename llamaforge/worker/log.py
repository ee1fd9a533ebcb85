"""What a worker says in its log, its standard error. A full disk costs the line, never the run."""

import contextlib
import sys
import traceback


def log(text: str) -> None:
    """Write a line."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - nobody else reads it


def log_error() -> None:
    """Write the trace of the error that is handled now."""
    log(traceback.format_exc().rstrip("\n"))
