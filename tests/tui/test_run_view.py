"""A run's view says what its events say, whatever is in them."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaforge.runs import events
from llamaforge.runs.control import Request
from llamaforge.runs.directory import RunState, Status
from llamaforge.runs.tail import EventTail
from llamaforge.tui.loss_history import MAX_POINTS, LossHistory, LossPoint, smoothed
from llamaforge.tui.run_feed import RunFeed
from llamaforge.tui.run_reducer import MAX_LOG_LINES, reduce, with_status
from llamaforge.tui.run_view import Level, RunView, StageState, begin_view
from llamaforge.tui.run_words import headline
from llamaforge.tui.widgets.results import result_lines
from llamaforge.words import plural
from tests.tui.run_builder import ARTIFACTS, EVALUATION, FIDELITY, RunBuilder, step


def view_of(*written: events.Event, publish: str = "") -> RunView:
    numbered = [
        replace(event, seq=number, t=float(number)) for number, event in enumerate(written, start=1)
    ]
    return reduce(begin_view("r", model="m", publish=publish), numbered)


def stage_states(view: RunView) -> dict[str, StageState]:
    return {stage.name: stage.state for stage in view.stages}


START = events.Started(run="r", pid=7)


def test_stages_go_from_waiting_through_running_to_done() -> None:
    view = view_of(START, events.Stage(name="prepare", state="started"))
    assert stage_states(view)["prepare"] is StageState.RUNNING
    view = view_of(
        START,
        events.Stage(name="prepare", state="started"),
        events.Stage(name="prepare", state="finished", seconds=1.0),
        events.Stage(name="train", state="started"),
    )
    assert stage_states(view) == {
        "prepare": StageState.DONE,
        "train": StageState.RUNNING,
        "export": StageState.WAITING,
        "verify": StageState.WAITING,
        "evaluate": StageState.WAITING,
    }


def test_a_later_phase_trains_as_the_first_one_does() -> None:
    ended = [
        events.Stage(name=name, state="finished", seconds=1.0)
        for name in ("prepare", "train", "prepare 2")
    ]
    view = view_of(START, *ended, events.Stage(name="train 2", state="started"), step(7))
    view = with_status(view, Status(RunState.RUNNING))
    assert list(stage_states(view))[:5] == ["prepare", "train", "prepare 2", "train 2", "export"]
    assert view.is_training
    assert "Training" in headline(view, log_file=Path("x"), quiet_seconds=0).text
    flood = (events.Stage(name=f"train {number}", state="skipped") for number in range(999))
    assert len(view_of(START, *flood).stages) < 99


def test_publishing_is_a_stage_only_of_runs_that_publish() -> None:
    assert "publish" not in stage_states(view_of(START))
    assert "publish" in stage_states(view_of(START, publish="mine"))


@pytest.mark.parametrize(
    ("end", "mark"),
    [("stopped", StageState.STOPPED), ("failed", StageState.FAILED)],
)
def test_the_stage_at_which_a_run_ended_is_marked(end: str, mark: StageState) -> None:
    view = view_of(
        START, events.Stage(name="train", state="started"), events.Finished(run="r", state=end)
    )
    assert view.over == RunState(end)
    assert stage_states(view)["train"] is mark


def test_a_new_worker_takes_back_that_the_run_failed() -> None:
    view = view_of(
        START,
        events.Stage(name="train", state="started"),
        events.Failed(code="disk_full", message="The disk is full.", hint="Free some."),
        events.Finished(run="r", state="failed"),
        events.Started(run="r", pid=8, resumed=True),
        events.Stage(name="prepare", state="skipped"),
        events.Stage(name="train", state="started"),
    )
    assert (view.over, view.failure) == (None, None)
    assert stage_states(view)["prepare"] is StageState.SKIPPED
    assert stage_states(view)["train"] is StageState.RUNNING


def test_figures_are_those_of_the_last_step() -> None:
    view = view_of(START, step(1), step(2), step(3))
    last = step(3)
    assert (view.step, view.total, view.loss) == (3, 200, last.loss)
    assert view.learning_rate == last.learning_rate
    assert view.eta_seconds == last.eta_seconds


def test_a_loss_that_is_no_number_is_not_drawn() -> None:
    view = view_of(START, step(1), replace(step(2), loss=None))
    assert view.loss is None
    assert [point.step for point in view.losses.all_points()] == [1]


def test_steps_that_are_trained_again_replace_those_of_before() -> None:
    again = [replace(step(number), loss=9.0) for number in (2, 3)]
    resumed = events.Started(run="r", pid=8, resumed=True)
    evals = [events.Eval(step=1, loss=3.0), events.Eval(step=3, loss=2.0)]
    view = view_of(START, step(1), evals[0], step(2), step(3), evals[1], step(4), resumed, *again)
    assert [point.step for point in view.losses.all_points()] == [1, 2, 3]
    assert [point.loss for point in view.losses.all_points()][1:] == [9.0, 9.0]
    assert view.evals == (LossPoint(1, 3.0),)


def test_reports_become_results() -> None:
    view = view_of(
        events.Report(kind="fidelity", figures=FIDELITY),
        events.Report(kind="evaluation", figures=EVALUATION),
        events.Sample(prompt="p", expected="e", base="b", tuned="t"),
        events.Finished(run="r", state="finished", artifacts=ARTIFACTS),
    )
    assert view.fidelity is not None
    assert view.fidelity.passed
    assert [(part.name, part.base, part.tuned) for part in view.sets] == [
        ("held-out rows", 0.04, 0.96),
        ("rows from templates never trained on", 0.0, 0.825),
    ]
    assert view.samples[0].tuned == "t"
    modelfile = view.artifact("modelfile")
    assert modelfile is not None
    assert modelfile.path.endswith("Modelfile")


@pytest.mark.parametrize(
    ("more", "words"), [({}, "the adapter"), ({"served_as": "merged"}, "the merged file")]
)
def test_the_proof_says_of_what_it_is(more: dict[str, str], words: str) -> None:
    for passed in (True, False):
        figures = FIDELITY | more | {"passed": passed, "reason": "too far"}
        view = view_of(events.Report(kind="fidelity", figures=figures))
        shown = " ".join(" ".join(line.plain for line in result_lines(view, 80)).split())
        assert (f"On 32 rows, llama.cpp with {words}" in shown) is passed
        assert (f"Do not use {words}." in shown) is not passed


def test_one_of_something_has_no_plural() -> None:
    assert [plural(count, "row") for count in (0, 1, 2, 1500)] == [
        "0 rows", "1 row", "2 rows", "1,500 rows",
    ]  # fmt: skip
    assert plural(None, "row") == "– rows"
    assert plural(1, "row holds", "rows hold") == "1 row holds"
    assert plural(2, "row holds", "rows hold") == "2 rows hold"
    rows = {"read": 1, "rejected": 1, "duplicates": 1}
    figures = {"rows": rows, "train": 1, "validation": 1, "test": 1, "shortened": 1}
    view = view_of(
        events.Report(kind="data", figures=figures),
        events.Report(kind="fidelity", figures=FIDELITY | {"rows": 1}),
        events.Sampled(step=1, answers=1),
    )
    shown = "\n".join(line.text for line in view.log)
    shown += "\n".join(line.plain for line in result_lines(view, 80))
    assert "1 row to train on" in shown
    assert "1 prompt answered" in shown
    assert "On 1 row," in shown
    assert not re.search(r"\b1 \w+s\b", shown)


def test_a_proof_that_is_not_passed_is_never_shown_as_passed() -> None:
    for passed in (False, None, "true", 1):
        figures = FIDELITY | {"passed": passed, "reason": "too far", "kl_mean": None}
        report = view_of(events.Report(kind="fidelity", figures=figures)).fidelity
        assert report is not None
        assert not report.passed


def test_text_from_outside_cannot_reach_the_terminal_raw() -> None:
    hostile = "\x1b[31mred\x07\u202e"
    view = view_of(
        events.Warn(code="w", message=hostile),
        events.Failed(code="c", message=hostile, hint=hostile),
        events.Sample(prompt=hostile, expected=hostile, base=hostile, tuned=hostile),
        events.Artifact(kind=hostile, path=hostile, sha256=hostile),
        events.Report(kind="evaluation", figures={"sets": [{"name": hostile}]}),
        events.Report(kind="fidelity", figures={"reason": hostile}),
        events.Report(kind="published", figures={"name": hostile}),
        events.Other(name=hostile, body={}),
    )
    # repr() writes what is raw as one backslash, and what was made visible as two.
    shown = repr(view)
    assert "\\\\x1b" in shown
    for raw in ("\\x1b", "\\x07", "\\u202e"):
        assert raw not in shown.replace(f"\\{raw}", "")


def test_a_token_in_a_message_is_not_shown() -> None:
    view = view_of(events.Warn(code="w", message="with hf_abcdefghijklmnop it fails"))
    assert view.log[-1].text == "with *** it fails"
    assert view.log[-1].level is Level.WARNING


def test_the_log_keeps_the_newest_lines() -> None:
    view = view_of(*(events.Checkpoint(step=n, path="x") for n in range(MAX_LOG_LINES + 50)))
    assert len(view.log) == MAX_LOG_LINES
    assert view.log[-1].text.endswith(f"step {MAX_LOG_LINES + 49}.")


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(ANYTHING, ANYTHING, st.sampled_from(["data", "fidelity", "evaluation", "published", "x"]))
def test_no_content_of_an_event_breaks_the_view(one: Any, two: Any, kind: str) -> None:
    view_of(
        events.Started(run=one, pid=two, model=one),
        events.Stage(name=one, state=two, seconds=one),
        events.Progress(stage=one, done=two, total=one, unit=two),
        replace(step(1), step=one, loss=two, total=one, epoch=two),
        events.Eval(step=one, loss=two),
        events.Checkpoint(step=one, path=two),
        events.Warn(code=one, message=two),
        events.Sample(prompt=one, expected=two, base=one, tuned=two),
        events.Report(kind=kind, figures=one),
        events.Artifact(kind=one, path=two, sha256=one),
        events.Failed(code=one, message=two, hint=one),
        events.Other(name=one, body={}),
        events.Finished(run=one, state=two, artifacts=one),
    )


def test_a_state_without_a_process_is_lost_until_the_events_say_how_it_ended() -> None:
    view = view_of(START, events.Stage(name="train", state="started"))
    lost = with_status(view, Status(state=RunState.LOST), asked=frozenset({Request.STOP}))
    assert lost.state is RunState.LOST
    assert not lost.stop_asked
    ended = reduce(view, [events.Finished(run="r", state="stopped", seq=9)])
    assert with_status(ended, Status(state=RunState.LOST)).state == "stopped"


def test_a_long_history_keeps_its_shape_in_few_points() -> None:
    losses = LossHistory().extended(LossPoint(n, 1000 - n / 50) for n in range(1, 50_001))
    points = losses.all_points()
    assert MAX_POINTS // 2 <= len(points) <= MAX_POINTS
    assert points[0].step < 100
    assert points[-1].step > 49_900
    assert all(abs(point.loss - (1000 - point.step / 50)) < 0.01 for point in points)


def test_it_makes_no_difference_in_which_parts_a_history_comes() -> None:
    points = [LossPoint(n, n % 17) for n in range(1, 6_000)]
    piecewise = LossHistory()
    for at in range(0, len(points), 37):
        piecewise = piecewise.extended(points[at : at + 37])
    assert piecewise == LossHistory().extended(points)


def test_smoothing_leaves_a_constant_alone_and_starts_at_the_first_loss() -> None:
    flat = tuple(LossPoint(n, 2.0) for n in range(500))
    assert all(abs(point.loss - 2.0) < 1e-9 for point in smoothed(flat))
    assert smoothed((LossPoint(1, 7.0), *flat))[0].loss == pytest.approx(7.0)


def test_an_old_run_of_fifty_thousand_steps_opens_fast(running: RunBuilder) -> None:
    with running.run.events_file.open("a", encoding="utf-8") as file:
        for number in range(121, 50_001):
            event = replace(step(number, 50_000), seq=1_000 + number, t=float(number))
            file.write(event.to_json() + "\n")
    began = time.process_time()
    view = RunFeed(running.run).read()
    assert time.process_time() - began < 5.0
    assert view.step == 50_000
    assert len(view.losses.points) <= MAX_POINTS


def long_run(builder: RunBuilder, steps: int) -> None:
    """Write a run so long that nobody reads every step of it: with an eval every thousand."""
    with builder.run.events_file.open("a", encoding="utf-8") as file:
        for number in range(1, steps + 1):
            seq = 10_000 + 2 * number
            event = replace(step(number, steps), seq=seq, t=float(number))
            file.write(event.to_json() + "\n")
            if number % 1000 == 0:
                found = events.Eval(seq=seq + 1, t=float(number), step=number, loss=0.5)
                file.write(found.to_json() + "\n")


def test_a_run_of_days_is_shown_at_once_and_then_whole() -> None:
    builder = RunBuilder("days")
    builder.begin()
    long_run(builder, 60_000)
    feed = RunFeed(builder.run)
    began = time.process_time()
    first = feed.read()
    assert time.process_time() - began < 1.0
    assert (first.step, first.total) == (60_000, 60_000)
    assert first.data is not None, "what stands at the beginning is known"
    assert first.losses.all_points()[0].step < 100
    assert len(first.losses.all_points()) > 500

    whole = feed.read()
    assert [point.step for point in whole.evals] == [1000.0 * n for n in range(1, 61)]
    assert whole.step == 60_000
    assert len(whole.losses.all_points()) <= MAX_POINTS + 1
    for view in (first, whole):
        at = min(view.losses.all_points(), key=lambda point: abs(point.step - 30_000))
        assert at.loss == pytest.approx(0.25 + 100 / 30_030, abs=0.2)

    builder.write(replace(step(60_001), seq=0))
    assert feed.read().step == 60_000  # its number says that it is an old one
    with builder.run.events_file.open("a", encoding="utf-8") as file:
        file.write(replace(step(60_001), seq=200_000, t=1e5).to_json() + "\n")
    assert feed.read().step == 60_001


def test_of_a_long_run_no_event_but_steps_is_passed_over() -> None:
    builder = RunBuilder("mixed")
    builder.begin()
    text = '"type": "step"'
    for number in range(1, 2001):
        builder.write(step(number, 2000))
        if number % 7 == 0:
            builder.write(events.Warn(code="w", message=f"{number} {text}"))
    found = [event for part in EventTail(builder.run).catch_up(most_steps=50) for event in part]
    warned = [event for event in found if isinstance(event, events.Warn)]
    assert [event.message.split()[0] for event in warned] == [str(7 * n) for n in range(1, 286)]
    steps = [event.step for event in found if isinstance(event, events.Step)]
    assert steps[0] == 1
    assert steps[-1] == 2000
    assert len(steps) < 1000
    assert steps == sorted(steps)
