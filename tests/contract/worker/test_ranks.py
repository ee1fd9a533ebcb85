"""What starts the processes that train together, and how all of them end."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.errors import ExitCode, LlamaForgeError
from llamaforge.hardware import process_start
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.runs import control, events
from llamaforge.runs.directory import RunDirectory, RunState, Status, create_run
from llamaforge.runs.tail import EventTail
from llamaforge.worker import many
from llamaforge.worker.job import Job, Stopped
from llamaforge.worker.many import RankFiles, join
from llamaforge.worker.together import STARTED_BY

# As torchrun does, it asks its ranks to end, and waits for those that do not.
LAUNCHER = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    code = "from llamaforge.worker.together import end_with_starter; import time; "
    code += "end_with_starter(); time.sleep(60)"
    rank = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    print(rank.pid, *sys.argv[1:], flush=True)
    try:
        time.sleep(60)
    finally:
        rank.terminate()
        rank.wait()
"""
STARTER = """
    import os, subprocess, sys, time
    command = [sys.executable, "-m", "llamaforge.worker.together", "a_launcher", "--words"]
    os.environ["LLAMAFORGE_STARTED_BY"] = str(os.getpid())
    launcher = subprocess.Popen(command, start_new_session=True)
    print(launcher.pid, flush=True)
    time.sleep(60)
"""


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("killed", ["worker", "launcher", "worker of a halted rank"])
def test_ranks_end_with_what_started_them_however_that_ends(tmp_path: Path, killed: str) -> None:
    (tmp_path / "a_launcher.py").write_text(textwrap.dedent(LAUNCHER))
    places = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTER)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
    )
    assert worker.stdout is not None
    launcher = psutil.Process(int(worker.stdout.readline()))
    number, words = worker.stdout.readline().split()
    rank = psutil.Process(int(number))
    assert words == "--words"
    try:
        if "halted" in killed:
            rank.suspend()
        (launcher if killed == "launcher" else worker).kill()
        wait(lambda: not rank.is_running())
        wait(lambda: not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE)
    finally:
        for process in (rank, launcher, worker):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        worker.communicate()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(paths.embedded_data().open().readlines()[:20]))
    model = Store.open(paths.embedded_store()).require_trainable("llamaforge-demo")
    assert model.blob is not None
    recipe = with_settings(
        {"model": {"name": model.name}, "data": {"sources": [str(rows)]}},
        ["processes=2", "machines=2", "rendezvous=127.0.0.1:29999", "max_restarts=2"],
    )
    facts = ModelFacts(
        store=paths.embedded_store(),
        blob=model.blob,
        digest=f"sha256:{model.blob_digest}",
        architecture=model.architecture,
        quantization=model.quantization,
        context_length=model.context_length,
    )
    made = create_run("r")
    resolve(recipe, facts, "r").save(made.spec_file)
    return made


@pytest.fixture
def job(run: RunDirectory) -> Iterator[Job]:
    from llamaforge.recipe.spec import RunSpec

    made = Job(run, RunSpec.load(run.spec_file))
    yield made
    made.close()


def state(run: RunDirectory, now: RunState) -> None:
    me = os.getpid()
    run.write_status(Status(now, pid=me, pid_started=process_start(me)))


def begin(run: RunDirectory) -> None:
    """Let the first machine train, as its worker notes it."""
    state(run, RunState.RUNNING)
    files = RankFiles.of(run)
    files.folder.mkdir(exist_ok=True)
    files.launch.write_text(json.dumps({"phase": 1}))


@pytest.mark.parametrize("before", [RunState.CREATED, RunState.STOPPED, RunState.FAILED])
def test_a_machine_that_joins_waits_for_a_run_that_goes_on(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, before: RunState
) -> None:
    """All machines of a cluster are started at once: the first needs seconds to take the run."""
    asked: list[list[str]] = []

    def call(command: list[str], env: dict[str, str]) -> int:
        asked.append(command)
        assert env[STARTED_BY] == str(os.getpid())
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    if before is not RunState.CREATED:
        state(run, before)
    threading.Timer(0.4, begin, (run,)).start()
    assert join([str(run.path)]) == ExitCode.DONE
    assert len(asked) == 1
    assert "--nnodes=2" in asked[0]


def test_a_machine_that_joins_leaves_with_the_run(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    state(run, RunState.FINISHED)
    assert join([str(run.path)]) == ExitCode.DONE
    state(run, RunState.RUNNING)
    threading.Timer(0.4, state, (run, RunState.STOPPED)).start()
    assert join([str(run.path)]) == ExitCode.INTERRUPTED
    state(run, RunState.FAILED)
    assert join([str(run.path)], patience_seconds=0.2) == ExitCode.FAILED
    assert "has not gone on with it" in capsys.readouterr().err
    assert join([]) == ExitCode.USAGE


def test_several_machines_that_cannot_meet_are_told_in_a_sentence(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    text = run.spec_file.read_text().replace("127.0.0.1:29999", "no-such-host.invalid:29999")
    run.spec_file.write_text(text)
    assert many.main([str(run.path)]) == ExitCode.REFUSED
    assert "no-such-host.invalid" in capsys.readouterr().err


def test_ranks_that_memory_ends_are_told_from_ranks_that_fail(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first get a smaller step, as a worker does that trains alone; the others an error."""
    monkeypatch.setattr(many, "launch_command", lambda *_words, **_more: ["false"])
    with pytest.raises(LlamaForgeError, match="2 times") as caught:
        many.train_ranks(job)
    assert caught.value.code == "ranks_failed"
    assert "signal 9" in many._failure(-9, 2)
    assert "max_restarts is 0" in many._failure(1, 0)
    counts = iter([3, 4])
    for module in (many, sys.modules["llamaforge.worker.keeper"]):
        monkeypatch.setattr(module, "memory_kills", lambda: next(counts))
    assert many.train_ranks(job) == {"shortage": "host_kill"}


RANK = """
    import os, sys
    from pathlib import Path
    import torch
    from llamaforge.training.ranks import Ranks
    from llamaforge.worker.rank import forget_launcher
    ranks = Ranks.join("gloo")
    forget_launcher()
    left = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
    left += [name for name in os.environ if "ACCELERATE" in name]
    number = torch.tensor([float(ranks.rank + 1)])
    ranks.sum_([number])
    line = f"{sys.argv[1:]} {ranks.world} {number.item()} {left}"
    os.write(1, f"{line}{os.linesep}".encode())  # in one piece: both write to one pipe
    ranks.leave()
"""


@pytest.mark.slow
def test_accelerate_launch_starts_the_ranks_as_torchrun_does(
    run: RunDirectory, tmp_path: Path
) -> None:
    (tmp_path / "a_rank.py").write_text(textwrap.dedent(RANK))
    launch = LaunchSettings(processes=2, launcher="accelerate")
    command = many.launch_command(run, launch, is_first=True)
    assert command[command.index("-m", 3) :] == ["-m", "llamaforge.worker.rank", str(run.path), "1"]
    command[command.index("llamaforge.worker.rank")] = "a_rank"
    places = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = many.rank_environment(launch) | {"PYTHONPATH": places}
    said = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-3000:]
    assert said.stdout.splitlines() == [f"{[str(run.path), '1']} 2 3.0 []"] * 2


def test_accelerate_launch_is_for_one_machine() -> None:
    with pytest.raises(ValueError, match="several need torchrun"):
        LaunchSettings(machines=2, rendezvous="a:1", launcher="accelerate")


def test_a_run_that_waits_for_another_machine_can_be_stopped(
    job: Job, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "launch_command", lambda *_words, **_more: ["sleep", "60"])
    monkeypatch.setattr(many, "_DEAF_SECONDS", 0.2)
    control.ask(run, control.Request.STOP)
    started = time.monotonic()
    with pytest.raises(Stopped):
        many.train_ranks(job)
    assert time.monotonic() - started < 10
    assert not psutil.Process().children()
    said = [event for event in EventTail(run).read_new() if isinstance(event, events.Warn)]
    assert [event.code for event in said] == ["joining"]
    assert f"llamaforge.worker.many {run.path}" in said[0].message
