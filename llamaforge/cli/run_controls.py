"""`llamaforge runs pause`, `save` and `sample`: a wish for a running worker, and its answer.

Ctrl-C while waiting ends the waiting alone: what was asked for is done all the same.
"""

import argparse
from collections.abc import Iterator
from typing import Final

from llamaforge.cli.launching import last_seq
from llamaforge.cli.output import narrate, print_json, print_text
from llamaforge.cli.progress import SignsOfLife
from llamaforge.errors import ExitCode, LlamaForgeError, RefusedError
from llamaforge.runs import control, events
from llamaforge.runs.directory import LIVE_STATES, RunDirectory, RunState, open_run
from llamaforge.runs.tail import follow
from llamaforge.safe_text import safe_line, safe_text

LIVE: Final = LIVE_STATES
_SHOWN_CHARACTERS: Final = 2_000


def pause(arguments: argparse.Namespace) -> ExitCode:
    """Let a run save a checkpoint and wait, with everything kept in memory.

    Raises:
        RefusedError: it does not run, or is paused already.
        LlamaForgeError: it ended before it paused.
    """
    run = open_run(arguments.run_name)
    if _live_state(run) is RunState.PAUSED:
        raise RefusedError(
            f"The run {run.id} is paused already.",
            f"Go on with it: llamaforge runs resume {run.id}",
            code="run_paused",
        )
    before = last_seq(run)
    control.ask(run, control.Request.PAUSE)
    for event in _new_events(run, before, "Waiting for the worker to finish its step …"):
        if isinstance(event, events.Paused):
            if arguments.json:
                print_json({"run": run.id, "state": "paused", "step": event.step})
            else:
                print_text(
                    f"The run {run.id} is paused after step {event.step:,}. Go on with: "
                    f"llamaforge runs resume {run.id}"
                )
            return ExitCode.DONE
    control.withdraw(run, control.Request.PAUSE)
    raise _over(run, "paused")


def unpause(run: RunDirectory) -> None:
    """Let a paused run go on, and wait until it does.

    Raises:
        RefusedError: it waits for something else than a person.
    """
    status = run.read_status()
    if not control.is_asked(run, control.Request.PAUSE):
        raise RefusedError(
            safe_line(status.message or f"The run {run.id} waits.", limit=400),
            "Free some space there.",
            code="waiting",
        )
    before = last_seq(run)
    control.withdraw(run, control.Request.PAUSE)
    for event in follow(run, after_seq=before):
        if isinstance(event, events.Resumed):
            return


def save(arguments: argparse.Namespace) -> ExitCode:
    """Let a run save a checkpoint now and go on.

    Raises:
        RefusedError: it does not run, or does not train at present.
        LlamaForgeError: it ended before it did.
    """
    run = open_run(arguments.run_name)
    _require_training(run, "saved")
    before = last_seq(run)
    control.ask(run, control.Request.SAVE)
    for event in _new_events(run, before, "Waiting for the worker to finish its step …"):
        if isinstance(event, events.Checkpoint):
            if arguments.json:
                print_json({"run": run.id, "step": event.step, "path": event.path})
            else:
                print_text(f"Step {event.step:,} is saved: {safe_line(event.path)}")
            return ExitCode.DONE
        if _is_trained(event):
            break
    control.withdraw(run, control.Request.SAVE)
    raise _over(run, "saved")


def sample(arguments: argparse.Namespace) -> ExitCode:
    """Let a run answer some prompts as it is now, beside what it answered before training.

    Raises:
        RefusedError: it does not run, or does not train at present.
        LlamaForgeError: it ended before it did.
    """
    run = open_run(arguments.run_name)
    _require_training(run, "asked")
    before = last_seq(run)
    control.ask_samples(run, arguments.prompts)
    answers: list[events.Sample] = []
    for event in _new_events(run, before, "Waiting for the worker to finish its step …"):
        match event:
            case events.Sample():
                answers.append(event)
            case events.Warn(code="probe_prompt" | "no_probe_prompts"):
                raise RefusedError(event.message, code=event.code)
            case events.Sampled():
                _print_answers(arguments, answers)
                return ExitCode.DONE
            case _:
                pass
        if _is_trained(event):
            break
    control.withdraw(run, control.Request.SAMPLE)
    raise _over(run, "asked")


def _print_answers(arguments: argparse.Namespace, answers: list[events.Sample]) -> None:
    if arguments.json:
        print_json(
            [
                {
                    "prompt": item.prompt,
                    "expected": item.expected,
                    "base": item.base,
                    "tuned": item.tuned,
                    "step": item.step,
                    "cut": item.cut,
                }
                for item in answers
            ]
        )
        return
    for item in answers:
        print_text("")
        parts = [("asked", item.prompt), ("expected", item.expected), ("before", item.base)]
        for label, text in (*parts, ("now", item.tuned)):
            if text or label != "expected":
                shown = safe_text(text.strip(), limit=_SHOWN_CHARACTERS) or "(nothing)"
                print_text(f"{label}: {shown}")
        if item.cut:
            narrate("An answer was cut: it took too many tokens or too long.")


def _live_state(run: RunDirectory) -> RunState:
    state = run.read_status().state
    if state not in LIVE:
        raise RefusedError(
            f"The run {run.id} is not running: it is {state.value}.",
            "See: llamaforge runs list",
            code="not_running",
        )
    return state


def _require_training(run: RunDirectory, what: str) -> None:
    _live_state(run)
    stage = run.read_status().stage
    if not events.is_training(stage):
        raise RefusedError(
            f"The run {run.id} cannot be {what} now: it is not at its training but at "
            f"{safe_line(stage, limit=40) or 'its beginning'}.",
            f"Watch it: llamaforge runs attach {run.id}",
            code="not_training",
        )


def _new_events(run: RunDirectory, after_seq: int, waiting: str) -> Iterator[events.Event]:
    """Yield what the worker does from now on, until it is over; say once that it takes a while."""
    is_told = False
    life = SignsOfLife(run)
    for event in follow(run, after_seq=after_seq):
        if said := life.look():
            narrate(said)
        if event is not None:
            yield event
        elif not is_told:
            is_told = True
            narrate(waiting)


def _is_trained(event: events.Event) -> bool:
    return (
        isinstance(event, events.Stage)
        and events.is_training(event.name)
        and event.state == "finished"
    )


def _over(run: RunDirectory, what: str) -> LlamaForgeError:
    state = run.read_status().state
    how = "its training ended first" if state in LIVE else f"it is {state.value}"
    return LlamaForgeError(
        f"The run {run.id} could not be {what}: {how}.",
        f"See: llamaforge runs show {run.id}",
        code="run_over",
    )
