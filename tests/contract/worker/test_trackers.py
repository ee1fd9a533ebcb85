"""A run's figures reach the trackers that a recipe names, and their failures stop nothing."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamaforge.errors import RefusedError, UsageError
from llamaforge.recipe.preflight import check_trackers
from llamaforge.recipe.resolve import ModelFacts, resolve, with_settings
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs import events
from llamaforge.runs.launcher import worker_environment
from llamaforge.worker.trackers import Trackers


def spec(*settings: str) -> RunSpec:
    body = {"model": {"name": "m"}, "data": {"sources": ["/private/rows.jsonl"]}}
    facts = ModelFacts(
        store=Path("/s"),
        blob=Path("/s/b"),
        digest="sha256:0",
        architecture="llama",
        quantization="Q4_K_M",
        context_length=512,
    )
    return resolve(with_settings(body, list(settings)), facts, "run-1")


def step(number: int, loss: float | None) -> events.Step:
    return events.Step(
        step=number,
        total=9,
        loss=loss,
        learning_rate=1e-3,
        tokens_per_second=5.0,
        memory_bytes=7,
        epoch=0.5,
    )


class Recorded:
    """A stand-in for wandb, trackio and mlflow that notes what it is given."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))

    def close(self) -> None:
        self.closed += 1


def stand_in(name: str, seen: Recorded) -> SimpleNamespace:
    def init(**settings: Any) -> SimpleNamespace:
        seen.settings = settings
        return SimpleNamespace(log=seen.log, finish=seen.close)

    if name == "mlflow":
        return SimpleNamespace(
            set_tracking_uri=lambda uri: None,
            set_experiment=lambda experiment: None,
            start_run=lambda **settings: SimpleNamespace(info=SimpleNamespace(run_id="7")),
            log_params=lambda settings: seen.settings.update(config=settings),
            log_metrics=seen.log,
            end_run=seen.close,
        )
    return SimpleNamespace(
        init=init, log=seen.log, finish=seen.close, Settings=lambda **settings: settings
    )


def test_rewards_of_pairs_and_labels_are_passed_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorded()
    monkeypatch.setitem(sys.modules, "trackio", stand_in("trackio", seen))
    trackers = Trackers(spec("report_to=[trackio, trackio]", "method=dpo"), tmp_path, print)
    trackers.take(replace(step(1, 0.7), metrics={"rewards/margins": 0.25, "kl": None}))
    trackers.take(events.Eval(step=1, loss=0.6, metrics={"rewards/margins": 0.5}))
    trackers.close()
    assert [step for step, _ in seen.logged] == [1, 1], "each once"
    assert seen.logged[0][1]["train/rewards/margins"] == 0.25
    assert "train/kl" not in seen.logged[0][1]
    assert seen.logged[1][1] == {"eval/loss": 0.6, "eval/rewards/margins": 0.5}


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_figures_and_settings_are_passed_on_and_no_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorded()
    monkeypatch.setitem(sys.modules, name, stand_in(name, seen))
    warned: list[str] = []
    trackers = Trackers(spec(f"report_to={name}"), tmp_path, lambda code, _: warned.append(code))
    trackers.take(step(1, 2.5))
    trackers.take(step(2, None))
    trackers.take(events.Eval(step=2, loss=1.5))
    trackers.take(events.Sample(prompt="p", expected="e", base="b", tuned="t", step=2))
    trackers.close()
    assert warned == []
    assert [number for number, _ in seen.logged] == [1, 2, 2]
    assert seen.logged[0][1]["train/loss"] == 2.5
    assert "train/loss" not in seen.logged[1][1]
    assert seen.logged[2][1] == {"eval/loss": 1.5}
    assert seen.closed == 1
    assert seen.settings["config"]["lora_r"] == 16
    assert "/private" not in repr(seen.settings)


def test_a_tracker_that_fails_is_told_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorded()
    broken = stand_in("wandb", seen)

    def fail(**settings: Any) -> SimpleNamespace:
        def log(*_: Any, **__: Any) -> None:
            raise ConnectionError("no way to https://user:secret@host")

        return SimpleNamespace(log=log, finish=seen.close)

    broken.init = fail
    monkeypatch.setitem(sys.modules, "wandb", broken)
    monkeypatch.setitem(sys.modules, "trackio", stand_in("trackio", seen))
    warned: list[tuple[str, str]] = []
    trackers = Trackers(
        spec("report_to=[wandb, trackio]"), tmp_path, lambda *said: warned.append(said)
    )
    for number in (1, 2, 3):
        trackers.take(step(number, 1.0))
    trackers.close()
    assert [code for code, _ in warned] == ["tracker_failed"]
    assert "secret" not in warned[0][1]
    assert [number for number, _ in seen.logged] == [1, 2, 3]


def test_one_that_is_not_installed_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RefusedError) as caught:
        check_trackers(spec("report_to=mlflow"))
    assert caught.value.code == "no_tracker"
    assert "llamaforge[mlflow]" in caught.value.hint
    check_trackers(spec())


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(UsageError, match="report_to"):
        spec("report_to=excel")


def test_their_keys_reach_the_worker_only_where_the_recipe_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "u")
    assert not {"WANDB_API_KEY", "MLFLOW_TRACKING_URI"} & set(worker_environment())
    chosen = worker_environment(["wandb"])
    assert chosen["WANDB_API_KEY"] == "k"
    assert "MLFLOW_TRACKING_URI" not in chosen


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trackers = Trackers(spec("report_to=tensorboard"), tmp_path, lambda *_: pytest.fail("warned"))
    for number in (1, 2, 3):
        trackers.take(step(number, 4.0 / number))
    trackers.close()
    found = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    losses = [(item.step, item.value) for item in found.Scalars("train/loss")]
    assert losses == [(1, 4.0), (2, 2.0), (3, pytest.approx(4 / 3))]
