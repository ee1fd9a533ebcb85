"""A dataset of the Hub fetched by a process of its own, for those who never load `datasets`."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from llamaforge.data.sources import HubDataset
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.runs.asking import is_stopped, stopped_error
from llamaforge.runs.launcher import worker_environment
from llamaforge.safe_text import redact, safe_line

_POLL_SECONDS = 0.2
_CACHE_VARIABLES = ("HF_DATASETS_CACHE", "HF_HUB_DISABLE_XET", "HF_TOKEN_PATH")


class FetchError(LlamaForgeError):
    """What the fetching process said about a dataset that it could not give."""

    def __init__(self, message: str, hint: str, *, code: str, exit_code: ExitCode) -> None:
        super().__init__(message, hint, code=code)
        self.exit_code = exit_code


def fetch_dataset(dataset: HubDataset) -> list[Path]:
    """Return the Parquet files of `dataset`, one a split. This takes as long as the download.

    It is what `llamaforge.data.sources.expand` takes as `fetch`.

    Raises:
        FetchError: with the words and the exit code of `llamaforge.worker.hub_dataset`.
        LlamaForgeError: nobody waits for it any more (see `asking.stoppable`).
    """
    chosen = {name: os.environ[name] for name in _CACHE_VARIABLES if name in os.environ}
    words = [sys.executable, "-m", "llamaforge.worker.hub_dataset", dataset.text()]
    output, errors = _carried_out(words, worker_environment() | chosen)
    try:
        answer = json.loads(output.splitlines()[-1])
        if "paths" in answer:
            return [Path(path) for path in answer["paths"]]
        error = answer["error"]
        raise FetchError(
            error["message"],
            error["hint"],
            code=error["code"],
            exit_code=ExitCode(error["exit"]),
        )
    except (IndexError, ValueError, KeyError, TypeError):
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise FetchError(
            f"{safe_line(dataset.text())} could not be fetched:"
            f" {safe_line(redact(last), limit=160) or 'its process ended without a word'}.",
            f"Look at what this says: {sys.executable} -m llamaforge.worker.hub_dataset"
            f" {safe_line(dataset.text())}",
            code="dataset_failed",
            exit_code=ExitCode.FAILED,
        ) from None


def _carried_out(words: list[str], environment: dict[str, str]) -> tuple[bytes, bytes]:
    """Return what a process printed, and what it said besides."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            while not is_stopped():
                with suppress(subprocess.TimeoutExpired):
                    return process.communicate(timeout=_POLL_SECONDS)
            raise stopped_error()
        except BaseException:  # Ctrl+C, too: nobody reads its answer any more
            process.kill()
            raise
