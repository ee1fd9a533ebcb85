"""One function for each fault: it makes the fault happen once and raises where something gave way.

The numbers are those of the table in `docs/faults.md`.
"""

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from llamaforge.hardware import free_disk_bytes
from llamaforge.runs import control, events, pulse
from llamaforge.runs.directory import RunDirectory, RunState
from llamaforge.runs.tail import EventTail
from llamaforge.training.checkpoints import newest_checkpoint, step_of
from tools.failpoints import end_at_operation
from tools.fault_bench import (
    SAVE_STEPS,
    STEPS,
    WAIT_SECONDS,
    Bench,
    FaultError,
    Worker,
    events_of,
    failure_of,
    log_of,
    require,
    steps_of,
    wait_for,
    warnings_of,
)

SAVE_OPERATIONS: Final = 260
"""About as often a run opens, renames, removes or syncs files of its checkpoints."""


class SkippedError(Exception):
    """This machine cannot try it."""


@dataclass(frozen=True)
class Row:
    """One fault of the table."""

    number: int
    fault: str
    must: str
    trial: Callable[[Bench, random.Random], None]
    trials: int
    """In the whole campaign."""
    short: int = 1
    """In the short form that the tests run."""


def killed(bench: Bench, chance: random.Random) -> None:
    """Kill -9 at a random time, again and again until the run ends by itself."""
    run = bench.run()
    for _ in range(6):
        worker = bench.start(run)
        before = len(steps_of(run))
        time.sleep(chance.uniform(0.2, 1.1) * bench.seconds)
        worker.kill()
        code = worker.wait()
        if code == 0:
            break
        require(code == -signal.SIGKILL, f"ended with {code}: {log_of(run)}")
        require(run.read_status().state is not RunState.FINISHED, "finished and killed")
        done, again = steps_of(run)[:before], steps_of(run)[before:]
        # A checkpoint may be whole before it is told, so it is the steps that say what was done.
        require(not done or not again or again[0] <= max(done) + 1, "steps were left out")
    bench.finish(run)
    done = steps_of(run)
    for earlier, later in itertools.pairwise(done):
        require(earlier - later < SAVE_STEPS, f"steps {later} to {earlier} were done again")


def killed_while_saving(bench: Bench, chance: random.Random) -> None:
    """End at the n-th operation on the disk that concerns checkpoints."""
    run = bench.run()
    number = chance.randrange(1, SAVE_OPERATIONS)
    bench.start(run, lambda: end_at_operation(number, under=f"{run.id}/checkpoints")).wait()
    saved = [item.step for item in events_of(run) if isinstance(item, events.Checkpoint)]
    newest, damaged = newest_checkpoint(run.checkpoints)
    if saved:
        require(newest is not None, "no checkpoint verifies")
        require(newest is not None and step_of(newest) >= saved[-1], "the newest one is gone")
    require(not damaged, f"half a checkpoint was taken for one: {damaged}")
    bench.finish(run)


def watcher_killed(bench: Bench, chance: random.Random) -> None:
    """Kill what watches, or close its terminal: the worker goes on and no event is lost."""
    run = bench.run(max_steps=STEPS)
    worker = bench.start(run)
    wait_for(lambda: run.read_status().state is RunState.RUNNING, "the worker to begin")
    main, other = os.openpty()
    watcher = subprocess.Popen(
        [sys.executable, "-m", "llamaforge", "runs", "attach", run.id],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    time.sleep(chance.uniform(0.1, 1.0))
    if chance.random() < 0.5:
        watcher.kill()
    else:
        os.close(main)  # the terminal is closed: SIGHUP
        main = -1
        watcher.send_signal(signal.SIGHUP)
    started = time.monotonic()
    seen = EventTail(run).read_new()
    require(time.monotonic() - started < 2.0, "it takes more than 2 s to be there again")
    require(seen, "no events for who comes back")
    require(worker.wait() == 0, f"the worker ended with its watcher: {log_of(run)}")
    watcher.wait(WAIT_SECONDS)
    if main >= 0:
        os.close(main)
    bench.finish(run)


def asked_to_stop(bench: Bench, chance: random.Random) -> None:
    """SIGTERM or SIGINT: saved and stopped within 30 s, nothing left running."""
    run = bench.run()
    worker = bench.start(run)
    wait_for(lambda: run.read_status().pid == worker.pid, "the worker to begin")
    time.sleep(chance.uniform(0.0, 0.9) * bench.seconds)
    number = chance.choice([signal.SIGTERM, signal.SIGINT])
    worker.kill(number)
    twice = chance.random() < 0.3
    if twice:
        time.sleep(chance.uniform(0.0, 0.2))
        worker.kill(number)
    code = worker.wait(30.0)
    status = run.read_status()
    require(code in {0, 130}, f"ended with {code}: {log_of(run)}")
    require(status.state in {RunState.STOPPED, RunState.FINISHED}, f"its state is {status.state}")
    if steps_of(run) and not twice:
        newest, _ = newest_checkpoint(run.checkpoints)
        done = steps_of(run)[-1]
        require(newest is not None and step_of(newest) == done, f"step {done} is not saved")
    wait_for(lambda: not _group(worker.pid), "its processes to end", 10.0)
    bench.finish(run)


def _group(leader: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def disk_full(bench: Bench, chance: random.Random) -> None:
    """The disk fills up at a random stage; the run waits, says the bytes, and goes on."""
    with _small_disk(bench, 24_000_000) as disk:
        run = bench.run()
        ballast = disk / "ballast"
        stage = chance.choice(["prepare", "train", "train", "export"])
        worker = bench.start(run)
        if stage != "prepare":
            wait_for(lambda: run.read_status().stage == stage or _over(run), f"stage {stage}")
        _fill(ballast, disk, leave=chance.randrange(0, 60_000))
        deadline = time.monotonic() + 0.8 * bench.seconds
        while time.monotonic() < deadline and not _paused(run):
            time.sleep(0.01)
        paused = _paused(run)
        if paused is not None:
            require(paused.needed_bytes, "the bytes are not said")
            require("must be free" in paused.message, paused.message)
            newest, _ = newest_checkpoint(run.checkpoints)
            saved = [item.step for item in events_of(run) if isinstance(item, events.Checkpoint)]
            require(not saved or newest is not None, "the last checkpoint is damaged")
        ballast.unlink()
        require(worker.wait() == 0, f"it did not go on: {log_of(run)}")
        require(not warnings_of(run), f"warned of {warnings_of(run)}")
        bench.finish(run)


def _paused(run: RunDirectory) -> events.Paused | None:
    found = [item for item in events_of(run) if isinstance(item, events.Paused)]
    return found[-1] if found else None


def _over(run: RunDirectory) -> bool:
    return control.is_over(run)


@contextlib.contextmanager
def _small_disk(bench: Bench, size_bytes: int) -> Iterator[Path]:
    disk = bench.home / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        raise SkippedError("no small disk can be mounted: that takes root")
    try:
        Bench.use(disk)
        yield disk
    finally:
        Bench.use(bench.home)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(ballast: Path, disk: Path, *, leave: int) -> None:
    size = max(free_disk_bytes(disk) - leave, 0)
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, size)


def out_of_memory(bench: Bench, chance: random.Random) -> None:
    """From a random step on training may have only little memory more than it has."""
    run = bench.run(per_device_train_batch_size=16, gradient_accumulation_steps=1)
    more = chance.randrange(0, 16_000_000)
    first = chance.randrange(0, STEPS)

    def limit() -> None:
        from llamaforge.training import objective  # noqa: PLC0415 - in the fork alone
        from llamaforge.worker.job import Job  # noqa: PLC0415

        real, enter = objective.token_loss, Job.enter
        calls = 0

        def loss(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == first + 1:
                size = psutil.Process().memory_info().vms + more
                resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            return real(*arguments)  # type: ignore[arg-type]

        def entered(job: Job, stage: str) -> None:
            # llama.cpp ends the process where it gets no memory: that is not what is tried here.
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            enter(job, stage)

        objective.token_loss = loss  # type: ignore[assignment]
        Job.enter = entered  # type: ignore[method-assign, assignment]

    code = bench.start(run, limit).wait()
    if code == -signal.SIGABRT:  # a library ended it, and it is started again
        code = bench.wait_for_end(run)
    status = run.read_status()
    told = [item for item in events_of(run) if isinstance(item, events.Warn) and item.kind]
    require(all("goes on" in item.message for item in told), "it is not said what was done")
    if code:
        failed = failure_of(run)
        require(failed is not None, f"ended with {code}, and nothing is said: {log_of(run)}")
        require(failed is not None and failed.code == "out_of_memory", f"{failed} {log_of(run)}")
        require(failed is not None and failed.hint, "no way out is said")
        require(told, f"no smaller batch was tried: {log_of(run)}")
        require(status.state is RunState.FAILED, f"its state is {status.state}")
    require(bench.start(run).wait() == 0, f"not resumable: {log_of(run)}")
    require(sorted(set(steps_of(run))) == list(range(1, STEPS + 1)), "steps are missing")
    bench.require_untouched(run)


def flipped(bench: Bench, chance: random.Random) -> None:
    """A bit of a checkpoint or of the model flips, or the end is cut off."""
    run = bench.run()
    if chance.random() < 0.2:
        blob = bench.home / f"{run.id}.gguf"
        shutil.copy(bench.model, blob)
        _damage(blob, chance)
        spec = run.spec_file.read_text(encoding="utf-8")
        run.spec_file.write_text(spec.replace(str(bench.model), str(blob)), encoding="utf-8")
        code = bench.start(run).wait()
        failed = failure_of(run)
        require(code == 3 and failed is not None, f"trained on a damaged model: {log_of(run)}")
        require(failed is not None and blob.name in failed.message, "the file is not named")
        require(not steps_of(run), "trained on a damaged model")
        return
    worker = bench.start(run)
    wait_for(lambda: len(_saved(run)) >= 2 or _over(run), "two checkpoints")
    worker.kill()
    worker.wait()
    newest, _ = newest_checkpoint(run.checkpoints)
    require(newest is not None, "there is no checkpoint")
    assert newest is not None
    for _ in range(25):  # what flips is seen, wherever it is
        victim = chance.choice([path for path in newest.iterdir() if path.stat().st_size])
        content = victim.read_bytes()
        _damage(victim, chance)
        found, damaged = newest_checkpoint(run.checkpoints)
        require(found != newest, f"{victim.name} is damaged, and the checkpoint is taken")
        require(damaged and damaged[0].path == newest, "it is not said what was passed over")
        victim.write_bytes(content)
    _damage(victim, chance)
    bench.start(run).wait()
    require("damaged_checkpoint" in warnings_of(run), "nothing is said of it")
    bench.finish(run)


def _damage(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        if chance.random() < 0.2:
            file.truncate(chance.randrange(0, size))
            return
        place = chance.randrange(size)
        file.seek(place)
        byte = file.read(1)[0] ^ (1 << chance.randrange(8))
        file.seek(place)
        file.write(bytes([byte]))


def _saved(run: RunDirectory) -> list[int]:
    return [item.step for item in events_of(run) if isinstance(item, events.Checkpoint)]


def rows_change(bench: Bench, chance: random.Random) -> None:
    """The file of rows is changed while a run trains on it; it has its own."""
    before = bench.rows.read_bytes()
    run = bench.run()
    worker = bench.start(run)
    wait_for(lambda: len(steps_of(run)) >= chance.randrange(0, 3) + 1, "training")
    try:
        bench.rows.write_bytes(before + b'{"prompt": "new", "completion": "rows"}\n' * 9)
        if chance.random() < 0.5:
            worker.kill()
        worker.wait()
        if run.read_status().state is not RunState.FINISHED:
            bench.start(run).wait()
    finally:
        bench.rows.write_bytes(before)
    bench.finish(run)


def clock_jumps(bench: Bench, chance: random.Random) -> None:
    """The date is set a day forth or back, several times in a run."""
    run = bench.run()
    jumps = sorted(chance.uniform(0, bench.seconds) for _ in range(3))
    days = [chance.choice([-86_400.0, 86_400.0]) for _ in jumps]

    def jump() -> None:
        real, began = time.time, time.monotonic()
        boots = psutil.boot_time()

        def shift() -> float:
            passed = time.monotonic() - began
            return sum(day for at, day in zip(jumps, days, strict=True) if at < passed)

        time.time = lambda: real() + shift()
        if sys.platform == "linux":
            linux = sys.modules["psutil._pslinux"]
            linux.boot_time = lambda: boots + shift()  # type: ignore[attr-defined]

    worker = bench.start(run, jump)
    wait_for(lambda: run.read_status().pid == worker.pid or _over(run), "the worker to begin")
    while not _over(run):
        state = run.read_status().state
        require(state is not RunState.LOST, "a living worker is called lost")
        time.sleep(0.05)
    require(worker.wait() == 0, log_of(run))
    for item in events_of(run):
        if isinstance(item, events.Step):
            require(item.eta_seconds is None or item.eta_seconds >= 0, "less than no time is left")
            require(item.tokens_per_second > 0, "a negative speed")
        if isinstance(item, events.Stage) and item.seconds is not None:
            require(0 <= item.seconds < 3600, "a stage took a day, or less than no time")
    bench.finish(run)


def started_at_once(bench: Bench, chance: random.Random) -> None:
    """Twenty workers start on one run: one has it, the others are told who."""
    run = bench.run()
    workers = [bench.start(run) for _ in range(20)]
    del chance
    codes = [worker.wait() for worker in workers]
    require(sorted(codes) == [0] + [3] * 19, f"they ended with {sorted(codes)}: {log_of(run)}")
    owner = workers[codes.index(0)].pid
    told = run.log_file.read_text(errors="replace").count(f"process {owner} on")
    fresh = run.log_file.read_text(errors="replace").count("has only just started")
    require(told + fresh == 19, f"{told} of 19 are told who has it")
    begun = [item for item in events_of(run) if isinstance(item, events.Started)]
    require([item.pid for item in begun] == [owner], "more than one wrote to the run")
    bench.finish(run)


def diverges(bench: Bench, chance: random.Random) -> None:
    """A rate beyond reason, or weights that turn into no numbers: stopped at once."""
    at = chance.randrange(2, STEPS)

    def poison() -> None:
        from llamaforge.training import objective  # noqa: PLC0415 - in the fork alone

        real = objective.token_loss
        calls = 0

        def loss(*arguments: object) -> object:
            nonlocal calls
            total, count = real(*arguments)  # type: ignore[arg-type]
            model = arguments[0]
            if model.training:  # type: ignore[attr-defined]
                calls += 1
                if calls > 2 * at:
                    total = total * float("inf")
            return total, count

        objective.token_loss = loss  # type: ignore[assignment]

    run = bench.run(learning_rate=1.0, max_grad_norm=1e30, seed=chance.randrange(1000))
    code = bench.start(run, poison).wait()
    failed = failure_of(run)
    require(code == 1 and failed is not None, f"ended with {code}: {log_of(run)}")
    require(failed is not None and failed.code == "diverged", f"{failed}")
    done = steps_of(run)[-1]
    require(done <= at + 1, f"it went on to step {done} after step {at}")
    newest, damaged = newest_checkpoint(run.checkpoints)
    require(not damaged, "a checkpoint is damaged")
    if newest is not None:
        _require_finite(newest)
        require(done - step_of(newest) <= SAVE_STEPS + 1, "the last finite checkpoint is gone")
    require(not run.artifact_list(), "something of it is offered")
    refused = subprocess.run(
        [sys.executable, "-m", "llamaforge", "export", run.id, "--json"],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    require(refused.returncode in {3, 4}, f"exported: {refused.stdout} {refused.stderr}")
    bench.require_untouched(run)


def _require_finite(checkpoint: Path) -> None:
    import torch  # noqa: PLC0415 - takes a while to load
    from safetensors.torch import load_file  # noqa: PLC0415

    for name, weights in load_file(checkpoint / "adapter_model.safetensors").items():
        require(bool(torch.isfinite(weights).all()), f"{name} is saved with what is no number")


def hangs(bench: Bench, chance: random.Random) -> None:
    """The worker is stopped as a whole: that is told, it can be ended, and the run goes on."""
    run = bench.run()
    worker = bench.start(run)
    wait_for(lambda: run.read_status().pid == worker.pid, "the worker to begin")
    time.sleep(chance.uniform(0.0, 0.7) * bench.seconds)
    worker.kill(signal.SIGSTOP)
    if _over(run):
        worker.kill(signal.SIGCONT)
        worker.wait()
        bench.finish(run)
        return
    limit, pulse.HANG_SECONDS = pulse.HANG_SECONDS, 2.5  # type: ignore[misc]
    try:
        wait_for(lambda: "no sign of life" in run.read_status().message, "a word of it", 20.0)
    finally:
        pulse.HANG_SECONDS = limit  # type: ignore[misc]
    require(run.process() is not None, "the process is not found any more")
    ended = _ended_beside(worker, run)
    require(ended, "it cannot be ended")
    bench.finish(run)


def _ended_beside(worker: Worker, run: RunDirectory) -> bool:
    """End the run's worker as `runs stop --now` does, from a process beside its parent."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if control.end_now(run, grace_seconds=0.3) else 1)
    code = worker.wait(30.0)
    _, status = os.waitpid(pid, 0)
    return code == -signal.SIGKILL and os.waitstatus_to_exitcode(status) == 0


def explain(error: BaseException) -> str:
    """Return what a failed trial is told as."""
    return str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}"
