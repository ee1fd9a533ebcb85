"""A tiny model, its rows and real workers on it, for trying what must not go wrong.

A worker is a fork of this process, which has its libraries loaded already: it begins in a fraction
of a second, carries out its run as `python -m llamaforge.worker` does, and can be killed for good.
"""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from llamaforge.files import sha256_of
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, create_run
from llamaforge.runs.tail import EventTail
from tools.random_models import Shape, Vocabulary, write_random_model

STEPS: Final = 8
SAVE_STEPS: Final = 2
ROWS: Final = 22
WAIT_SECONDS: Final = 180.0
_SETTINGS: Final = {
    "max_steps": STEPS,
    "save_steps": SAVE_STEPS,
    "eval_steps": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3,
    "lora_r": 4,
    "lora_dropout": 0.1,
    "compute_dtype": "float32",
    "fidelity_rows": 1,
    "max_rows": 0,
    "samples": 0,
    "max_length": 128,
    "validation_count": 4,
}
_SHAPE: Final = Shape(hidden=256, layers=1, heads=4, key_value_heads=2, feed_forward=256)


class FaultError(AssertionError):
    """Something that had to hold did not."""


def require(holds: object, what: str) -> None:
    """Raise `FaultError` with `what` unless it holds."""
    if not holds:
        raise FaultError(what)


@dataclass(frozen=True)
class Worker:
    """A forked worker that leads a process group of its own."""

    pid: int

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Return its exit code, or minus the signal that ended it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        self.kill()
        os.waitpid(self.pid, 0)
        raise FaultError(f"the worker took more than {seconds:g} seconds")


class Bench:
    """A home with a model and rows; every run that is made here does the same work."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.use(home)
        home.mkdir(parents=True, exist_ok=True)
        self.model = write_random_model(
            home / "model.gguf", _SHAPE, Vocabulary.byte_level(), "Q4_K_M", seed=1
        )
        self.digest = sha256_of(self.model)
        self.rows = home / "rows.jsonl"
        chance = random.Random(0)
        words = ["the inner error", "a third answer", "here", "in the rain", "another tear"]
        with self.rows.open("w", encoding="utf-8") as file:
            for number in range(ROWS):
                question = f"{number} {' '.join(chance.choices(words, k=chance.randint(1, 4)))}?"
                answer = " ".join(chance.choices(words, k=chance.randint(1, 3)))
                file.write(json.dumps({"prompt": question, "completion": answer}) + "\n")
        self.rows_digest = sha256_of(self.rows)
        self.expected: dict[str, bytes] = {}
        self.seconds = 0.0
        self._count = 0

    @staticmethod
    def use(home: Path) -> None:
        """Have runs live in `home`."""
        os.environ["LLAMAFORGE_HOME"] = str(home)

    def measure(self) -> None:
        """Carry out a run that nothing disturbs: what every other one must come to."""
        run = self.run()
        started = time.monotonic()
        require(self.start(run).wait() == 0, f"a run without faults fails: {log_of(run)}")
        self.seconds = time.monotonic() - started
        self.expected = adapter_of(run)

    def run(self, **settings: object) -> RunDirectory:
        """Return a new run."""
        self._count += 1
        body = {"model": {"name": "tiny"}, "data": {"sources": [str(self.rows)]}}
        chosen = [f"{key}={value}" for key, value in (_SETTINGS | settings).items()]
        facts = ModelFacts(
            store=self.home,
            blob=self.model,
            digest=f"sha256:{self.digest}",
            architecture="llama",
            quantization="Q4_K_M",
            context_length=512,
        )
        run = create_run(f"r{self._count}")
        run.events_file.touch()
        resolve(with_settings(body, chosen), facts, run.id).save(run.spec_file)
        return run

    @staticmethod
    def start(run: RunDirectory, before: Callable[[], object] = lambda: None) -> Worker:
        """Start a worker that calls `before` first."""
        pid = os.fork()
        if pid:
            return Worker(pid)
        code = 70
        try:
            os.setsid()
            log = os.open(run.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            from llamaforge.worker import __main__ as worker  # noqa: PLC0415 - in the fork alone

            before()
            code = worker.main([str(run.path)])
        finally:
            os._exit(code)

    @staticmethod
    def wait_for_end(run: RunDirectory) -> int:
        """Wait for a worker that was started by another; return 0 where the run is finished."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            state = run.read_status().state
            if state in (RunState.FINISHED, RunState.FAILED):
                return int(state is RunState.FAILED)
            time.sleep(0.02)
        raise FaultError(f"nothing went on after a library's end: {log_of(run)}")

    def finish(self, run: RunDirectory) -> None:
        """Resume until the run is done; then everything must be as if nothing had happened."""
        for _ in range(3):
            if run.read_status().state is RunState.FINISHED:
                break
            self.start(run).wait()
        require(run.read_status().state is RunState.FINISHED, f"not finished: {log_of(run)}")
        require(adapter_of(run) == self.expected, "the adapter differs from that without faults")
        self.require_untouched(run)

    def require_untouched(self, run: RunDirectory) -> None:
        """Model and rows are as they were, and nothing is offered that does not verify."""
        require(sha256_of(self.model) == self.digest, "the model's file was changed")
        require(sha256_of(self.rows) == self.rows_digest, "the rows were changed")
        for item in run.artifact_list():
            path = Path(item["path"])
            require(sha256_of(path) == item["sha256"], f"{path.name} is not what is listed")
        numbers = [event.seq for event in events_of(run)]
        require(numbers == list(range(1, len(numbers) + 1)), "events are lost or doubled")
        times = [event.t for event in events_of(run)]
        require(times == sorted(times), "time runs backwards in the events")


def events_of(run: RunDirectory) -> list[events.Event]:
    """Return all events of a run."""
    tail = EventTail(run)
    found: list[events.Event] = []
    while new := tail.read_new():
        found += new
    return found


def steps_of(run: RunDirectory) -> list[int]:
    """Return the numbers of the steps in the order in which they were done."""
    return [event.step for event in events_of(run) if isinstance(event, events.Step)]


def warnings_of(run: RunDirectory) -> list[str]:
    """Return the codes of what a run warned of."""
    return [event.code for event in events_of(run) if isinstance(event, events.Warn)]


def failure_of(run: RunDirectory) -> events.Failed | None:
    """Return the last failure of a run."""
    found = [event for event in events_of(run) if isinstance(event, events.Failed)]
    return found[-1] if found else None


def log_of(run: RunDirectory) -> str:
    """Return the end of the worker's log."""
    return run.log_file.read_text(errors="replace")[-1500:] if run.log_file.exists() else ""


def adapter_of(run: RunDirectory) -> dict[str, bytes]:
    """Return the adapter's tensors; its name is that of its run, so whole files differ."""
    import gguf  # noqa: PLC0415 - takes a while to load

    reader = gguf.GGUFReader(run.artifacts / "adapter.gguf")
    return {item.name: np.ascontiguousarray(item.data).tobytes() for item in reader.tensors}


def wait_for(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something is so.

    Raises:
        FaultError: it did not happen in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, f"waited in vain for {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def patched(target: Any, **values: Any) -> Iterator[None]:
    """Set attributes for the length of a `with` block."""
    before: Mapping[str, Any] = {name: getattr(target, name) for name in values}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)
