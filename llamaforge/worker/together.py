"""Processes that end with the one that started them, however that ended.

`python -m llamaforge.worker.together MODULE WORDS…` is `python -m MODULE WORDS…` that does so: the
launcher of the ranks. What ends a worker reaches neither it nor the ranks, each of which leads a
session of its own: left alone they would train on, beside those of the worker that comes next.
"""

import contextlib
import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

import psutil

STARTED_BY: Final = "LLAMAFORGE_STARTED_BY"
"""The variable that names the process with which another one ends."""
_POLL_SECONDS: Final = 0.25
_END_SECONDS: Final = 3.0


def end_with_starter(*, gently: bool = False) -> None:
    """Let a thread end this process once the one that started it is gone.

    That is the process named by the variable `LLAMAFORGE_STARTED_BY`; where nobody set it, the
    parent. Those that are started from here on end with this process.

    Args:
        gently: send SIGTERM first, so that this process can end what it has started itself.
    """
    parent = int(os.environ.get(STARTED_BY, "") or os.getppid())
    os.environ[STARTED_BY] = str(os.getpid())
    threading.Thread(target=_watch, args=(parent, gently), name="starter", daemon=True).start()


def _watch(parent: int, gently: bool) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    if gently:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_SECONDS)
    kill_all(os.getpid())


def kill_all(pid: int) -> None:
    """Kill a process with all that it has started; what was halted cannot end by itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def main(arguments: list[str]) -> None:
    """Be the module that is named first, with the words behind it, until its starter ends."""
    end_with_starter(gently=True)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
