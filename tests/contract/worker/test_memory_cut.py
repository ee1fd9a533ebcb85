"""The worker cuts a step to the memory there is, says so, and keeps to it when it resumes."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamaforge import hardware, paths
from llamaforge.catalog.store import Store
from llamaforge.errors import LlamaForgeError
from llamaforge.evaluation import llama
from llamaforge.evaluation.llama import loaded
from llamaforge.hardware import boot_id, memory_kills
from llamaforge.recipe.cut import Cut
from llamaforge.recipe.estimate import Estimator, RowSizes
from llamaforge.recipe.fit import Fit, fitted
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.runs import events
from llamaforge.runs.directory import RunDirectory, RunState, Status, create_run
from llamaforge.runs.launcher import worker_environment
from llamaforge.runs.tail import EventTail
from llamaforge.training import objective
from llamaforge.training.lora import attach_lora
from llamaforge.training.model import load_packed_model
from llamaforge.training.trial import measure
from llamaforge.worker import estimating, prepare, train, verify
from llamaforge.worker.estimating import Estimated
from llamaforge.worker.job import Job
from llamaforge.worker.keeper import was_killed_for_memory


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return make_job(tmp_path, monkeypatch, paths.embedded_data(), batch=64)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(paths.embedded_data().open().readlines()[:20]))
    return make_job(tmp_path, monkeypatch, rows, batch=8)


def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path, batch: int) -> Job:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path))
    model = Store.open(paths.embedded_store()).require_trainable("llamaforge-demo")
    assert model.blob is not None
    body = {"model": {"name": model.name}, "data": {"sources": [str(rows)]}}
    settings = [
        f"per_device_train_batch_size={batch}",
        "gradient_accumulation_steps=1",
        "max_steps=2",
    ]
    facts = ModelFacts(
        store=paths.embedded_store(),
        blob=model.blob,
        digest=f"sha256:{model.blob_digest}",
        architecture=model.architecture,
        quantization=model.quantization,
        context_length=model.context_length,
    )
    run = create_run("r")
    resolve(with_settings(body, settings), facts, run.id).save(run.spec_file)
    made = Job(run, resolve(with_settings(body, settings), facts, run.id))
    prepare.prepare(made)
    return made


def steps(job: Job) -> list[events.Step]:
    return [event for event in EventTail(job.run).read_new() if isinstance(event, events.Step)]


def unasked(sizes: RowSizes) -> Estimated:
    raise AssertionError("the cut was kept")


def test_a_step_is_cut_told_and_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def tight(estimator: Estimator, rows: RowSizes, available: int) -> Fit:
        asked = estimator.memory(Cut.of(estimator.settings), rows.longest).total
        return fitted(estimator, rows, int(asked / 0.9) - 1_000_000)

    monkeypatch.setattr(estimating, "fitted", tight)
    train.train(job)
    found = EventTail(job.run).read_new()
    told = [event for event in found if isinstance(event, events.Warn)]
    assert [event.code for event in told] == ["fitted_to_memory"]
    assert "64 rows × 1" in told[0].message
    assert len(steps(job)) == 2
    cut = train._fitted(job, job.spec.training, unasked)
    assert Cut.of(cut) != Cut.of(job.spec.training)
    assert cut.per_device_train_batch_size * cut.gradient_accumulation_steps == 64


def test_what_was_expected_stands_beside_what_it_took(job: Job) -> None:
    train.train(job)
    found = EventTail(job.run).read_new()
    assert not [event for event in found if isinstance(event, events.Warn)]
    body = job.run.estimate()
    assert body is not None
    predicted, measured = body["predicted"], body["measured"]
    assert predicted["settings"]["per_device_train_batch_size"] == 64
    assert predicted["steps"] == measured["steps"] == 2
    # Near only: the heap of this process holds what other tests left there.
    assert 0.4 < predicted["memory_bytes"]["total"] / measured["memory_bytes"] < 2.5
    took = [event.seconds or 0.0 for event in steps(job)]
    assert measured["training_seconds"] == pytest.approx(sum(took), abs=0.01)
    assert measured["seconds"] >= measured["training_seconds"]
    kinds = [event.kind for event in found if isinstance(event, events.Report)]
    assert kinds == ["data", "model", "predicted", "measured"]


def test_several_processes_share_the_memory(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 8_000_000_000)
    rows = RowSizes(train=((64, 8),) * 64, train_rows=64)
    alone = estimating.guessed(job.spec, job.header, rows)
    launch = job.spec.launch.model_copy(update={"processes": 2})
    both = estimating.guessed(job.spec.model_copy(update={"launch": launch}), job.header, rows)
    assert (alone.available, both.available) == (8_000_000_000, 4_000_000_000)
    assert alone.estimator.trial is None


def test_a_trial_leaves_weights_and_random_states_as_they_were(job: Job) -> None:
    packed = load_packed_model(job.header, torch.float32)
    torch.manual_seed(3)
    model = attach_lora(packed, job.spec.training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    settings = job.spec.training.model_copy(update={"compute_dtype": "float32"})
    weights = sum(value.numel() for value in model.parameters() if value.requires_grad)
    trial = measure(
        model,
        packed.head,
        settings,
        Estimator(job.header, settings, weights),
        longest=64,
        room_bytes=10**12,
        seconds=1.0,
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.grad is None for value in model.parameters())
    assert trial.seconds_a_token > 0
    assert trial.bytes_a_token > 0
    assert 0 < trial.forward_part < 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
         "allocation"),
        (MemoryError(), "allocation"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "cuda"),
    ],
)  # fmt: skip
def test_where_memory_runs_out_training_goes_on_with_half_the_batch(
    error: Exception, kind: str, small: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = objective.token_loss

    def loss(*arguments: Any) -> Any:
        if len(steps(small)) >= 1 and arguments[2].shape[0] > 2 and arguments[0].training:
            raise error
        return real(*arguments)

    monkeypatch.setattr(objective, "token_loss", loss)
    small.spec = small.spec.model_copy(
        update={"training": small.spec.training.model_copy(update={"save_steps": 1})}
    )
    train.train(small)
    found = EventTail(small.run).read_new()
    told = [event for event in found if isinstance(event, events.Warn)]
    assert [(event.code, event.kind) for event in told] == [("out_of_memory", kind)] * 2
    assert "goes on from step 1: a step of 8 rows × 1 is done as 4 × 2" in told[0].message
    assert "4 rows × 2 is done as 2 × 4" in told[1].message
    assert [event.step for event in steps(small)] == [1, 2]
    kept = train._fitted(small, small.spec.training, unasked)
    assert (kept.per_device_train_batch_size, kept.gradient_accumulation_steps) == (2, 4)


def test_what_fits_in_no_cut_is_told_and_other_errors_are_left(
    small: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(objective, "token_loss", loss)
    with pytest.raises(LlamaForgeError) as caught:
        train.train(small)
    assert caught.value.code == "out_of_memory"
    assert "even with one row" in caught.value.message
    told = [event for event in EventTail(small.run).read_new() if isinstance(event, events.Warn)]
    assert len(told) == 4, "4, 2 and one row, and one row recomputed"
    monkeypatch.setattr(objective, "token_loss", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        train.train(small)


def test_a_worker_that_the_system_ended_for_memory_is_started_again_with_less(
    small: Job, tmp_path: Path
) -> None:
    """The kernel's count is a file of ours; everything else is the real worker."""
    count = tmp_path / "vmstat"
    count.write_text("oom_kill 4\n")
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from llamaforge import hardware\n"
        "from llamaforge.training import objective\n"
        "from llamaforge.worker import __main__ as worker, stages\n"
        f"count = Path({str(count)!r})\n"
        "hardware._CGROUP, hardware._VM_COUNTS = count / 'none', count\n"
        "stages.LAST_STAGES = ()\n"
        "real = objective.token_loss\n"
        "def loss(*arguments):\n"
        "    if arguments[2].shape[0] > 4:\n"
        "        count.write_text('oom_kill 5\\n')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*arguments)\n"
        "objective.token_loss = loss\n"
        "sys.exit(worker.main(sys.argv[1:], (sys.executable, __file__)))\n"
    )
    command = [sys.executable, str(driver), str(small.run.path)]
    worker = subprocess.run(command, check=False, env=worker_environment())
    assert worker.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 120
    while small.run.read_status().state is not RunState.FINISHED:
        assert time.monotonic() < deadline, small.run.read_status()
        time.sleep(0.05)
    found = EventTail(small.run).read_new()
    told = [event for event in found if isinstance(event, events.Warn) and event.kind]
    assert [(event.code, event.kind) for event in told] == [("out_of_memory", "host_kill")]
    assert "The worker was ended because memory was used up" in told[0].message
    assert [event.resumed for event in found if isinstance(event, events.Started)] == [True, True]


def test_a_worker_outlives_its_keeper(tmp_path: Path) -> None:
    driver = (
        "import sys\n"
        "from pathlib import Path\n"
        "import psutil\n"
        "from llamaforge.runs.directory import RunDirectory\n"
        "from llamaforge.worker.keeper import kept\n"
        "with kept(RunDirectory(Path(sys.argv[1])), ['false']):\n"
        "    (keeper,) = psutil.Process().children()\n"
        "    keeper.kill()\n"
        "    keeper.wait()\n"
    )
    command = [sys.executable, "-c", driver, str(tmp_path)]
    worker = subprocess.run(command, check=False, env=worker_environment(), capture_output=True)
    assert (worker.returncode, worker.stderr) == (0, b"")


def test_a_worker_that_a_library_crashes_has_a_last_word(tmp_path: Path) -> None:
    driver = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llamaforge.hardware import boot_id, process_start\n"
        "from llamaforge.runs.directory import RunDirectory, RunState, Status\n"
        "from llamaforge.worker.keeper import kept\n"
        "run = RunDirectory(Path(sys.argv[1]))\n"
        "me = os.getpid()\n"
        "with kept(run, ['false']):\n"
        "    run.write_status(Status(RunState.RUNNING, 'export', pid=me,\n"
        "                            pid_started=process_start(me), boot=boot_id()))\n"
        "    os.abort()\n"
    )
    run = RunDirectory(tmp_path)
    run.events_file.touch()
    command = [sys.executable, "-c", driver, str(tmp_path)]
    worker = subprocess.run(command, check=False, env=worker_environment(), capture_output=True)
    assert worker.returncode == -signal.SIGABRT
    deadline = time.monotonic() + 60
    while run.read_status().state is not RunState.FAILED:
        assert time.monotonic() < deadline, run.read_status()
        time.sleep(0.05)
    failed, ended = EventTail(run).read_new()
    assert isinstance(failed, events.Failed)
    assert isinstance(ended, events.Finished)
    assert failed.code == "crashed"
    assert failed.message == "The worker crashed (Aborted), in the stage export."


def test_a_worker_that_is_killed_otherwise_stays_dead(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kills = memory_kills()
    assert kills is not None
    status = Status(
        RunState.RUNNING, "train", pid=dead.pid, pid_started=1.0, boot=boot_id(), memory_kills=kills
    )
    run.write_status(status)
    assert not was_killed_for_memory(run, dead.pid)
    run.write_status(replace(status, memory_kills=kills - 1))
    assert was_killed_for_memory(run, dead.pid)
    assert not was_killed_for_memory(run, dead.pid + 1)
    run.write_status(replace(status, state=RunState.STOPPED, memory_kills=kills - 1))
    assert not was_killed_for_memory(run, dead.pid)
    # No other stage can do with less.
    run.write_status(replace(status, stage="verify", memory_kills=kills - 1))
    assert not was_killed_for_memory(run, dead.pid)


def test_a_library_that_ends_the_worker_for_memory_is_recognised(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    status = Status(RunState.RUNNING, "train 2", pid=dead.pid, pid_started=1.0, log_bytes=0)
    run.write_status(status)
    run.log_file.write_text("loading\nmemory allocation of 1048576 bytes failed\n")
    assert was_killed_for_memory(run, dead.pid)
    # What an earlier worker left there says nothing of this one.
    run.write_status(replace(status, log_bytes=run.log_file.stat().st_size))
    assert not was_killed_for_memory(run, dead.pid)


DRIVER = """
import os, signal, sys
from pathlib import Path
from llamaforge import hardware
from llamaforge.evaluation import llama
from llamaforge.worker import __main__ as worker, stages
count, how = Path(sys.argv[1]), sys.argv[2]
hardware._CGROUP, hardware._VM_COUNTS = count / "none", count
stages.LAST_STAGES = stages.LAST_STAGES[:2]
real = llama.loaded
def loaded(files, *, vocabulary_only=False):
    if vocabulary_only:
        return real(files, vocabulary_only=True)
    if how == "aborted":
        os.abort()
    count.write_text("oom_kill 5\\n")
    os.kill(os.getpid(), signal.SIGKILL)
llama.loaded = loaded
sys.exit(worker.main(sys.argv[3:], (sys.executable, __file__, sys.argv[1], how)))
"""


def test_a_proof_that_memory_ran_out_on_is_told_and_made_later(
    small: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained stays; only llama.cpp, as it loads the model, meets its end."""
    count, driver = tmp_path / "vmstat", tmp_path / "driver.py"
    driver.write_text(DRIVER)
    for how, code in (("killed", -signal.SIGKILL), ("aborted", -signal.SIGABRT)):
        count.write_text("oom_kill 4\n")
        command = [sys.executable, str(driver), str(count), how, str(small.run.path)]
        worker = subprocess.run(command, check=False, env=worker_environment())
        assert worker.returncode == code, how
        deadline = time.monotonic() + 60
        while (status := small.run.read_status()).state is RunState.LOST:
            assert time.monotonic() < deadline, "somebody speaks for it"
            time.sleep(0.02)
        found = EventTail(small.run).read_new()
        told = [event for event in found if isinstance(event, events.Failed)]
        assert told[-1].code == "unproven", how
        assert "Training is done and its result is kept, but it is not proven" in told[-1].message
        assert "prove it: llamaforge runs resume r" in told[-1].hint
        assert (status.state, status.stage) == (RunState.FAILED, "verify"), how
        assert [item["kind"] for item in small.run.artifact_list()] == ["adapter"]
    again = [
        event.name
        for event in EventTail(small.run).read_new()
        if isinstance(event, events.Stage) and event.state == "skipped"
    ]
    assert again[-3:] == ["prepare", "train", "export"]

    with monkeypatch.context() as patch:
        patch.setattr(llama, "loaded", without_memory)
        with pytest.raises(LlamaForgeError) as caught:
            verify.verify(small)
    assert caught.value.code == "unproven"
    verify.verify(small)
    assert verify.is_verified(small)


@contextmanager
def without_memory(files: llama.Files, *, vocabulary_only: bool = False) -> Iterator[Any]:
    """Let llama.cpp load a model into an address space that is used up."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4096, before[1]))
    try:
        with loaded(files, vocabulary_only=vocabulary_only) as model:
            yield model
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
