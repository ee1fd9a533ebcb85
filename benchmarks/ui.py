"""What the screens cost: first paint, key to paint, training with a monitor attached, long runs.

The real program runs in a terminal of its own (a pty), and is looked at from outside.
"""

import argparse
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, Status

_PICTURES: Final = (
    b"No answers yet",
    b"Learning rate",
    b"Gradient norm",
    b"Tokens a second",
    b"nats per token",
)
"""What each press of v brings to the screen, in turn."""
_LONG_STEPS: Final = 1_000_000
_ROWS_COLUMNS: Final = (24, 80)
_PATIENCE_SECONDS: Final = 60.0


class Terminal:
    """The program in a terminal of its own; a context manager that ends it."""

    def __init__(self, arguments: Sequence[str], home: Path) -> None:
        self._command = [sys.executable, "-m", "llamaforge", *arguments]
        self._environment = os.environ | {
            "LLAMAFORGE_HOME": str(home),
            "OLLAMA_HOST": "http://127.0.0.1:9",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "TEXTUAL_ANIMATIONS": "none",
        }

    def __enter__(self) -> "Terminal":
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *_ROWS_COLUMNS, 0, 0))
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment,
            start_new_session=True,
        )
        os.close(slave)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def press(self, keys: bytes) -> float:
        """Send keys, and return when."""
        os.write(self._master, keys)
        return time.perf_counter()

    def drain(self, seconds: float) -> None:
        """Read what is painted for a while, as a terminal does."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            self._read(left)

    def wait_for(self, text: bytes) -> float:
        """Return when `text` was painted.

        Raises:
            SystemExit: it was not, for very long.
        """
        seen = b""
        until = time.perf_counter() + _PATIENCE_SECONDS
        while text not in seen:
            if time.perf_counter() > until:
                raise SystemExit(f"{text!r} was not painted:\n{seen[-3000:]!r}")
            seen = seen[-4096:] + self._read(1.0)
        return time.perf_counter()

    def cpu_seconds(self) -> float:
        """Return the processor time of the program so far."""
        used = psutil.Process(self._process.pid).cpu_times()
        return used.user + used.system

    def peak_bytes(self) -> int:
        """Return its resident memory now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _read(self, seconds: float) -> bytes:
        ready, _, _ = select.select([self._master], [], [], max(seconds, 0))
        return os.read(self._master, 1 << 16) if ready else b""


def make_run(home: Path, name: str) -> RunDirectory:
    """Make a run directory whose worker is this process."""
    run = RunDirectory(home / "runs" / name)
    for folder in (run.data, run.checkpoints, run.artifacts, run.control):
        folder.mkdir(parents=True)
    run.spec_file.write_text("not needed\n")
    process = psutil.Process()
    run.write_status(Status(state=RunState.RUNNING, stage="train", pid=process.pid))
    writer = events.EventWriter(run.events_file)
    writer.write(events.Started(run=name, pid=process.pid, model="model"))
    writer.write(events.Stage(name="train", state="started"))
    writer.close()
    return run


def a_step(number: int, total: int) -> events.Step:
    """Return a step with figures as a run has them."""
    return events.Step(
        step=number,
        total=total,
        loss=0.25 + 100 / (number + 30) + ((number * 7919) % 13) / 40,
        learning_rate=2e-4,
        tokens_per_second=1234.5,
        memory_bytes=2_340_000_000,
        epoch=3 * number / total,
        grad_norm=1.0,
        eta_seconds=(total - number) * 0.5,
    )


def first_paint(home: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds from the start to the first picture with its menu, and of processor time.

    The latter says what it would be on a machine that nobody else uses.
    """
    found, cpu = [], []
    for _ in range(rounds):
        with Terminal([], home) as terminal:
            found.append(terminal.wait_for(b"Start") - terminal.started)
            cpu.append(terminal.cpu_seconds())
    return found, cpu


def key_to_paint(home: Path, presses: int, rate: int) -> list[float]:
    """Return the seconds from each key to its picture while `rate` events a second arrive."""
    run = make_run(home, "busy")
    over = threading.Event()

    def work() -> None:
        writer = events.EventWriter(run.events_file)
        began, number = time.perf_counter(), 0
        while not over.is_set():
            number += 1
            writer.write(a_step(number, 10_000_000))
            over.wait(max(began + number / rate - time.perf_counter(), 0))
        writer.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with Terminal(["runs", "attach", "busy", "--screen"], home) as terminal:
            terminal.wait_for(_PICTURES[-1])
            terminal.drain(3.0)
            found = []
            for number in range(presses):
                pressed = terminal.press(b"v")
                found.append(terminal.wait_for(_PICTURES[number % len(_PICTURES)]) - pressed)
                terminal.drain(0.05 + 0.013 * (number % 7))  # not in step with the screen's period
            return found
    finally:
        over.set()
        thread.join()


def bare_answers(presses: int) -> list[float]:
    """Return the seconds that a bare program takes to answer a key after 10 ms of computing.

    It is what the machine gives anybody now: no screen can be faster at its 99th percentile.
    """
    script = (
        "import os, time\n"
        "while os.read(0, 1):\n"
        "    began = time.thread_time()\n"
        "    while time.thread_time() - began < 0.010: pass\n"
        "    os.write(1, b'x')\n"
    )
    master, slave = pty.openpty()
    tty.setraw(slave)
    found = []
    with subprocess.Popen([sys.executable, "-c", script], stdin=slave, stdout=slave) as program:
        for number in range(presses + 1):
            pressed = time.perf_counter()
            os.write(master, b"v")
            os.read(master, 1)
            found.append(time.perf_counter() - pressed)
            time.sleep(0.05 + 0.013 * (number % 7))
        program.kill()
    os.close(master)
    os.close(slave)
    return found[1:]  # the first is the start


def long_run(home: Path) -> tuple[float, float, int]:
    """Return seconds to open a run of a million events, of processor time, and bytes of memory."""
    run = make_run(home, "long")
    with run.events_file.open("a", encoding="utf-8") as file:
        for number in range(1, _LONG_STEPS + 1):
            event = replace(a_step(number, _LONG_STEPS), seq=number + 10, t=number * 0.0864)
            file.write(event.to_json() + "\n")
    script = (
        "import json, resource, sys, time\n"
        "from pathlib import Path\n"
        "from llamaforge.runs.directory import RunDirectory\n"
        "from llamaforge.tui.run_feed import RunFeed\n"
        "feed = RunFeed(RunDirectory(Path(sys.argv[1])))\n"
        "began, cpu = time.perf_counter(), time.process_time()\n"
        "view = feed.read()\n"
        "first = time.perf_counter() - began, time.process_time() - cpu\n"
        "assert view.step == 1_000_000\n"
        "feed.read()\n"
        "whole = time.perf_counter() - began, time.process_time() - cpu\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(json.dumps([*first, *whole, peak]))\n"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, _, _, whole_cpu, peak = json.loads(answer)
    return first, whole_cpu, int(peak)


def training_cost(home: Path, turns: int, seconds: float) -> tuple[float, float]:
    """Return what a monitor costs a real training, as a part of it, and of the processors.

    One run of the demo's model trains; the monitor is attached and left in turns.
    """
    command = [sys.executable, "-m", "llamaforge"]
    environment = os.environ | {"LLAMAFORGE_HOME": str(home), "OLLAMA_HOST": "http://127.0.0.1:9"}

    def call(*words: str) -> None:
        subprocess.run([*command, *words], env=environment, check=True, capture_output=True)

    from llamaforge import paths

    call(
        "train", "--model", "llamaforge-demo", "--store", str(paths.embedded_store()), "--data",
        str(paths.embedded_data()), "--name", "cost", "--set", "max_steps=100000", "--set",
        "eval_steps=100000", "--set", "save_steps=100000", "--set",
        "per_device_train_batch_size=2", "--set", "gradient_accumulation_steps=1", "--detach",
        "--yes",
    )  # fmt: skip
    run = RunDirectory(home / "runs" / "cost")
    try:
        _wait(lambda: run.read_status().step >= 20)
        parts = []
        cpu = 0.0
        for _ in range(turns):
            alone = _speed(run, lambda: time.sleep(seconds))
            with Terminal(["runs", "attach", "cost", "--screen"], home) as terminal:
                terminal.wait_for(_PICTURES[-1])
                terminal.drain(2.0)
                before = terminal.cpu_seconds()
                watched = _speed(run, lambda terminal=terminal: terminal.drain(seconds))  # type: ignore[misc]
                cpu += terminal.cpu_seconds() - before
            parts.append(1 - watched / alone)
        cores = len(psutil.Process().cpu_affinity())
        return statistics.median(parts), cpu / (turns * seconds * cores)
    finally:
        call("runs", "stop", "cost", "--now")


def _speed(run: RunDirectory, meanwhile: Callable[[], None]) -> float:
    """Return the steps a second that the run takes meanwhile."""
    before, began = run.events_file.stat().st_size, time.perf_counter()
    meanwhile()
    seconds = time.perf_counter() - began
    with run.events_file.open("rb") as file:
        file.seek(before)
        return file.read().count(b'"type": "step"') / seconds


def _wait(holds: Callable[[], bool]) -> None:
    until = time.perf_counter() + 4 * _PATIENCE_SECONDS
    while not holds():
        if time.perf_counter() > until:
            raise SystemExit("The run does not train.")
        time.sleep(0.1)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--skip-training", action="store_true", help="leave the training out")
    arguments = parser.parse_args()
    rounds, presses, turns = (3, 60, 3) if arguments.quick else (9, 300, 8)
    print(f"load before {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n")
    print("| what | measured | aim | met |\n| --- | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        paints, paints_cpu = first_paint(home, rounds)
        _row("first paint, median", statistics.median(paints), 0.5, "s")
        _row("first paint, processor time, median", statistics.median(paints_cpu), 0.5, "s")
        keys = sorted(1000 * seconds for seconds in key_to_paint(home, presses, 200))
        _row("key to paint at 200 events/s, median", statistics.median(keys), 50, "ms")
        _row("key to paint at 200 events/s, p99", keys[int(len(keys) * 0.99)], 50, "ms")
        bare = sorted(1000 * seconds for seconds in bare_answers(presses))
        _row(
            "a bare program with 10 ms to compute, p99",
            bare[int(presses * 0.99)],
            None,
            "ms",
        )
        opened, whole_cpu, peak = long_run(home)
        _row("a million events, opened", opened, 1.0, "s")
        _row("a million events, all read (processor time)", whole_cpu, None, "s")
        _row("a million events, memory of the process", peak / 1e6, 200, "MB")
        if not arguments.skip_training:
            slower, share = training_cost(home, turns, 10.0)
            _row("training slower with a monitor, median of turns", 100 * slower, 3, "%")
            _row("the monitor's share of the processors", 100 * share, 3, "%")


def _row(what: str, value: float, aim: float | None, unit: str) -> None:
    met = "" if aim is None else "yes" if value < aim else "no"
    shown = "" if aim is None else f"< {aim:g} {unit}"
    print(f"| {what} | {value:.3g} {unit} | {shown} | {met} |", flush=True)


if __name__ == "__main__":
    main()
