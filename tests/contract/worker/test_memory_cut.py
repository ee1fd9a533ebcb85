"""The worker cuts a step to the memory there is, says so, and keeps to it when it resumes."""

from pathlib import Path

import pytest

from llamaforge import paths
from llamaforge.catalog.store import Store
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.runs import events
from llamaforge.runs.directory import create_run
from llamaforge.runs.tail import EventTail
from llamaforge.worker import prepare, train
from llamaforge.worker.job import Job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("LLAMAFORGE_HOME", str(tmp_path))
    model = Store.open(paths.embedded_store()).require_trainable("llamaforge-demo")
    assert model.blob is not None
    body = {"model": {"name": model.name}, "data": {"sources": [str(paths.embedded_data())]}}
    settings = ["per_device_train_batch_size=64", "gradient_accumulation_steps=1", "max_steps=2"]
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


def test_a_step_is_cut_told_and_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "available_memory_bytes", lambda: 1_800_000_000)
    train.train(job)
    found = EventTail(job.run).read_new()
    told = [event for event in found if isinstance(event, events.Warn)]
    assert [event.code for event in told] == ["fitted_to_memory"]
    assert "64 rows × 1" in told[0].message
    assert len(steps(job)) == 2

    monkeypatch.setattr(train, "available_memory_bytes", lambda: 10**12)
    cut = train._fitted(job, job.spec.training, 1)
    assert cut.per_device_train_batch_size < 64
    assert cut.gradient_checkpointing
    assert cut.per_device_train_batch_size * cut.gradient_accumulation_steps == 64


def test_nothing_is_told_where_everything_fits(job: Job) -> None:
    assert train._fitted(job, job.spec.training, 1) == job.spec.training
    assert not [event for event in EventTail(job.run).read_new() if isinstance(event, events.Warn)]
