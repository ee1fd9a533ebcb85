"""Many prompts in work at a time, in threads that nobody has to wait for."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from llamaforge.collecting.answers import UnansweredError, no_answer_yet
from llamaforge.collecting.journal import JournalClosedError
from llamaforge.collecting.patience import StoppedError

_T = TypeVar("_T")
_TICK_SECONDS: Final = 0.25
_FAILURES_IN_A_ROW: Final = 10


def work_on(
    tasks: Iterator[_T],
    do: Callable[[_T], None],
    *,
    concurrency: int,
    stop: threading.Event,
    on_done: Callable[[_T, str | None], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Let `do` work on every task, so many at a time.

    The threads are daemons, since one that waits for a server cannot be ended: after an error or
    Ctrl-C `stop` is set and this returns at once; what they still bring is dropped.

    Args:
        tasks: taken one by one as there is a free thread.
        do: called in the threads.
        concurrency: how many threads.
        stop: set at the end.
        on_done: called in this thread with each finished task, and the reason why it failed.
        on_tick: called in this thread every now and then.

    Raises:
        LlamaForgeError: a task raised it, or ten tasks in a row failed.
        KeyboardInterrupt: Ctrl-C.
    """
    inbox: queue.SimpleQueue[_T | None] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[tuple[_T, BaseException | None]] = queue.SimpleQueue()

    def serve() -> None:
        while not stop.is_set() and (task := inbox.get()) is not None:
            problem: BaseException | None = None
            try:
                do(task)
            except BaseException as error:  # handed to the main thread, whatever it is
                problem = error
            outbox.put((task, problem))

    for _ in range(concurrency):
        threading.Thread(target=serve, daemon=True).start()
    try:
        _hand_out(tasks, inbox, outbox, concurrency, on_done, on_tick)
    finally:
        stop.set()
        for _ in range(concurrency):
            inbox.put(None)


def _hand_out(
    tasks: Iterator[_T],
    inbox: "queue.SimpleQueue[_T | None]",
    outbox: "queue.SimpleQueue[tuple[_T, BaseException | None]]",
    concurrency: int,
    on_done: Callable[[_T, str | None], None],
    on_tick: Callable[[], None],
) -> None:
    in_work = failures = 0
    while True:
        while in_work < concurrency and (task := next(tasks, None)) is not None:
            inbox.put(task)
            in_work += 1
        if not in_work:
            return
        try:
            done, problem = outbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            on_tick()
            continue
        in_work -= 1
        if problem is None:
            failures = 0
            on_done(done, None)
        elif isinstance(problem, UnansweredError):
            failures += 1
            on_done(done, str(problem))
            if failures == _FAILURES_IN_A_ROW:
                raise no_answer_yet(str(problem))
        elif isinstance(problem, StoppedError | JournalClosedError):
            continue
        else:
            raise problem
