"""From a run's events to its view: a pure function."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from llamaforge.runs import events
from llamaforge.runs.control import Request
from llamaforge.runs.directory import RunState, Status
from llamaforge.safe_text import redact, safe_line, safe_text
from llamaforge.tui.loss_history import LossPoint
from llamaforge.tui.pace import Pace
from llamaforge.tui.reports import data_report, evaluation_report, fidelity_report
from llamaforge.tui.run_view import (
    ArtifactView,
    Failure,
    Level,
    LogLine,
    RunView,
    SampleView,
    StageState,
    StageView,
)
from llamaforge.words import duration_words, loss_words, number, plural, whole

MAX_LOG_LINES: Final = 300
MAX_SAMPLES: Final = 20
MAX_PROBES: Final = 20
MAX_EVALS: Final = 512
_PACE_STEPS: Final = 256
_TEXT_LIMIT: Final = 2_000
_OF_A_PHASE: Final = frozenset({"prepare", "train"})
_MOST_STAGES: Final = 64


def reduce(view: RunView, new: Iterable[events.Event]) -> RunView:
    """Return `view` after the events `new`, which follow those that it already holds."""
    for kind, group in itertools.groupby(new, type):
        batch = list(group)
        if kind is events.Step:
            view = _after_steps(view, [item for item in batch if isinstance(item, events.Step)])
        else:
            for event in batch:
                view = _HANDLERS[type(event)](view, event)
        view = replace(view, seq=batch[-1].seq, t=number(batch[-1].t) or view.t)
    return view


def with_status(
    view: RunView, status: Status, *, asked: frozenset[Request] = frozenset()
) -> RunView:
    """Return `view` with the state that the run's files say it is in.

    The events outrank `state.json`, which is written a moment later; only whether a process is
    behind the run cannot be read from them.
    """
    state = view.over or status.state
    if state is RunState.CREATED and view.seq > 0:
        state = RunState.RUNNING
    if state in {RunState.RUNNING, RunState.PAUSED}:
        state = RunState.PAUSED if view.waits else RunState.RUNNING
    if state is RunState.LOST:
        view = replace(view, stages=_ended(view.stages, StageState.STOPPED))
    is_live = state in {RunState.RUNNING, RunState.PAUSED}
    trouble = safe_line(str(status.message), limit=400) if state is RunState.RUNNING else ""
    return replace(
        view, state=state, asked=asked if is_live else frozenset(), trouble=redact(trouble)
    )


def _after_steps(view: RunView, steps: list[events.Step]) -> RunView:
    last = steps[-1]
    pace = [
        (at, seconds)
        for item in steps[-_PACE_STEPS:]
        if (at := whole(item.step)) is not None and (seconds := number(item.t)) is not None
    ]
    step = whole(last.step) or 0
    return replace(
        view,
        step=step,
        total=whole(last.total) or 0,
        epoch=number(last.epoch),
        loss=number(last.loss),
        learning_rate=number(last.learning_rate),
        tokens_per_second=number(last.tokens_per_second),
        memory_bytes=number(last.memory_bytes),
        eta_seconds=number(last.eta_seconds),
        grad_norm=number(last.grad_norm),
        pace=view.pace.extended(pace),
        losses=view.losses.extended(_points(steps, "loss")),
        rates=view.rates.extended(_points(steps, "learning_rate")),
        norms=view.norms.extended(_points(steps, "grad_norm")),
        speeds=view.speeds.extended(_points(steps, "tokens_per_second")),
        evals=_evals_before(view.evals, number(steps[0].step) or 0.0),
    )


def _points(steps: list[events.Step], name: str) -> list[LossPoint]:
    return [
        LossPoint(number(item.step) or 0.0, value)
        for item in steps
        if (value := number(getattr(item, name))) is not None
    ]


def _evals_before(evals: tuple[LossPoint, ...], step: float) -> tuple[LossPoint, ...]:
    """Return `evals` of earlier steps: a run that goes on from a checkpoint measures anew."""
    if not evals or evals[-1].step < step:
        return evals
    return tuple(point for point in evals if point.step < step)


def _after_start(view: RunView, event: events.Started) -> RunView:
    words = "The worker goes on with the run" if event.resumed else "The worker started"
    view = replace(
        view,
        over=None,
        failure=None,
        waits="",
        pause_reason="",
        pace=Pace(),
        stages=_ended(view.stages, StageState.WAITING),
        model=view.model or safe_line(str(event.model), limit=120),
    )
    return _noted(view, event, f"{words} (process {event.pid}).")


def _after_progress(view: RunView, event: events.Progress) -> RunView:
    done, total = whole(event.done) or 0, whole(event.total) or 0
    unit = safe_line(str(event.unit), limit=40)
    return _with_stage(view, str(event.stage), None, done=done, total=total, unit=unit)


def _after_checkpoint(view: RunView, event: events.Checkpoint) -> RunView:
    view = replace(view, checkpoint_step=whole(event.step))
    return _noted(view, event, f"Checkpoint saved at step {_count(event.step)}.")


def _after_warning(view: RunView, event: events.Warn) -> RunView:
    return _noted(view, event, str(event.message), Level.WARNING)


def _after_sample(view: RunView, event: events.Sample) -> RunView:
    texts = (event.prompt, event.expected, event.base, event.tuned)
    prompt, expected, base, tuned = (safe_text(str(text), limit=_TEXT_LIMIT) for text in texts)
    step = whole(event.step)
    sample = SampleView(prompt, expected, base, tuned, step, event.cut is True)
    if step is not None:
        others = tuple(item for item in view.probes if item.prompt != prompt)
        return replace(view, probes=(*others, sample)[-MAX_PROBES:])
    return replace(view, samples=(*view.samples, sample)[-MAX_SAMPLES:])


def _after_sampled(view: RunView, event: events.Sampled) -> RunView:
    prompts = plural(whole(event.answers), "prompt")
    words = f"{prompts} answered at step {_count(event.step)}."
    return _noted(replace(view, sampled_step=whole(event.step)), event, words)


def _after_pause(view: RunView, event: events.Paused) -> RunView:
    why = safe_line(redact(str(event.message)), limit=_TEXT_LIMIT) or "It is paused."
    view = replace(view, waits=why, pause_reason=safe_line(str(event.reason), limit=40))
    words = f"Paused after step {_count(event.step)}." if event.reason == "asked" else why
    return _noted(view, event, words, Level.WARNING)


def _after_resume(view: RunView, event: events.Resumed) -> RunView:
    waited = duration_words(number(event.seconds))
    view = replace(view, waits="", pause_reason="", pace=Pace())
    return _noted(view, event, f"The run goes on after a pause of {waited}.")


def _after_artifact(view: RunView, event: events.Artifact) -> RunView:
    made = _artifact(event.kind, event.path, event.sha256)
    others = tuple(item for item in view.artifacts if item.kind != made.kind)
    return replace(view, artifacts=(*others, made))


def _after_failure(view: RunView, event: events.Failed) -> RunView:
    failure = Failure(
        code=safe_line(str(event.code), limit=40),
        message=safe_line(redact(str(event.message)), limit=_TEXT_LIMIT),
        hint=safe_line(redact(str(event.hint)), limit=_TEXT_LIMIT),
    )
    return _noted(replace(view, failure=failure), event, failure.message, Level.ERROR)


def _after_other(view: RunView, event: events.Other) -> RunView:
    return _noted(view, event, f"An event that a newer version knows: {event.name}")


def _after_stage(view: RunView, event: events.Stage) -> RunView:
    name = safe_line(str(event.name), limit=40)
    view = _with_phase(view, name)
    match event.state:
        case "started":
            view = _with_stage(view, name, StageState.RUNNING)
            # The samples of a stage that is carried out again take the place of the old ones.
            return replace(view, samples=()) if name == "evaluate" else view
        case "finished":
            view = _with_stage(view, name, StageState.DONE)
            seconds = number(event.seconds)
            after = "" if seconds is None else f" after {duration_words(seconds)}"
            return _noted(view, event, f"Stage {name} finished{after}.")
        case "skipped":
            known = any(stage.name == name for stage in view.stages)
            view = _with_stage(view, name, StageState.SKIPPED)
            return _noted(view, event, f"Stage {name} was done already.") if known else view
        case _:
            return view


def _after_eval(view: RunView, event: events.Eval) -> RunView:
    loss = number(event.loss)
    if loss is None:
        return _noted(view, event, "The held-out loss is not a number.", Level.WARNING)
    point = LossPoint(number(event.step) or 0.0, loss)
    kept = _evals_before(view.evals, point.step)
    if len(kept) >= MAX_EVALS:  # every second one shows the same shape
        kept = kept[::2]
    view = replace(view, eval_loss=loss, evals=(*kept, point))
    return _noted(view, event, f"Held-out loss {loss_words(loss)} at step {_count(event.step)}.")


def _after_report(view: RunView, event: events.Report) -> RunView:
    match event.kind:
        case "data":
            data = data_report(event.figures)
            words = (
                f"{plural(data.train, 'row')} to train on, {_count(data.validation)} to validate, "
                f"{_count(data.test)} to test; {_count(data.rejected)} rejected, "
                f"{plural(data.duplicates, 'duplicate')}, "
                f"{_count(data.shortened)} shortened."
            )
            return _noted(replace(view, data=data), event, words)
        case "fidelity":
            fidelity = fidelity_report(event.figures)
            words = "does what the trained one does" if fidelity.passed else "differs from training"
            level = Level.NOTE if fidelity.passed else Level.WARNING
            view = replace(view, fidelity=fidelity)
            return _noted(view, event, f"The served model {words}.", level)
        case "evaluation":
            return replace(view, sets=evaluation_report(event.figures))
        case "published":
            name = event.figures.get("name") if isinstance(event.figures, dict) else None
            published = safe_line(str(name or ""), limit=120)
            return _noted(replace(view, published=published), event, f"Published as {published}.")
        case _:
            return view


def _after_end(view: RunView, event: events.Finished) -> RunView:
    try:
        over = RunState(event.state)
    except ValueError:
        return view
    listed = event.artifacts if isinstance(event.artifacts, list) else []
    made = tuple(
        _artifact(item.get("kind"), item.get("path"), item.get("sha256"))
        for item in listed
        if isinstance(item, dict)
    )
    end = StageState.FAILED if over is RunState.FAILED else StageState.STOPPED
    view = replace(view, over=over, artifacts=made or view.artifacts, eta_seconds=None)
    view = replace(view, waits="", pause_reason="")
    view = replace(view, stages=_ended(view.stages, end))
    return _noted(view, event, f"The run {_END_WORDS.get(over, 'ended')}.")


_END_WORDS: Final = {
    RunState.FINISHED: "finished",
    RunState.STOPPED: "stopped as asked",
    RunState.FAILED: "failed",
}


def _artifact(kind: object, path: object, sha256: object) -> ArtifactView:
    return ArtifactView(
        kind=safe_line(str(kind), limit=40),
        path=safe_line(str(path), limit=1_000),
        sha256=safe_line(str(sha256), limit=64),
    )


def _ended(stages: tuple[StageView, ...], state: StageState) -> tuple[StageView, ...]:
    """Return `stages` with those that are neither to come nor done put into `state`."""
    open_states = {StageState.RUNNING, StageState.STOPPED, StageState.FAILED}
    return tuple(
        replace(stage, state=state) if stage.state in open_states else stage for stage in stages
    )


def _with_stage(
    view: RunView,
    name: str,
    state: StageState | None,
    *,
    done: int = 0,
    total: int = 0,
    unit: str = "",
) -> RunView:
    """Return `view` with one stage's progress, and its state where one is given."""
    stages = tuple(
        StageView(name, state or stage.state, done, total, unit) if stage.name == name else stage
        for stage in view.stages
    )
    return replace(view, stages=stages)


def _with_phase(view: RunView, name: str) -> RunView:
    """Return `view` with the stage of a later phase, such as `train 2`, behind those before it."""
    kind, _, phase = name.partition(" ")
    names = [stage.name for stage in view.stages]
    if not phase.isdecimal() or kind not in _OF_A_PHASE or name in names:
        return view
    if len(names) >= _MOST_STAGES:
        return view
    place = sum(other.split(" ")[0] in _OF_A_PHASE for other in names)  # they come first
    return replace(view, stages=(*view.stages[:place], StageView(name), *view.stages[place:]))


def _noted(view: RunView, event: events.Event, text: str, level: Level = Level.NOTE) -> RunView:
    line = LogLine(number(event.t) or 0.0, level, safe_line(redact(text), limit=_TEXT_LIMIT))
    return replace(view, log=(*view.log, line)[-MAX_LOG_LINES:])


def _count(value: object) -> str:
    found = whole(value)
    return "–" if found is None else f"{found:,}"


_HANDLERS: Final[dict[type[events.Event], Callable[[RunView, Any], RunView]]] = {
    events.Started: _after_start,
    events.Stage: _after_stage,
    events.Progress: _after_progress,
    events.Eval: _after_eval,
    events.Checkpoint: _after_checkpoint,
    events.Warn: _after_warning,
    events.Sample: _after_sample,
    events.Report: _after_report,
    events.Sampled: _after_sampled,
    events.Paused: _after_pause,
    events.Resumed: _after_resume,
    events.Artifact: _after_artifact,
    events.Failed: _after_failure,
    events.Finished: _after_end,
    events.Other: _after_other,
}
